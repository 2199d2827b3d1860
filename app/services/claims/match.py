"""Comparing claims with orphans, both ways: a new claim with the orphans there are, a new orphan with the claims.

Each is marked once compared, after its own commit, so that of a claim and an orphan that come together at least one
sees the other, and what a lost ring left is found by the sweep. Locks are taken as in `orphans/credit.py`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeAlias
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    DateTime,
    ScalarSelect,
    SQLColumnExpression,
    and_,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute, defer

from app.config import Settings
from app.models import (
    WAITING,
    Claim,
    ClaimStatus,
    Click,
    Merchant,
    ReportKind,
    WebhookEvent,
    WebhookStatus,
    reference_key,
)
from app.money import MAX_MINOR
from app.services.claims.score import AMOUNT_TOLERANCE_BASIS_POINTS, TIME_TOLERANCE_DAYS, Score, score
from app.services.orders.numbers import spellings

BATCH = 100
# What reports a sale that can be credited, rather than what became of one.
SALES = (ReportKind.CREATED, ReportKind.APPROVED)
_MOST_CANDIDATES = 20
_WINDOW = timedelta(days=TIME_TOLERANCE_DAYS)
_WHOLE = 10_000

_TimeColumn: TypeAlias = InstrumentedAttribute[datetime] | InstrumentedAttribute[datetime | None]


async def orphans_for(session: AsyncSession, claim: Claim) -> list[tuple[WebhookEvent, Score]]:
    """Return the orphans that may be what is claimed, the best first, without their bodies.

    Candidates have the order's number, or a like amount at a like time; at most some of each.
    """
    source_id = await session.scalar(select(Merchant.source_id).where(Merchant.id == claim.merchant_id))
    clicked_at = _clicked_at(
        merchant_id=claim.merchant_id, customer_id=claim.customer_id, at=WebhookEvent.reported_at
    ).correlate(WebhookEvent)
    orphans = (
        select(WebhookEvent, clicked_at)
        .options(defer(WebhookEvent.body))
        .where(
            WebhookEvent.status == WebhookStatus.ORPHANED,
            WebhookEvent.reported_kind.in_(SALES),
            WebhookEvent.reported_sale_minor.is_not(None),
        )
        .limit(_MOST_CANDIDATES)
    )
    of_number = orphans.where(
        WebhookEvent.source_id == source_id,
        WebhookEvent.external_order_id.in_(spellings(claim.order_reference)),
        or_(WebhookEvent.merchant_id.is_(None), WebhookEvent.merchant_id == claim.merchant_id),
    ).order_by(WebhookEvent.id)
    tolerance = AMOUNT_TOLERANCE_BASIS_POINTS
    alike = orphans.where(
        WebhookEvent.merchant_id == claim.merchant_id,
        _near(WebhookEvent.reported_at, claim.ordered_at),
        WebhookEvent.reported_currency == claim.currency,
        WebhookEvent.reported_sale_minor.between(
            claim.amount_minor * (_WHOLE - tolerance) // _WHOLE,
            min(MAX_MINOR, claim.amount_minor * (_WHOLE + tolerance) // _WHOLE),
        ),
    ).order_by(_distance(WebhookEvent.reported_at, claim.ordered_at), WebhookEvent.id)
    scored = {
        event.id: (event, score(claim, event, clicked_at=last_click_at))
        for statement in (of_number, alike)
        for event, last_click_at in await session.execute(statement)
    }
    return sorted(scored.values(), key=lambda pair: (-pair[1].points, pair[0].id))


async def claims_for(session: AsyncSession, event: WebhookEvent) -> list[tuple[Claim, Score]]:
    """Return the waiting claims that may be of an orphan's sale, the best first; chosen as in `orphans_for`."""
    if event.reported_sale_minor is None or event.reported_kind not in SALES or event.external_order_id is None:
        return []
    clicked_at = _clicked_at(
        merchant_id=Claim.merchant_id,
        customer_id=Claim.customer_id,
        at=literal(event.reported_at, DateTime(timezone=True)),
    ).correlate(Claim)
    claims = select(Claim, clicked_at).where(Claim.status.in_(WAITING)).limit(_MOST_CANDIDATES)
    of_number = claims.where(Claim.reference_key == reference_key(event.external_order_id)).order_by(Claim.id)
    if event.merchant_id is None:
        merchants = select(Merchant.id).where(Merchant.source_id == event.source_id)
        statements = [of_number.where(Claim.merchant_id.in_(merchants))]
    else:
        sale_minor, tolerance = event.reported_sale_minor, AMOUNT_TOLERANCE_BASIS_POINTS
        alike = claims.where(
            Claim.merchant_id == event.merchant_id,
            _near(Claim.ordered_at, event.reported_at),
            Claim.currency == event.reported_currency,
            # The tolerance is a share of what is claimed.
            Claim.amount_minor.between(
                sale_minor * _WHOLE // (_WHOLE + tolerance),
                min(MAX_MINOR, -(-sale_minor * _WHOLE // (_WHOLE - tolerance))),
            ),
        ).order_by(_distance(Claim.ordered_at, event.reported_at), Claim.id)
        statements = [of_number.where(Claim.merchant_id == event.merchant_id), alike]
    scored = {
        claim.id: (claim, score(claim, event, clicked_at=last_click_at))
        for statement in statements
        for claim, last_click_at in await session.execute(statement)
    }
    return sorted(scored.values(), key=lambda pair: (-pair[1].points, pair[0].id))


async def fit(session: AsyncSession, claim: Claim, event: WebhookEvent) -> Score:
    """Score an orphan for a claim, with the customer's click before the sale it reports."""
    click = None
    if event.reported_at is not None:
        before = Click.before_sale(merchant_id=claim.merchant_id, at=event.reported_at, customer_id=claim.customer_id)
        click = await session.scalar(before.limit(1))
    return score(claim, event, clicked_at=None if click is None else click.created_at)


async def claims_to_compare(session: AsyncSession, *, limit: int = BATCH) -> Sequence[UUID]:
    """Return ids of claims that were not compared yet, the oldest first."""
    statement = select(Claim.id).where(Claim.status.in_(WAITING), Claim.compared_at.is_(None))
    return (await session.scalars(statement.order_by(Claim.id).limit(limit))).all()


async def orphans_to_compare(session: AsyncSession, *, limit: int = BATCH) -> Sequence[UUID]:
    """Return ids of orphans that were not compared yet, the oldest first."""
    statement = select(WebhookEvent.id).where(
        WebhookEvent.status == WebhookStatus.ORPHANED, WebhookEvent.compared_at.is_(None)
    )
    return (await session.scalars(statement.order_by(WebhookEvent.id).limit(limit))).all()


async def compare_claim(session: AsyncSession, settings: Settings, claim_id: UUID) -> bool:
    """Note the orphan that fits a waiting claim best; False when there was nothing to do. Safe to repeat."""
    claim = await session.scalar(
        select(Claim)
        .where(Claim.id == claim_id, Claim.status.in_(WAITING), Claim.compared_at.is_(None))
        # Held before looking: an orphan that comes from now on waits, and is then weighed against what was found.
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    if claim is None:
        return False
    fits = await orphans_for(session, claim)
    claim.compared_at = datetime.now(UTC)
    claim.status, claim.matched_event_id, claim.score, claim.score_reasons = ClaimStatus.OPEN, None, None, None
    if fits:
        event, best = fits[0]
        claim.status = _status(settings, best)
        claim.matched_event_id, claim.score, claim.score_reasons = event.id, best.points, best.reasons
    await session.flush()
    return True


async def compare_orphan(session: AsyncSession, settings: Settings, event_id: UUID) -> bool:
    """Note an orphan with each waiting claim that it fits better than any before; False when there was nothing to do.

    Safe to repeat.
    """
    event = await session.scalar(
        select(WebhookEvent)
        .options(defer(WebhookEvent.body))
        .where(
            WebhookEvent.id == event_id,
            WebhookEvent.status == WebhookStatus.ORPHANED,
            WebhookEvent.compared_at.is_(None),
        )
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    if event is None:
        return False
    # By id, so that two orphans meet the same claims in the same order.
    for claim, found in sorted(await claims_for(session, event), key=lambda pair: pair[0].id):
        await session.execute(
            update(Claim)
            .where(Claim.id == claim.id, Claim.status.in_(WAITING), _is_better(found.points, event.id))
            .values(
                status=_status(settings, found),
                matched_event_id=event.id,
                score=found.points,
                score_reasons=found.reasons,
            )
            .execution_options(synchronize_session=False)
        )
    event.compared_at = datetime.now(UTC)
    await session.flush()
    return True


def _status(settings: Settings, found: Score) -> ClaimStatus:
    return ClaimStatus.MATCHED if found.points >= settings.claim_match_score else ClaimStatus.OPEN


def _is_better(points: int, event_id: UUID) -> ColumnElement[bool]:
    """Of orphans that fit as well the first one counts, in whichever order they are compared."""
    return or_(
        Claim.score.is_(None),
        Claim.score < points,
        and_(Claim.score == points, Claim.matched_event_id > event_id),
    )


def _clicked_at(
    *,
    merchant_id: int | SQLColumnExpression[int],
    customer_id: UUID | SQLColumnExpression[UUID],
    at: SQLColumnExpression[datetime] | SQLColumnExpression[datetime | None],
) -> ScalarSelect[datetime]:
    clicks = Click.before_sale(merchant_id=merchant_id, at=at, customer_id=customer_id)
    return clicks.with_only_columns(Click.created_at).limit(1).scalar_subquery()


def _near(column: _TimeColumn, at: datetime | None) -> ColumnElement[bool]:
    # Added by PostgreSQL: a report may give a time at the end of the calendar, where Python's ends.
    moment, window = literal(at, DateTime(timezone=True)), literal(_WINDOW)
    return column.between(moment - window, moment + window)


def _distance(column: _TimeColumn, at: datetime | None) -> ColumnElement[int]:
    return func.abs(func.extract("epoch", column - literal(at, DateTime(timezone=True))))
