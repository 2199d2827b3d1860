"""The sync worker's jobs: sync one merchant, and look for what is due, forgotten or left behind."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from time import perf_counter
from typing import Any
from uuid import UUID

from app import metrics
from app.config import Settings
from app.db import is_unavailable, transaction
from app.logs import bound_request_id, request_id_var
from app.models import SyncStatus
from app.services.sync import feeds, runs, staging
from app.services.sync.apply import Changes, apply_staged, count_live
from app.services.sync.checkpoint import Checkpoint
from app.services.sync.errors import BrokenOffError, FeedError, FetchError
from app.services.sync.pace import reserve_call
from app.services.sync.runs import Claim, ClaimLostError
from app.services.sync.stream import Batch, Version, stream_feed
from app.services.sync.tally import Tally
from app.workers.tasks import uninterrupted

logger = logging.getLogger(__name__)

# How often progress is shown; a heartbeat counts as lost after thirty of them (`runs.STALE`).
_HEARTBEAT_SECONDS = 1.0
# Each keeps a core of the database busy; more at a time end no sooner and slow everybody else down.
_APPLIES_AT_ONCE = 2
_STATEMENT_SECONDS = 600
_GOODBYE_SECONDS = 5.0


def merchant_sync(settings: Settings) -> Callable[[str], Coroutine[Any, Any, None]]:
    """Return the job `sync_merchant` of one worker process."""
    applying = asyncio.Semaphore(_APPLIES_AT_ONCE)

    async def sync_merchant(run_id: str) -> None:
        """Sync a run's merchant, unless the run is done or somebody else's."""
        async with transaction() as session:
            claim = await runs.claim(session, run_id=UUID(run_id), settings=settings)
        if claim is not None:
            with bound_request_id(claim.request_id or request_id_var.get()):
                await _work(settings, claim, applying)

    return sync_merchant


async def queue_due_syncs() -> int:
    """Queue a sync for each merchant whose feed is due."""
    async with transaction() as session:
        return await feeds.queue_due(session, request_id=request_id_var.get())


async def sweep_syncs() -> int:
    """Ring for syncs whose ring or worker was lost."""
    async with transaction() as session:
        return await runs.ring_forgotten(session)


async def clear_abandoned_staging() -> int:
    """Remove staged rows that no sync will use."""
    async with transaction() as session:
        return await staging.clear_abandoned(session)


async def _work(settings: Settings, claim: Claim, applying: asyncio.Semaphore) -> None:
    started = perf_counter()
    limits = claim.feed.limits
    about = {"run_id": str(claim.run_id), "merchant_id": claim.feed.merchant_id}
    tally = Tally(max_rows=limits.max_rows)
    limit = asyncio.timeout(limits.max_seconds)
    logger.info("sync started", extra=about | {"from_page": claim.resume.page if claim.resume else 0})
    try:
        async with limit:
            changes = await _sync(settings, claim, tally, applying)
    except asyncio.CancelledError:
        # The process stops. Whoever reads this first goes on at once; without it, the sweep notices in half a minute.
        await uninterrupted(_put_back(claim, None))
        logger.info("sync put back", extra=about)
        raise
    except ClaimLostError:
        logger.warning("sync abandoned: another worker has it", extra=about)
    except BrokenOffError as error:
        # The whole file once more, when the sweep comes by.
        await _put_back(claim, str(error))
        logger.warning("sync put back", extra=about | {"reason": str(error)})
    except FeedError as error:
        await _fail(claim, tally, str(error))
    except Exception as error:
        if limit.expired():
            limited = f"The sync took longer than {limits.max_seconds} s (its max_seconds, or FEED_MAX_SECONDS)."
            await _fail(claim, tally, limited)
            return
        cause = "The database did not answer" if is_unavailable(error) else f"An unexpected {type(error).__name__}"
        await uninterrupted(_put_back(claim, f"{cause}; the worker's log has more under this run's request id."))
        raise
    else:
        counts = {"created": changes.created, "updated": changes.updated, "unchanged": changes.unchanged}
        counts |= {"removed": changes.removed, "rejected": tally.rejected}
        for outcome, count in counts.items():
            metrics.SYNC_ROWS.labels(outcome).inc(count)
        metrics.SYNC_RUNS.labels(SyncStatus.SUCCEEDED.value).inc()
        logger.info("sync done", extra=about | {"offers": counts, "seconds": round(perf_counter() - started, 3)})


async def _sync(settings: Settings, claim: Claim, tally: Tally, applying: asyncio.Semaphore) -> Changes:
    async with AsyncExitStack() as stack:
        async with _alive(claim, tally):
            version = await _stream(settings, claim, tally)
            if version is not None:
                await stack.enter_async_context(applying)
        session = await stack.enter_async_context(transaction())
        run = await runs.lock(session, claim=claim)
        if version is None:
            live = await count_live(session, merchant_id=claim.feed.merchant_id)
            changes = Changes(unchanged=live)
            tally.restore(fetched=live)
            await staging.clear(session, run_id=claim.run_id)
        else:
            changes = await apply_staged(
                session,
                feed=claim.feed,
                run_id=claim.run_id,
                tally=tally,
                timeout_seconds=min(claim.feed.limits.max_seconds, _STATEMENT_SECONDS),
            )
        await runs.succeed(session, run=run, claim=claim, changes=changes, tally=tally, version=version)
    return changes


async def _stream(settings: Settings, claim: Claim, tally: Tally) -> Version | None:
    """Stage the feed, from where a worker before this one had to stop if that is still possible."""
    resume = claim.resume
    if resume is not None:
        tally.restore(
            rows=resume.rows,
            fetched=resume.fetched,
            rejected=resume.rejected,
            deletions=resume.deletions,
            samples=resume.samples,
        )
        try:
            return await _stream_from(resume, settings, claim, tally)
        except FetchError as error:
            if tally.rows > resume.rows:
                raise
            # The address of a page may hold for a while only.
            logger.warning("sync begins anew", extra={"run_id": str(claim.run_id), "reason": str(error)})
            async with transaction() as session:
                (await runs.lock(session, claim=claim)).checkpoint = None
                await staging.clear(session, run_id=claim.run_id)
            tally.restore()
    return await _stream_from(None, settings, claim, tally)


async def _stream_from(resume: Checkpoint | None, settings: Settings, claim: Claim, tally: Tally) -> Version | None:
    async def store(batch: Batch) -> None:
        async with transaction() as session:
            run = await runs.lock(session, claim=claim)
            await staging.copy_rows(session, rows=batch.rows)
            if batch.checkpoint is not None:
                run.checkpoint = batch.checkpoint.sealed(settings)

    async def pace(host: str) -> None:
        if (calls := claim.feed.limits.calls_a_minute) is not None:
            async with transaction() as session:
                seconds = await reserve_call(session, host=host, calls_a_minute=calls)
            await asyncio.sleep(seconds)

    return await stream_feed(
        claim.feed, run_id=claim.run_id, settings=settings, tally=tally, store=store, resume=resume, pace=pace
    )


@asynccontextmanager
async def _alive(claim: Claim, tally: Tally) -> AsyncIterator[None]:
    """Beat while the block runs. When the claim is lost, the block is ended with ClaimLostError."""
    worker = asyncio.current_task()
    lost = False

    async def beat() -> None:
        nonlocal lost
        while not lost:
            await asyncio.sleep(_HEARTBEAT_SECONDS)
            try:
                async with transaction() as session:
                    await runs.beat(session, claim=claim, tally=tally)
            except ClaimLostError:
                lost = True
            except Exception as error:  # noqa: BLE001 - one missed beat is no reason to stop; the claim is what counts
                logger.warning("heartbeat missed", extra={"run_id": str(claim.run_id), "error": type(error).__name__})
        if worker is not None:
            worker.cancel()

    beating = asyncio.create_task(beat(), name="heartbeat")
    try:
        yield
    except asyncio.CancelledError:
        if lost and worker is not None and worker.uncancel() == 0:
            raise ClaimLostError from None
        raise
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating


async def _fail(claim: Claim, tally: Tally, reason: str) -> None:
    try:
        async with transaction() as session:
            await runs.fail(session, claim=claim, tally=tally, error=reason)
    except ClaimLostError:
        return
    metrics.SYNC_RUNS.labels(SyncStatus.FAILED.value).inc()
    metrics.SYNC_ROWS.labels("rejected").inc(tally.rejected)
    logger.warning(
        "sync failed",
        extra={
            "run_id": str(claim.run_id),
            "merchant_id": claim.feed.merchant_id,
            "reason": reason,
            "fetched": tally.fetched,
            "rejected": tally.rejected,
        },
    )


async def _put_back(claim: Claim, error: str | None) -> None:
    try:
        async with asyncio.timeout(_GOODBYE_SECONDS), transaction() as session:
            await runs.put_back(session, claim=claim, error=error)
    except ClaimLostError:
        pass
    except Exception as failure:  # noqa: BLE001 - the sweep finds the run by its old heartbeat
        logger.warning("sync not put back", extra={"run_id": str(claim.run_id), "error": type(failure).__name__})
