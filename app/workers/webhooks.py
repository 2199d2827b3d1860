"""Draining the webhook inbox, and replaying what was in it."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from time import monotonic
from uuid import UUID

from app import metrics
from app.config import Settings
from app.db import is_unavailable, transaction
from app.logs import bound_request_id
from app.models import WebhookStatus
from app.services.webhooks import replays
from app.services.webhooks.process import note_failure, process_event, waiting_events

logger = logging.getLogger(__name__)

_BATCH = 100
# As many transactions at a time as keep PostgreSQL busy without using up this process's pool.
_CONCURRENCY = 4
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
    async with transaction() as session:
        waiting = await waiting_events(session, limit=_BATCH)
    slots = asyncio.Semaphore(_CONCURRENCY)

    async def process(event_id: UUID, request_id: str | None) -> bool:
        async with slots:
            with bound_request_id(request_id):
                return await _process_one(settings, event_id)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(process(*event)) for event in waiting]
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
        metrics.WEBHOOKS_PROCESSED.labels(status.value).inc()
        logger.info("webhook event processed", extra={"event_id": str(event_id), "status": status.value})
    return status is not None


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
