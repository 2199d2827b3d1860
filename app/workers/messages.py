"""Sending messages to customers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from app import metrics
from app.config import Settings
from app.db import transaction
from app.services.messages.outbox import Outgoing, claim_due, count_waiting, record
from app.services.messages.senders import Sender, open_senders

logger = logging.getLogger(__name__)

# At the same time; each waits for somebody else's server, and records what came of it one after another.
_AT_ONCE = 5


def message_delivery(settings: Settings) -> Callable[[], Awaitable[int]]:
    """Return the job `send_messages` of one worker process."""

    async def send_messages() -> int:
        """Send until nothing is due; returns how many tries that took."""
        tries = 0
        async with AsyncExitStack() as stack:
            senders = await open_senders(settings, stack)
            async with transaction() as session:
                waiting = await count_waiting(session, set(senders))
            if waiting:
                logger.warning(
                    "messages wait for a way to be sent: set SMTP_URL or SMS_HTTP_URL", extra={"messages": waiting}
                )
            while True:
                async with transaction() as session:
                    claimed = await claim_due(session, settings, set(senders))
                if not claimed:
                    return tries
                turns = asyncio.Semaphore(_AT_ONCE)
                async with asyncio.TaskGroup() as group:
                    for outgoing in claimed:
                        group.create_task(_send(senders[outgoing.channel], outgoing, turns))
                tries += len(claimed)

    return send_messages


async def _send(sender: Sender, outgoing: Outgoing, turns: asyncio.Semaphore) -> None:
    async with turns:
        # Outside of any transaction: nothing may wait for somebody else's server.
        outcome = await sender.send(outgoing)
        if outcome.error is not None:
            logger.warning(
                "a message was not taken",
                extra={"message_id": str(outgoing.message_id), "tries": outgoing.tries, "error": outcome.error},
            )
        async with transaction() as session:
            status = await record(session, outgoing, outcome)
    metrics.MESSAGES.labels(outgoing.channel.value, status.value if status else "withdrawn").inc()
