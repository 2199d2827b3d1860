"""The life of a sync run: asked for, claimed, kept alive, and ended; every step one statement or one short transaction.

A claim is an attempt id on the run's row. Whatever a worker writes is tied to it, staged rows included, so one that was
taken for dead and wakes up again changes nothing. What a lost worker had staged of a feed of pages is gone on with.
"""

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Select, and_, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app import metrics
from app.config import Settings
from app.db import ring_after_commit
from app.errors import ConflictError, NotFoundError
from app.ids import new_id
from app.models import Feed, Merchant, MerchantStatus, SyncRun, SyncStatus
from app.services.catalogue import MerchantNotFoundError
from app.services.pagination import cut_page, decode_cursor, encode_cursor
from app.services.sync import staging
from app.services.sync.apply import Changes
from app.services.sync.checkpoint import Checkpoint, is_fresh, staged_rows
from app.services.sync.definition import FeedDefinition
from app.services.sync.stream import Version
from app.services.sync.tally import Tally

logger = logging.getLogger(__name__)

TASK = "sync_merchant"
# A running run whose heartbeat is older has lost its worker.
STALE = timedelta(seconds=30)
# A queued run that is older was not rung for, or its ring was lost.
FORGOTTEN = timedelta(seconds=10)
MAX_TRIES = 3
_MOST_RINGS = 100
# The predicate of uq_sync_runs_unfinished, without parameters: PostgreSQL could not tell that it is the same in a
# prepared statement's generic plan, and refuses ON CONFLICT then.
_UNFINISHED = text("status IN ('queued', 'running')")


class ClosedMerchantSyncError(ConflictError):
    """A closed merchant's feed is not synced."""

    code = "closed_merchant_sync"
    title = "Merchant closed"

    def __init__(self, merchant_id: int) -> None:
        super().__init__(f"Merchant {merchant_id} is closed; its feed is not synced.")


class MerchantHasNoFeedError(ConflictError):
    """There is nothing to sync."""

    code = "merchant_has_no_feed"
    title = "No feed"

    def __init__(self, merchant_id: int) -> None:
        super().__init__(
            f"Merchant {merchant_id} has no feed; set one with PUT /v1/admin/merchants/{merchant_id}/feed."
        )


class SyncJobNotFoundError(NotFoundError):
    """No run has this id."""

    code = "sync_job_not_found"
    title = "Sync job not found"

    def __init__(self, job_id: UUID) -> None:
        super().__init__(f"There is no sync job {job_id}.")


class ClaimLostError(Exception):
    """Another worker has this run now; what was done for it so far is void."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One worker's right to work on a run."""

    run_id: UUID
    attempt_id: UUID
    request_id: str | None
    feed: FeedDefinition
    # Where to go on, when a worker before was lost in the middle of a feed of pages.
    resume: Checkpoint | None = None


async def request_sync(session: AsyncSession, *, merchant_id: int, request_id: str | None) -> SyncRun:
    """Return the merchant's unfinished run, a new one when there is none, and ring for it.

    Raises MerchantNotFoundError, ClosedMerchantSyncError, MerchantHasNoFeedError.
    """
    row = (
        await session.execute(
            select(Merchant.status, Feed.merchant_id).outerjoin(Feed).where(Merchant.id == merchant_id)
        )
    ).one_or_none()
    if row is None:
        raise MerchantNotFoundError(merchant_id)
    if row.status is MerchantStatus.CLOSED:
        raise ClosedMerchantSyncError(merchant_id)
    if row.merchant_id is None:
        raise MerchantHasNoFeedError(merchant_id)
    run = await queue_run(session, merchant_id=merchant_id, request_id=request_id)
    if run.status is SyncStatus.QUEUED:
        ring_after_commit(session, TASK, str(run.id))
    return run


