"""Delivering notifications, and looking for what deserves an alert."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx

from app.config import Settings
from app.db import transaction
from app.services import alerts
from app.services.notifications.deliver import Outgoing, claim_due, record, send
from app.services.outbound import PinnedTransport

# Leaves connections of this process's pool to its other jobs.
_RECORDS_AT_ONCE = 3


def notification_delivery(settings: Settings) -> Callable[[], Awaitable[int]]:
    """Return the job `deliver_notifications` of one worker process."""

    async def deliver_notifications() -> int:
        """Deliver until nothing is due; returns how many tries that took."""
        transport = PinnedTransport(
            allow_private=settings.allow_private_endpoints, timeout_seconds=settings.notification_timeout_seconds
        )
        recording = asyncio.Semaphore(_RECORDS_AT_ONCE)
        tries = 0
        async with httpx.AsyncClient(transport=transport, timeout=settings.notification_timeout_seconds) as client:
            while True:
                async with transaction() as session:
                    claimed = await claim_due(session, settings)
                async with asyncio.TaskGroup() as group:
                    for outgoing in claimed:
                        group.create_task(_deliver(client, outgoing, recording))
                tries += len(claimed)
                if not claimed:
                    return tries

    return deliver_notifications


async def watch() -> int:
    """Open and close alerts; returns how many are open."""
    async with transaction() as session:
        return await alerts.look(session)


async def _deliver(client: httpx.AsyncClient, outgoing: Outgoing, recording: asyncio.Semaphore) -> None:
    # The post is outside of any transaction: nothing may wait for somebody else's server.
    outcome = await send(client, outgoing)
    async with recording, transaction() as session:
        await record(session, outgoing, outcome)
