"""Claims as the contract shows them: to their customer, and to staff with what helps to decide."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import WAITING, Claim, ClaimStatus, Click, ClickOrigin
from app.schemas.claims import (
    ClaimAdminDetail,
    ClaimAdminPage,
    ClaimAdminRead,
    ClaimPage,
    ClaimRead,
    ClaimState,
    OrderSeen,
    OrphanFit,
    OtherClaim,
)
from app.schemas.common import Money
from app.schemas.orphans import ScoreReason
from app.services.claims.file import ClaimNotFoundError
from app.services.claims.granted import like_orders
from app.services.claims.match import orphans_for
from app.services.orders.numbers import find_order
from app.services.orphans.read import click_seen, orphan_read
from app.services.pagination import cut_page, decode_cursor, encode_cursor

_MOST_ROWS = 20


def claim_read(claim: Claim) -> ClaimRead:
    """Show a claim to its customer.

    That an orphan fits is not told: it would let somebody find out which orders nobody was credited for.
    """
    status = ClaimState.OPEN if claim.status in WAITING else ClaimState(claim.status.value)
    return ClaimRead(**_facts(claim), status=status)


async def list_claims(
    session: AsyncSession, *, customer_id: UUID, limit: int, cursor: str | None, status: ClaimState | None = None
) -> ClaimPage:
    """Return a customer's claims, newest first. Raises InvalidCursorError."""
    statement = select(Claim).where(Claim.customer_id == customer_id)
    if status is ClaimState.OPEN:
        statement = statement.where(Claim.status.in_(WAITING))
    elif status is not None:
        statement = statement.where(Claim.status == ClaimStatus(status.value))
    claims, next_cursor = await _page(session, statement, limit=limit, cursor=cursor)
    return ClaimPage(items=[claim_read(claim) for claim in claims], next_cursor=next_cursor)


async def get_claim(session: AsyncSession, *, customer_id: UUID, claim_id: UUID) -> ClaimRead:
    """Return a customer's claim. Raises ClaimNotFoundError, also for another customer's."""
    claim = await session.scalar(select(Claim).where(Claim.id == claim_id, Claim.customer_id == customer_id))
    if claim is None:
        raise ClaimNotFoundError(claim_id)
    return claim_read(claim)


async def list_for_staff(
    session: AsyncSession,
    *,
    limit: int,
    cursor: str | None,
    status: ClaimStatus | None = None,
    overdue: bool | None = None,
    uncredited: bool | None = None,
    merchant_id: int | None = None,
    customer_id: UUID | None = None,
) -> ClaimAdminPage:
    """Return claims, newest first; a filter that is None lets all pass. Raises InvalidCursorError."""
    statement = select(Claim)
    equal = {Claim.status: status, Claim.merchant_id: merchant_id, Claim.customer_id: customer_id}
    for column, value in equal.items():
        if value is not None:
            statement = statement.where(column == value)
    for condition, wanted in ((Claim.overdue(), overdue), (Claim.uncredited(), uncredited)):
        if wanted is not None:
            statement = statement.where(condition if wanted else ~condition)
    claims, next_cursor = await _page(session, statement, limit=limit, cursor=cursor)
    return ClaimAdminPage(items=[_admin_read(claim) for claim in claims], next_cursor=next_cursor)


async def show_to_staff(session: AsyncSession, *, claim_id: UUID) -> ClaimAdminDetail:
    """Return a claim with the customer's clicks, the orphans that fit, and whoever else wants the order.

    Raises ClaimNotFoundError.
    """
    claim = await session.get(Claim, claim_id)
    if claim is None:
        raise ClaimNotFoundError(claim_id)
    clicks = await session.scalars(
        select(Click)
        .where(
            Click.customer_id == claim.customer_id,
            Click.merchant_id == claim.merchant_id,
            Click.origin == ClickOrigin.CUSTOMER,
        )
        .order_by(Click.id.desc())
        .limit(_MOST_ROWS)
    )
    known = await find_order(session, merchant_id=claim.merchant_id, reference=claim.order_reference)
    like = await session.scalars(
        like_orders(claim, currency=claim.currency, sale_minor=claim.amount_minor).limit(_MOST_ROWS)
    )
    others = await session.scalars(
        select(Claim)
        .where(
            Claim.merchant_id == claim.merchant_id,
            Claim.reference_key == claim.reference_key,
            Claim.customer_id != claim.customer_id,
            Claim.status.in_((*WAITING, ClaimStatus.APPROVED)),
        )
        .order_by(Claim.id)
        .limit(_MOST_ROWS)
    )
    fits = await orphans_for(session, claim) if claim.status in WAITING else []
    return ClaimAdminDetail(
        **dict(_admin_read(claim)),
        clicks=[click_seen(click, counts=click.counts_for(claim.ordered_at)) for click in clicks],
        orphans=[
            OrphanFit.model_validate({"orphan": orphan_read(event), "score": found.points, "reasons": found.reasons})
            for event, found in fits
        ],
        known_order=None if known is None else OrderSeen.model_validate(known),
        like_orders=[OrderSeen.model_validate(order) for order in like],
        other_claims=[OtherClaim.model_validate(other) for other in others],
    )


async def _page(
    session: AsyncSession, statement: Select[Claim], *, limit: int, cursor: str | None
) -> tuple[list[Claim], str | None]:
    if cursor is not None:
        (last_id,) = decode_cursor(cursor, UUID)
        statement = statement.where(Claim.id < last_id)
    found = await session.scalars(statement.order_by(Claim.id.desc()).limit(limit + 1))
    claims, more = cut_page(found.all(), limit)
    return claims, encode_cursor(claims[-1].id) if more else None


def _facts(claim: Claim) -> dict[str, Any]:
    return {
        "id": claim.id,
        "merchant_id": claim.merchant_id,
        "order_reference": claim.order_reference,
        "ordered_at": claim.ordered_at,
        "amount": Money(amount_minor=claim.amount_minor, currency=claim.currency),
        "note": claim.note,
        "evidence": claim.evidence,
        "due_at": claim.due_at,
        "order_id": claim.order_id,
        "resolution_note": claim.resolution_note,
        "resolved_at": claim.resolved_at,
        "created_at": claim.created_at,
    }


def _admin_read(claim: Claim) -> ClaimAdminRead:
    return ClaimAdminRead(
        **_facts(claim),
        customer_id=claim.customer_id,
        status=claim.status,
        overdue=claim.status in WAITING and claim.due_at <= datetime.now(UTC),
        matched_event_id=claim.matched_event_id,
        score=claim.score,
        score_reasons=[ScoreReason.model_validate(reason) for reason in claim.score_reasons or ()],
        resolved_by_id=claim.resolved_by_id,
    )