async def queue_run(session: AsyncSession, *, merchant_id: int, request_id: str | None) -> SyncRun:
    """Add a queued run, or return the unfinished one. The partial unique index decides, however many ask at once."""
    new = (
        insert(SyncRun)
        .values(id=new_id(), merchant_id=merchant_id, status=SyncStatus.QUEUED, request_id=request_id)
        .on_conflict_do_nothing(index_elements=[SyncRun.merchant_id], index_where=_UNFINISHED)
        .returning(SyncRun)
    )
    unfinished = select(SyncRun).where(SyncRun.merchant_id == merchant_id, _UNFINISHED)
    while True:
        # Between the two statements the unfinished run may end; then there is room for a new one.
        for statement in (new, unfinished):
            run: SyncRun | None = await session.scalar(statement)
            if run is not None:
                return run


async def get_run(session: AsyncSession, *, job_id: UUID) -> SyncRun:
    """Return a run. Raises SyncJobNotFoundError."""
    run = await session.get(SyncRun, job_id)
    if run is None:
        raise SyncJobNotFoundError(job_id)
    return run


async def list_runs(
    session: AsyncSession, *, merchant_id: int | None, status: SyncStatus | None, limit: int, cursor: str | None
) -> dict[str, Any]:
    """Return a page of runs, the latest first. Raises InvalidCursorError."""
    statement: Select[SyncRun] = select(SyncRun).order_by(SyncRun.id.desc()).limit(limit + 1)
    if merchant_id is not None:
        statement = statement.where(SyncRun.merchant_id == merchant_id)
    if status is not None:
        statement = statement.where(SyncRun.status == status)
    if cursor is not None:
        (after,) = decode_cursor(cursor, UUID)
        statement = statement.where(SyncRun.id < after)
    rows, more = cut_page((await session.scalars(statement)).all(), limit)
    return {"items": rows, "next_cursor": encode_cursor(rows[-1].id) if more else None}


async def claim(session: AsyncSession, *, run_id: UUID, settings: Settings) -> Claim | None:
    """Take a run that is queued or has lost its worker; None when there is nothing to take.

    A run that cannot be worked on ends here, as failed.
    """
    run = await session.scalar(
        select(SyncRun).where(SyncRun.id == run_id, _claimable()).with_for_update(skip_locked=True)
    )
    if run is None:
        return None
    row = (
        await session.execute(
            select(Feed, Merchant).join(Merchant, Merchant.id == Feed.merchant_id).where(Merchant.id == run.merchant_id)
        )
    ).one_or_none()
    if (reason := _reason_to_give_up(run, row)) is not None or row is None:
        _end(run, SyncStatus.FAILED, error=reason)
        await staging.clear(session, run_id=run.id)
        metrics.SYNC_RUNS.labels(run.status.value).inc()
        logger.warning("sync failed", extra={"run_id": str(run.id), "merchant_id": run.merchant_id, "reason": reason})
        return None
    run.attempt_id = new_id()
    run.status = SyncStatus.RUNNING
    run.tries += 1
    run.started_at = run.started_at or func.now()
    run.heartbeat_at = func.now()
    feed = FeedDefinition.of(row.Feed, row.Merchant, settings)
    resume = await _resumable(session, run, feed, settings)
    if resume is None:
        run.checkpoint = None
    run.fetched, run.rejected = (0, 0) if resume is None else (resume.fetched, resume.rejected)
    await staging.clear(session, run_id=run.id, after_row=0 if resume is None else resume.rows)
    await session.flush()
    return Claim(run.id, run.attempt_id, run.request_id, feed, resume)


async def _resumable(
    session: AsyncSession, run: SyncRun, feed: FeedDefinition, settings: Settings
) -> Checkpoint | None:
    """Return where to go on, None to begin anew."""
    kept = run.checkpoint
    if kept is None or not is_fresh(kept, definition=feed.identity):
        return None
    if await staging.count(session, run_id=run.id, up_to_row=kept["rows"]) != staged_rows(kept):
        return None
    return Checkpoint.unsealed(settings, kept)


async def beat(session: AsyncSession, *, claim: Claim, tally: Tally) -> None:
    """Show progress and that the worker lives. Raises ClaimLostError."""
    result = await session.execute(
        update(SyncRun)
        .where(SyncRun.id == claim.run_id, SyncRun.attempt_id == claim.attempt_id)
        .values(heartbeat_at=func.now(), fetched=tally.fetched, rejected=tally.rejected)
        .returning(SyncRun.id)
    )
    if result.scalar() is None:
        raise ClaimLostError


