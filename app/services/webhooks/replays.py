"""Replays of many events: what matches a filter is processed again, in the order it arrived, a batch at a time.

How far a replay is stands in its row, so that any worker can go on with it. One event comes after the other: what is
first come, first served, such as a campaign's budget, is served as it was at first.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, func, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import ring_after_commit
from app.errors import ConflictError, NotFoundError
from app.ids import new_id
from app.models import ReplayStatus, WebhookEvent, WebhookReplay, WebhookStatus
from app.schemas.common import Page
from app.schemas.webhooks import EventFilter, ReplayRead
from app.services.pagination import newest_first
from app.services.webhooks.inbox import matching, reset
from app.services.webhooks.process import note_failure, process_event

BATCH = 100
_UNFINISHED = (ReplayStatus.QUEUED, ReplayStatus.RUNNING)
# A worker that has finished no batch for so long has lost its replay.
_CLAIM = timedelta(seconds=120)


class ReplayNotFoundError(NotFoundError):
    """No replay has this id."""

    code = "webhook_replay_not_found"
    title = "Webhook replay not found"

    def __init__(self, replay_id: UUID) -> None:
        super().__init__(f"There is no webhook replay {replay_id}.")


class ReplayTooLargeError(ConflictError):
    """More events match than may be replayed at once."""

    code = "webhook_replay_too_large"
    title = "Webhook replay too large"

    def __init__(self, total: int, most: int) -> None:
        super().__init__(f"{total} events match, more than {most}; narrow the filter or raise `most`.")


@dataclass(frozen=True, slots=True)
class Claim:
    """A replay that one worker has until the time it said."""

    replay_id: UUID
    until: datetime
    wanted: EventFilter
    position: UUID | None


async def start(
    session: AsyncSession, *, wanted: EventFilter, most: int | None = None, member_id: UUID | None = None
) -> ReplayRead:
    """Queue a replay of all events that match now; `most` None: however many. Raises ReplayTooLargeError."""
    replay = WebhookReplay(
        id=new_id(),
        status=ReplayStatus.QUEUED,
        filter=wanted.model_dump(mode="json", exclude_none=True, include=set(EventFilter.model_fields)),
        requested_by_id=member_id,
    )
    conditions = _wanted(wanted, replay.id, None)
    replay.total = await session.scalar(select(func.count()).select_from(WebhookEvent).where(*conditions)) or 0
    if most is not None and replay.total > most:
        raise ReplayTooLargeError(replay.total, most)
    session.add(replay)
    await session.flush()
    await session.refresh(replay)
    ring_after_commit(session, "replay_webhooks")
    return ReplayRead.model_validate(replay)


async def list_replays(session: AsyncSession, *, limit: int, cursor: str | None) -> Page[ReplayRead]:
    """Return replays, newest first. Raises InvalidCursorError."""
    statement = select(WebhookReplay)
    rows, next_cursor = await newest_first(session, statement, WebhookReplay.id, limit=limit, cursor=cursor)
    items = [ReplayRead.model_validate(row) for row in rows]
    return Page[ReplayRead](items=items, next_cursor=next_cursor)


async def get_replay(session: AsyncSession, replay_id: UUID) -> ReplayRead:
    """Return a replay. Raises ReplayNotFoundError."""
    return ReplayRead.model_validate(await _find(session, replay_id))


async def cancel(session: AsyncSession, replay_id: UUID) -> ReplayRead:
    """Stop a replay after the batch it is at. Raises ReplayNotFoundError."""
    replay = await _find(session, replay_id, lock=True)
    if replay.status in _UNFINISHED:
        replay.status, replay.finished_at = ReplayStatus.CANCELLED, datetime.now(UTC)
        await session.flush()
    return ReplayRead.model_validate(replay)


async def claim_next(session: AsyncSession) -> Claim | None:
    """Claim the oldest replay that waits, or whose worker is lost; None when there is none."""
    next_id = (
        select(WebhookReplay.id)
        .where(
            WebhookReplay.status.in_(_UNFINISHED),
            or_(WebhookReplay.claimed_until.is_(None), WebhookReplay.claimed_until < func.now()),
        )
        .order_by(WebhookReplay.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    row = (
        await session.execute(
            update(WebhookReplay)
            .where(WebhookReplay.id == next_id)
            .values(status=ReplayStatus.RUNNING, claimed_until=func.now() + literal(_CLAIM))
            .returning(WebhookReplay.id, WebhookReplay.claimed_until, WebhookReplay.filter, WebhookReplay.position)
            .execution_options(synchronize_session=False)
        )
    ).one_or_none()
    if row is None or row.claimed_until is None:
        return None
    return Claim(row.id, row.claimed_until, EventFilter.model_validate(row.filter), row.position)


async def next_batch(session: AsyncSession, claim: Claim) -> Sequence[UUID]:
    """Return the next events of a replay, in the order they arrived."""
    statement = select(WebhookEvent.id).where(*_wanted(claim.wanted, claim.replay_id, claim.position))
    return (await session.scalars(statement.order_by(WebhookEvent.id).limit(BATCH))).all()


async def replay_one(session: AsyncSession, settings: Settings, event_id: UUID) -> str:
    """Process an event again; returns its new status."""
    event = await session.get_one(WebhookEvent, event_id, with_for_update=True)
    reset(event)
    await session.flush()
    status = await process_event(session, settings, event_id)
    return status.value if status is not None else event.status.value


async def replay_failed(session: AsyncSession, settings: Settings, event_id: UUID, error: Exception) -> str:
    """Leave an event that failed, as by an error of ours, to the drain and its tries."""
    reset(await session.get_one(WebhookEvent, event_id, with_for_update=True))
    await note_failure(session, settings, event_id, error)
    return "failed"


async def note_batch(
    session: AsyncSession, claim: Claim, done: Sequence[UUID], outcomes: Counter[str], *, go_on: bool
) -> Claim | None:
    """Note what became of a batch and go on claiming; None when the replay is over, cancelled or somebody else's.

    `go_on` False: the next job goes on with it.
    """
    replay = await _find(session, claim.replay_id, lock=True)
    if replay.claimed_until != claim.until:
        return None
    replay.replayed += len(done)
    # Others may have brought further events into the filter meanwhile.
    replay.total = max(replay.total, replay.replayed)
    replay.outcomes = dict(Counter(replay.outcomes) + outcomes)
    replay.position = done[-1] if done else replay.position
    now: datetime = (await session.scalars(select(func.now()))).one()
    if len(done) < BATCH and replay.status is ReplayStatus.RUNNING:
        replay.status = ReplayStatus.FINISHED
    if replay.status is not ReplayStatus.RUNNING:
        replay.finished_at, replay.claimed_until = now, None
        await session.flush()
        return None
    replay.claimed_until = now + _CLAIM if go_on else None
    await session.flush()
    if replay.claimed_until is None:
        ring_after_commit(session, "replay_webhooks")
        return None
    return Claim(claim.replay_id, replay.claimed_until, claim.wanted, replay.position)


def _wanted(wanted: EventFilter, replay_id: UUID, position: UUID | None) -> list[ColumnElement[bool]]:
    """Return the conditions of what a replay still has before it."""
    # Ids are in the order of arrival: what came after the replay was asked for is not replayed.
    conditions = [*matching(wanted), WebhookEvent.id < replay_id, WebhookEvent.erased_at.is_(None)]
    if position is not None:
        conditions.append(WebhookEvent.id > position)
    if wanted.status is None:
        # What waits is processed anyway; what staff gave up is given up.
        conditions.append(WebhookEvent.status.not_in([WebhookStatus.RECEIVED, WebhookStatus.DISCARDED]))
    return conditions


async def _find(session: AsyncSession, replay_id: UUID, *, lock: bool = False) -> WebhookReplay:
    replay = await session.get(WebhookReplay, replay_id, with_for_update=lock)
    if replay is None:
        raise ReplayNotFoundError(replay_id)
    return replay
