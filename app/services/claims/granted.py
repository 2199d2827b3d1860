"""Sales that may be credited already, in one way or the other: so that none is credited twice.

An order that a claim made by hand has the number that a person gave. Its source may spell it otherwise, or number its
transactions itself; then only who bought where, when and for how much tells that two orders may be one.
"""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, DateTime, ScalarSelect, Select, exists, literal, select

from app.models import Claim, ClaimStatus, Click, Merchant, Order, OrderReport, reference_key
from app.money import MAX_MINOR

_TOLERANCE = timedelta(days=5)


def is_granted(reference: str) -> tuple[ColumnElement[bool], ...]:
    """Conditions on a claim joined with its order: credited by hand, of this number in any spelling."""
    return (
        Claim.reference_key == reference_key(reference),
        Claim.status == ClaimStatus.APPROVED,
        # An order that came from an event has that one's number, and is found by it.
        Order.external_id == Claim.order_reference,
    )


def granted_order(reference: str) -> ScalarSelect[UUID | None]:
    """Select the order of this number that a claim made by hand; correlated with the report's Merchant."""
    return (
        select(Claim.order_id)
        .join(Order, Order.id == Claim.order_id)
        .where(Claim.merchant_id == Merchant.id, *is_granted(reference))
        .limit(1)
        .correlate(Merchant)
        .scalar_subquery()
    )


def like_grant(*, currency: str | None, sale_minor: int | None, at: datetime) -> ScalarSelect[Any]:
    """Select a claim that was credited by hand for a like sale, which no report has joined since.

    Correlated with the report's Click: of its customer, at its merchant.
    """
    return (
        select(Claim.id)
        .join(Order, Order.id == Claim.order_id)
        .where(
            Claim.customer_id == Click.customer_id,
            Claim.merchant_id == Click.merchant_id,
            Claim.status == ClaimStatus.APPROVED,
            Order.external_id == Claim.order_reference,
            *_is_like(currency=currency, sale_minor=sale_minor, at=at),
            ~exists().where(OrderReport.order_id == Order.id, OrderReport.webhook_event_id.is_not(None)),
        )
        .order_by(Claim.id)
        .limit(1)
        .correlate(Click)
        .scalar_subquery()
    )


def like_orders(claim: Claim, *, currency: str, sale_minor: int) -> Select[Order]:
    """Select orders of a claim's customer at its shop that are like what is claimed, the last one first."""
    return (
        select(Order)
        .where(
            Order.customer_id == claim.customer_id,
            Order.merchant_id == claim.merchant_id,
            *_is_like(currency=currency, sale_minor=sale_minor, at=claim.ordered_at),
        )
        .order_by(Order.ordered_at.desc(), Order.id)
    )


def _is_like(*, currency: str | None, sale_minor: int | None, at: datetime) -> tuple[ColumnElement[bool], ...]:
    sale, tolerance = sale_minor or 0, (sale_minor or 0) // 10
    # Added by PostgreSQL: a report may give a time at the end of the calendar, where Python's ends.
    sold_at, days = literal(at, DateTime(timezone=True)), literal(_TOLERANCE)
    return (
        Order.reported_currency == currency,
        Order.reported_sale_minor.between(sale - tolerance, min(MAX_MINOR, sale + tolerance)),
        Order.ordered_at.between(sold_at - days, sold_at + days),
    )