async def lock(session: AsyncSession, *, claim: Claim) -> SyncRun:
    """Keep everybody else from the run until the transaction ends. Raises ClaimLostError.

    A long transaction must not change the row before its end: a request for the same merchant would wait for it.
    """
    run = await session.scalar(
        select(SyncRun).where(SyncRun.id == claim.run_id, SyncRun.attempt_id == claim.attempt_id).with_for_update()
    )
    if run is None:
        raise ClaimLostError
    return run


async def succeed(
    session: AsyncSession, *, run: SyncRun, claim: Claim, changes: Changes, tally: Tally, version: Version | None
) -> None:
    """End a locked run well, and remember the feed's version (None: it is the one that is known)."""
    run.fetched, run.rejected, run.rejected_samples = tally.fetched, tally.rejected, tally.samples
    run.created, run.updated = changes.created, changes.updated
    run.unchanged, run.removed = changes.unchanged, changes.removed
    _end(run, SyncStatus.SUCCEEDED)
    feed = await session.get(Feed, claim.feed.merchant_id, with_for_update=True)
    # A definition that was changed meanwhile has not been synced yet.
    if version is not None and feed is not None and claim.feed.is_same_as(feed):
        feed.etag, feed.last_modified = version.validators.etag, version.validators.last_modified
        feed.content_hash = version.content_hash
    await session.flush()


async def fail(session: AsyncSession, *, claim: Claim, tally: Tally, error: str) -> None:
    """End a run whose feed is at fault; nothing of it is kept but counts and reasons. Raises ClaimLostError."""
    run = await lock(session, claim=claim)
    run.fetched, run.rejected, run.rejected_samples = tally.fetched, tally.rejected, tally.samples
    _end(run, SyncStatus.FAILED, error=error)
    await staging.clear(session, run_id=run.id)


async def put_back(session: AsyncSession, *, claim: Claim, error: str | None) -> None:
    """Let another worker have the run: at once when this one merely stops, by the sweep after an `error`.

    Raises ClaimLostError.
    """
    run = await lock(session, claim=claim)
    run.status = SyncStatus.QUEUED
    run.attempt_id = None
    run.heartbeat_at = None
    run.error = error
    if error is None:
        run.tries -= 1
        ring_after_commit(session, TASK, str(run.id))
    await staging.clear(session, run_id=run.id, after_row=0 if run.checkpoint is None else run.checkpoint["rows"])


async def ring_forgotten(session: AsyncSession) -> int:
    """Ring for runs that nobody picked up or whose worker is lost, the oldest first; returns how many."""
    forgotten = await session.scalars(
        select(SyncRun.id)
        .where(_UNFINISHED, _claimable(), SyncRun.created_at < func.now() - FORGOTTEN)
        .order_by(SyncRun.id)
        .limit(_MOST_RINGS)
    )
    ids = forgotten.all()
    for run_id in ids:
        ring_after_commit(session, TASK, str(run_id))
    return len(ids)


def _claimable() -> Any:  # noqa: ANN401 - SQLAlchemy's expression types
    return or_(
        SyncRun.status == SyncStatus.QUEUED,
        and_(SyncRun.status == SyncStatus.RUNNING, SyncRun.heartbeat_at < func.now() - STALE),
    )


def _reason_to_give_up(run: SyncRun, row: Any) -> str | None:  # noqa: ANN401 - a joined row
    if row is None:
        return "The merchant has no feed any more."
    if row.Merchant.status is MerchantStatus.CLOSED:
        return "The merchant was closed."
    if run.tries >= MAX_TRIES:
        last = run.error or "Its worker was lost each time; look for one that was killed, for want of memory perhaps."
        return f"Given up after {run.tries} tries. {last}"
    return None


def _end(run: SyncRun, status: SyncStatus, *, error: str | None = None) -> None:
    run.status = status
    run.error = error
    run.attempt_id = None
    run.checkpoint = None
    # Not now(), which is when the transaction began.
    run.finished_at = func.clock_timestamp()
