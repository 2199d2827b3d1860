"""Asks the dependencies how they are: readiness, and the depths that `/metrics` shows."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from redis.asyncio import Redis
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import AppError, UnavailableError
from app.models import (
    WAITING,
    Claim,
    LedgerCheck,
    Payout,
    PayoutChange,
    PayoutProvider,
    PayoutStatus,
    Poller,
    Source,
    SourceStatus,
    SyncRun,
    SyncStatus,
    WebhookEvent,
    WebhookStatus,
)
from app.services.ledger.chain import count_due
from app.services.ledger.verify_slices import CHECKS


class NotReadyError(UnavailableError):
    """A dependency did not answer within its deadline."""

    code = "not_ready"
    title = "Not ready"

    def __init__(self, failures: dict[str, str]) -> None:
        parts = (f"{name}: {reason}" for name, reason in sorted(failures.items()))
        super().__init__("; ".join(parts))
        self.failures = failures


async def require_ready(checks: dict[str, Callable[[], Awaitable[object]]], *, timeout_seconds: float) -> None:
    """Ask all dependencies at once, each with a deadline. Raises NotReadyError naming those that failed."""

    async def failure_of(check: Callable[[], Awaitable[object]]) -> str | None:
        try:
            async with asyncio.timeout(timeout_seconds):
                await check()
        except TimeoutError:
            return f"no answer within {timeout_seconds:g} s"
        except Exception as error:  # noqa: BLE001 - whatever the client raises means "not ready"
            return error.detail if isinstance(error, AppError) else type(error).__name__
        return None

    reasons = await asyncio.gather(*(failure_of(check) for check in checks.values()))
    failures = {name: reason for name, reason in zip(checks, reasons, strict=True) if reason is not None}
    if failures:
        raise NotReadyError(failures)


async def measure_inbox(session: AsyncSession) -> tuple[dict[str, int], float]:
    """Count webhook events that wait or need staff, by status, and the age in seconds of the oldest that waits."""
    shown = [status for status in WebhookStatus if status is not WebhookStatus.PROCESSED]
    rows = await session.execute(
        select(WebhookEvent.status, func.count(), func.min(WebhookEvent.received_at), func.now())
        .where(WebhookEvent.status.in_(shown))
        .group_by(WebhookEvent.status)
    )
    counts = {status.value: 0 for status in shown}
    oldest_seconds = 0.0
    for status, count, oldest, now in rows:
        counts[status.value] = count
        if status is WebhookStatus.RECEIVED:
            oldest_seconds = _seconds_between(oldest, now)
    return counts, oldest_seconds


async def measure_claims(session: AsyncSession) -> tuple[dict[str, int], int, int]:
    """Count claims that wait for staff by status, those of them that are overdue, and approved ones without an order.

    Orphans are counted with the inbox they are a part of.
    """
    rows = await session.execute(
        select(Claim.status, func.count(), func.count().filter(Claim.overdue()))
        .where(Claim.status.in_(WAITING))
        .group_by(Claim.status)
    )
    waiting, overdue = {status.value: 0 for status in WAITING}, 0
    for status, count, late in rows:
        waiting[status.value] = count
        overdue += late
    uncredited = await session.scalar(select(func.count()).select_from(Claim).where(Claim.uncredited()))
    return waiting, overdue, uncredited or 0


async def measure_syncs(session: AsyncSession) -> dict[str, int]:
    """Count sync runs that have not finished, by status."""
    rows = await session.execute(
        select(SyncRun.status, func.count())
        .where(SyncRun.status.in_([SyncStatus.QUEUED, SyncStatus.RUNNING]))
        .group_by(SyncRun.status)
    )
    return {"queued": 0, "running": 0} | {status.value: count for status, count in rows}


async def measure_polling(session: AsyncSession) -> tuple[int, float]:
    """Count sources whose last poll failed; and the seconds since the most overdue one was due."""
    failing, oldest, now = (
        await session.execute(
            select(
                func.count().filter(Poller.failures > 0),
                func.coalesce(func.min(Poller.next_poll_at), func.now()),
                func.now(),
            )
            .join(Source, Source.id == Poller.source_id)
            .where(Poller.enabled, Source.status == SourceStatus.ACTIVE)
        )
    ).one()
    return failing, max(0.0, _seconds_between(oldest, now))


@dataclass(frozen=True, slots=True)
class LedgerProof:
    """What the continuous check of one rule of the ledger has found."""

    rule: str
    # By the last whole pass over all keys, or so far by the one on its way if that has found more.
    violations: int
    # Since a whole pass ended; before the first one has, since it began.
    pass_age_seconds: float


async def measure_ledger(session: AsyncSession) -> tuple[list[LedgerProof], int]:
    """Return what is known of each rule of the ledger, and how many finished days are not sealed."""
    rows = await session.execute(
        select(
            LedgerCheck.invariant,
            func.greatest(LedgerCheck.violations, LedgerCheck.pass_violations).label("violations"),
            func.coalesce(LedgerCheck.pass_finished_at, LedgerCheck.pass_started_at).label("since"),
            func.now().label("now"),
        ).where(LedgerCheck.invariant.in_([check.name for check in CHECKS]), LedgerCheck.pass_started_at.is_not(None))
    )
    proofs = [LedgerProof(row.invariant, row.violations, _seconds_between(row.since, row.now)) for row in rows]
    return proofs, await count_due(session)


@dataclass(frozen=True, slots=True)
class PayoutDepths:
    """Payouts that are not finished, and those that somebody has to look at."""

    # By provider and state.
    unfinished: dict[tuple[PayoutProvider, PayoutStatus], int]
    # With the HTTP provider, which did not say what became of them.
    unknown: int
    unknown_oldest_seconds: float
    # Failed here, but paid by the provider's word.
    contradicted: int


async def measure_payouts(session: AsyncSession) -> PayoutDepths:
    """Count payouts on their way. `unknown_oldest_seconds`: since the oldest unknown one was handed over."""
    shown = (PayoutStatus.REQUESTED, PayoutStatus.APPROVED, PayoutStatus.SENT)
    rows = await session.execute(
        select(Payout.provider, Payout.status, func.count())
        .where(Payout.status.in_(shown))
        .group_by(Payout.provider, Payout.status)
    )
    none = {(provider, status): 0 for provider in PayoutProvider for status in shown}
    unfinished = none | {(provider, status): count for provider, status, count in rows}
    unknown, since, now = (
        await session.execute(
            select(func.count(Payout.id), func.min(PayoutChange.at), func.now())
            .join(PayoutChange, (PayoutChange.payout_id == Payout.id) & (PayoutChange.status == PayoutStatus.SENT))
            .where(
                Payout.status == PayoutStatus.SENT,
                Payout.provider == PayoutProvider.HTTP,
                Payout.reason.is_not(None),
            )
        )
    ).one()
    contradicted = select(func.count()).where(Payout.status == PayoutStatus.FAILED, Payout.next_attempt_at.is_not(None))
    return PayoutDepths(
        unfinished,
        unknown,
        _seconds_between(since, now) if unknown else 0.0,
        (await session.scalars(contradicted)).one(),
    )


async def measure_queues(redis: Redis, queues: tuple[str, ...]) -> dict[str, int]:
    """Count the jobs in each ARQ queue (a sorted set)."""
    return {queue: int(await redis.zcard(queue)) for queue in queues}


def _seconds_between(earlier: datetime, later: datetime) -> float:
    return (later - earlier).total_seconds()
