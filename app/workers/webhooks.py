"""Draining the webhook inbox."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from uuid import UUID

from app import metrics
from app.config import Settings
from app.db import is_unavailable, transaction
from app.logs import bound_request_id
from app.models import WebhookStatus
from app.services.webhooks.process import note_failure, process_event, waiting_events

logger = logging.getLogger(__name__)

_BATCH = 100
# As many transactions at a time as keep PostgreSQL busy without using up this process's pool.
_CONCURRENCY = 4


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
