"""The life of a poll: claimed, one page kept after the other, ended; every step one short transaction.

A claim is an attempt id and a time on the poller's row. Whatever a worker writes is tied to it, so one that was taken
for dead and wakes up changes nothing. A page's events and the place to go on at are written together: wherever a worker
is lost, its successor neither misses a page nor keeps one twice.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import ring_after_commit
from app.ids import new_id
from app.models import Poller, Source, SourceStatus
from app.services.polling.pages import Page
from app.services.polling.progress import Progress, Step, after_page, begin
from app.services.sources.versions import CompiledDefinition, load_version
from app.services.webhooks.polled import Heard, take_polled

TASK = "poll_source"
# One page, with every wait and try, takes less; a claim that is not renewed for so long has lost its worker.
PAGE_SECONDS = 120
_CLAIM = timedelta(seconds=PAGE_SECONDS + 60)
_MOST_RINGS = 100
_FIRST_RETRY_SECONDS = 60
_MOST_DOUBLINGS = 16
_MOST_ERROR_CHARACTERS = 1000


class PollClaimLostError(Exception):
    """Another worker polls this source now, or staff paused it; what was fetched since the last page is void."""


@dataclass(frozen=True, slots=True)
class PollClaim:
    """One worker's right to poll a source, with what it needs for that."""

    source_id: int
    attempt_id: UUID
    # For the metrics.
    preset: str
    version: CompiledDefinition
    values: dict[str, str]
    credentials_encrypted: bytes | None = field(repr=False)
    credentials_origin: str | None
    progress: Progress


async def ring_due(session: AsyncSession) -> int:
    """Ring for sources that are due and that nobody polls; returns how many."""
    due = await session.scalars(
        select(Poller.source_id)
        .join(Source, Source.id == Poller.source_id)
        .where(*_is_due())
        .order_by(Poller.next_poll_at)
        .limit(_MOST_RINGS)
    )
    ids = due.all()
    for source_id in ids:
        ring_after_commit(session, TASK, str(source_id))
    return len(ids)


async def claim(session: AsyncSession, settings: Settings, *, source_id: int) -> PollClaim | None:
    """Claim a source that is due, or whose worker is lost; None when there is nothing to poll."""
    row = (
        await session.execute(
            select(Poller, Source)
            .join(Source, Source.id == Poller.source_id)
            .where(Poller.source_id == source_id, *_is_due())
            .with_for_update(of=Poller, skip_locked=True)
        )
    ).one_or_none()
    if row is None:
        return None
    poller, source = row
    version = await load_version(session, source.version_id)
    now = datetime.now(UTC)
    progress = _resumed(poller, source, settings)
    if progress is None:
        poller.fetched = poller.added = 0
        polling = version.definition.polling
        if polling is not None:
            progress = begin(polling, version=str(source.version_id), watermarks=poller.watermarks, now=now)
    poller.last_attempt_at = now
    if progress is None:
        # Nothing of it is due, or its definition is not polled any more.
        poller.next_poll_at = now + timedelta(seconds=poller.interval_seconds)
        poller.checkpoint = None
        await session.flush()
        return None
    poller.attempt_id, poller.claimed_until = new_id(), now + _CLAIM
    poller.checkpoint = progress.sealed(settings)
    await session.flush()
    return PollClaim(
        source_id,
        poller.attempt_id,
        source.preset or "own",
        version,
        dict(poller.values),
        poller.credentials_encrypted,
        poller.credentials_origin,
        progress,
    )


async def keep_page(
    session: AsyncSession,
    settings: Settings,
    *,
    claim: PollClaim,
    progress: Progress,
    page: Page,
    heard: Sequence[Heard],
) -> Step:
    """Keep what a page's items say, and what is left after it. Raises PollClaimLostError."""
    poller = await _lock(session, claim)
    source = await session.get_one(Source, claim.source_id)
    events = await take_polled(session, source, heard)
    polling = claim.version.definition.polling
    assert polling is not None  # noqa: S101 - a claim is of a source that is polled
    step = after_page(polling, progress, page.following, poller.watermarks)
    if step.finished_pass is not None:
        poller.watermarks = {**poller.watermarks, step.finished_pass: progress.until.isoformat()}
    poller.fetched += len(page.items)
    poller.added += len(events)
    now = datetime.now(UTC)
    poller.claimed_until = now + _CLAIM
    poller.checkpoint = None if step.progress is None else step.progress.sealed(settings)
    if step.progress is None:
        _release(poller)
        poller.last_success_at, poller.failures, poller.last_error = now, 0, None
        poller.next_poll_at = now + timedelta(seconds=poller.interval_seconds)
    await session.flush()
    return step


async def fail(
    session: AsyncSession, settings: Settings, *, claim: PollClaim, progress: Progress, error: str, after_seconds: float
) -> None:
    """End a poll that could not go on; the next one tries the same window again, soon and then ever later.

    Raises PollClaimLostError.
    """
    poller = await _lock(session, claim)
    poller.failures += 1
    poller.last_error = error[:_MOST_ERROR_CHARACTERS]
    # The page that failed may never come: its window is asked for anew, which adds nothing that is known.
    poller.checkpoint = progress.at_window_start().sealed(settings)
    wait = min(
        poller.interval_seconds, _FIRST_RETRY_SECONDS * 2 ** min(poller.failures - 1, _MOST_DOUBLINGS)
    ) * random.uniform(0.75, 1)  # noqa: S311 - nobody gains by guessing it
    poller.next_poll_at = datetime.now(UTC) + timedelta(seconds=max(wait, after_seconds))
    _release(poller)
    await session.flush()


async def put_back(session: AsyncSession, *, claim: PollClaim) -> None:
    """Let another worker go on at once where this one stops. Raises PollClaimLostError."""
    poller = await _lock(session, claim)
    _release(poller)
    await session.flush()
    ring_after_commit(session, TASK, str(claim.source_id))


def _is_due() -> tuple[ColumnElement[bool], ...]:
    is_free = or_(Poller.attempt_id.is_(None), Poller.claimed_until < func.now())
    return (
        Poller.enabled.is_(True),
        Source.status == SourceStatus.ACTIVE,
        Poller.next_poll_at <= func.now(),
        is_free,
    )


def _resumed(poller: Poller, source: Source, settings: Settings) -> Progress | None:
    if poller.checkpoint is None or poller.checkpoint["version"] != str(source.version_id):
        return None
    return Progress.unsealed(settings, poller.checkpoint)


def _release(poller: Poller) -> None:
    poller.attempt_id = poller.claimed_until = None


async def _lock(session: AsyncSession, claim: PollClaim) -> Poller:
    poller = await session.scalar(
        select(Poller)
        .where(and_(Poller.source_id == claim.source_id, Poller.attempt_id == claim.attempt_id))
        .with_for_update()
    )
    if poller is None:
        raise PollClaimLostError
    return poller
