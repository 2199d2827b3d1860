"""The outbox: a message is a row of the transaction that wants it, and what became of each try is recorded there.

The text is made when a worker claims the row. So a request does the same whether an address has a customer or not, no
secret waits in the database, and a token begins to expire when it is sent.
"""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import ring_after_commit
from app.models import Message, MessageChannel, MessageKind, MessageStatus
from app.services.messages.texts import Text, compose

# Seconds to wait after each try; the first is at once. Who asked for a mail a day ago has asked again, or given up.
RETRY_SECONDS = (5, 30, 120, 600, 1_800, 3_600, 7_200, 14_400, 28_800, 28_800)
KEPT_DAYS = 7
BATCH = 20
# A claim is over when its worker has been silent for so long; well above the time that one sending may take.
_LEASE_SECONDS = 120
_MOST_ERROR_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A claimed message with its text."""

    message_id: UUID
    channel: MessageChannel
    recipient: str
    text: Text
    tries: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a try ended with: nothing is an error when it was taken; a `permanent` one is not worth another try."""

    error: str | None = None
    permanent: bool = False


async def post(
    session: AsyncSession,
    kind: MessageKind,
    *,
    recipient: str,
    customer_id: UUID | None = None,
    channel: MessageChannel = MessageChannel.EMAIL,
) -> None:
    """Put a message into the outbox; it is sent once the transaction has been committed, or never."""
    session.add(Message(customer_id=customer_id, channel=channel, kind=kind, recipient=recipient))
    await session.flush()
    ring_after_commit(session, "send_messages")


async def claim_due(session: AsyncSession, settings: Settings, channels: set[MessageChannel]) -> list[Outgoing]:
    """Claim messages that are due, for `_LEASE_SECONDS`; those that have nobody to go to are deleted."""
    due = (
        select(Message)
        .where(
            Message.status == MessageStatus.PENDING,
            Message.next_attempt_at <= func.now(),
            Message.channel.in_(channels),
        )
        .order_by(Message.next_attempt_at)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    claimed = []
    for message in (await session.scalars(due)).all():
        text = await compose(session, settings, message)
        if text is None:
            await session.delete(message)
            continue
        message.tries += 1
        message.next_attempt_at = datetime.now(UTC) + timedelta(seconds=_LEASE_SECONDS)
        claimed.append(Outgoing(message.id, message.channel, message.recipient, text, message.tries))
    await session.flush()
    return claimed


async def record(session: AsyncSession, outgoing: Outgoing, outcome: Outcome) -> MessageStatus | None:
    """Record what a try came to: sent, to be tried again, or given up; None when the message was withdrawn."""
    message = await session.get(Message, outgoing.message_id, with_for_update=True)
    if message is None or message.status is not MessageStatus.PENDING or message.tries != outgoing.tries:
        # Its lease ran out and somebody else has it.
        return None if message is None else message.status
    message.last_error = outcome.error and outcome.error[:_MOST_ERROR_CHARACTERS]
    if outcome.error is None:
        message.status, message.next_attempt_at, message.sent_at = MessageStatus.SENT, None, datetime.now(UTC)
    elif outcome.permanent or outgoing.tries > len(RETRY_SECONDS):
        message.status, message.next_attempt_at = MessageStatus.FAILED, None
    else:
        wait_seconds = RETRY_SECONDS[outgoing.tries - 1]
        # Up to a tenth later: many that failed together shall not come back together.
        jitter_seconds = random.uniform(0, wait_seconds / 10)  # noqa: S311 - no secret
        message.next_attempt_at = datetime.now(UTC) + timedelta(seconds=wait_seconds + jitter_seconds)
    await session.flush()
    return message.status


async def count_waiting(session: AsyncSession, channels: set[MessageChannel]) -> int:
    """Count the messages that wait for a way to be sent: of the channels that none is set up for."""
    waiting = select(func.count()).where(Message.status == MessageStatus.PENDING, Message.channel.not_in(channels))
    return await session.scalar(waiting) or 0


async def withdraw(session: AsyncSession, *, customer_id: UUID, email: str) -> None:
    """Delete all messages of a customer, sent ones too: they hold an address."""
    await session.execute(delete(Message).where(or_(Message.customer_id == customer_id, Message.recipient == email)))


async def forget_old(session: AsyncSession, *, limit: int) -> int:
    """Delete up to `limit` messages older than KEPT_DAYS; returns how many."""
    old = (
        select(Message.id)
        .where(Message.created_at < func.now() - timedelta(days=KEPT_DAYS))
        .order_by(Message.created_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids = (await session.scalars(old)).all()
    await session.execute(delete(Message).where(Message.id.in_(ids)))
    return len(ids)
