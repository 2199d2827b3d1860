"""Draining the webhook inbox, and replaying what was in it."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from uuid import UUID

from app import metrics
from app.config import Settings
from app.db import is_unavailable, sqlstate, transaction
from app.logs import bound_request_id
from app.models import WebhookStatus
from app.services.webhooks import replays
from app.services.webhooks.bulk import claim_events, process_plain
from app.services.webhooks.process import note_failure, process_event

logger = logging.getLogger(__name__)

_BATCH = 250
# So many batches at a time: while PostgreSQL writes one, this process folds the next.
_BATCHES = 2
# Fewer than this go one by one when their batch fails.
_FEWEST = 8
# Transactions at a time of events that go one by one: as many as keep PostgreSQL busy without using up the pool.
_CONCURRENCY = 4
# What a smaller batch, or an event by itself, may survive: a deadlock, and a statement or a lock that took too long.
_WORTH_SPLITTING = ("40001", "40P01", "55P03", "57014")
# Well below the job's timeout: the next job goes on.
_MOST_REPLAY_SECONDS = 120


def webhook_drain(settings: Settings) -> Callable[[], Awaitable[int]]:
    """Return the job `drain_webhooks` of one worker process."""
    draining = asyncio.Lock()
    again = False

    async def drain_webhooks() -> int:
        """Process events until none is due; returns how many left the inbox."""
        nonlocal again
        if draining.locked():
            # The one that drains looks once more after this, so that no event falls between its last look and its end.
            again = True
            return 0
        processed = 0
        async with draining:
            while True:
                again = False
                processed += (count := await _drain_once(settings))
                if not count and not again:
                    return processed

    return drain_webhooks


async def _drain_once(settings: Settings) -> int:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_drain_batch(settings, limit=_BATCH)) for _ in range(_BATCHES)]
    return sum(task.result() for task in tasks)


async def _drain_batch(settings: Settings, *, limit: int, among: Sequence[UUID] | None = None) -> int:
    """Process a batch in one transaction, then one by one what is not plain in it; a batch that fails is halved."""
    claimed: dict[UUID, str | None] = {}
    try:
        async with transaction() as session:
            events = await claim_events(session, limit=limit, among=among)
            claimed = {event.id: event.request_id for event in events}
            done = await process_plain(session, settings, events) if events else set()
    except Exception as error:
        if is_unavailable(error) and sqlstate(error) not in _WORTH_SPLITTING:
            logger.warning("webhook events postponed", extra={"events": len(claimed), "error": type(error).__name__})
            return 0
        # Each says for itself what is wrong with it once it is by itself.
        logger.warning("batch of webhook events failed", exc_info=True, extra={"events": len(claimed)})
        return await _drain_parts(settings, claimed)
    for event_id in done:
        with bound_request_id(claimed[event_id]):
            _tell(event_id, WebhookStatus.PROCESSED)
    return len(done) + await _one_by_one(settings, {key: claimed[key] for key in claimed if key not in done})


async def _drain_parts(settings: Settings, claimed: dict[UUID, str | None]) -> int:
    """Process what failed together in two halves, and few events one by one, so that one of them spoils no other."""
    if len(claimed) < _FEWEST:
        return await _one_by_one(settings, claimed)
    ids = list(claimed)
    halves = (ids[: len(ids) // 2], ids[len(ids) // 2 :])
    return sum([await _drain_batch(settings, limit=len(half), among=half) for half in halves])


async def _one_by_one(settings: Settings, events: dict[UUID, str | None]) -> int:
    slots = asyncio.Semaphore(_CONCURRENCY)

    async def process(event_id: UUID, request_id: str | None) -> bool:
        async with slots:
            with bound_request_id(request_id):
                return await _process_one(settings, event_id)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(process(*event)) for event in events.items()]
    return sum(task.result() for task in tasks)


async def _process_one(settings: Settings, event_id: UUID) -> bool:
    """Process one event in a transaction of its own; a failure is counted on the event and goes no further."""
    try:
        async with transaction() as session:
            status = await process_event(session, settings, event_id)
    except Exception as error:
        if is_unavailable(error):
            # Not the event's fault: it keeps its tries, and the sweep comes back to it.
            logger.warning("webhook event postponed", extra={"event_id": str(event_id), "error": type(error).__name__})
            return False
        logger.exception("webhook event failed", extra={"event_id": str(event_id)})
        async with transaction() as session:
            status = await note_failure(session, settings, event_id, error)
        if status is WebhookStatus.DEAD:
            metrics.WEBHOOKS_PROCESSED.labels(status.value).inc()
        return True
    if status is not None:
        _tell(event_id, status)
    return status is not None


def _tell(event_id: UUID, status: WebhookStatus) -> None:
    metrics.WEBHOOKS_PROCESSED.labels(status.value).inc()
    logger.info("webhook event processed", extra={"event_id": str(event_id), "status": status.value})


def webhook_replay(settings: Settings) -> Callable[[], Awaitable[int]]:
    """Return the job `replay_webhooks` of one worker process."""

    async def replay_webhooks() -> int:
        """Go through the replays that wait; returns how many events were processed again."""
        replayed, started = 0, monotonic()
        while True:
            async with transaction() as session:
                claim = await replays.claim_next(session)
            if claim is None:
                return replayed
            while claim is not None:
                async with transaction() as session:
                    batch = await replays.next_batch(session, claim)
                outcomes = Counter([await _replay_one(settings, event_id) for event_id in batch])
                replayed += len(batch)
                go_on = monotonic() - started < _MOST_REPLAY_SECONDS
                async with transaction() as session:
                    claim = await replays.note_batch(session, claim, batch, outcomes, go_on=go_on)
                if not go_on:
                    return replayed

    return replay_webhooks


async def _replay_one(settings: Settings, event_id: UUID) -> str:
    """Process an event again in a transaction of its own."""
    try:
        async with transaction() as session:
            return await replays.replay_one(session, settings, event_id)
    except Exception as error:
        if is_unavailable(error):
            # The replay is taken up again from where its last batch ended.
            raise
        logger.exception("webhook event failed in a replay", extra={"event_id": str(event_id)})
        async with transaction() as session:
            return await replays.replay_failed(session, settings, event_id, error)
