"""Sales that may be credited already, in one way or the other: so that none is credited twice.

An order that a claim made by hand has the number that a person gave. Its source may spell it otherwise, or number its
transactions itself; then only who bought where, when and for how much tells that two orders may be one.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, DateTime, Select, Text, bindparam, exists, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Claim, ClaimStatus, Click, Order, OrderReport, reference_key
from app.money import MAX_MINOR

_TOLERANCE = literal(timedelta(days=5))


@dataclass(frozen=True, slots=True)
class Granted:
    """What a new report may be of: an order that a claim made of the same number, or a claim credited for the like."""

    order_id: UUID | None
    like_claim_id: UUID | None


def by_hand(key: ColumnElement[str]) -> tuple[ColumnElement[bool], ...]:
    """Conditions on a claim joined with its order: credited by hand, of the number with this `reference_key`."""
    return Claim.reference_key == key, *_BY_HAND


async def find_granted(
    session: AsyncSession, click: Click, *, reference: str, currency: str | None, sale_minor: int | None, at: datetime
) -> Granted:
    """Look for what a report of a click's customer and merchant would credit a second time."""
    row = (
        await session.execute(
            _FIND,
            {
                "merchant_id": click.merchant_id,
                "customer_id": click.customer_id,
                "key": reference_key(reference),
                **_like(currency=currency, sale_minor=sale_minor, at=at),
            },
        )
    ).one()
    return Granted(row.order_id, row.like_claim_id)


def like_orders(claim: Claim, *, currency: str, sale_minor: int) -> Select[Order]:
    """Select orders of a claim's customer at its shop that are like what is claimed, the last one first."""
    return (
        select(Order)
        .where(Order.customer_id == claim.customer_id, Order.merchant_id == claim.merchant_id, *_IS_LIKE)
        .order_by(Order.ordered_at.desc(), Order.id)
        .params(_like(currency=currency, sale_minor=sale_minor, at=claim.ordered_at))
    )


def _like(*, currency: str | None, sale_minor: int | None, at: datetime) -> dict[str, object]:
    sale, tolerance = sale_minor or 0, (sale_minor or 0) // 10
    return {"currency": currency, "least": sale - tolerance, "most": min(MAX_MINOR, sale + tolerance), "at": at}


# Added by PostgreSQL: a report may give a time at the end of the calendar, where Python's ends.
_AT = bindparam("at", type_=DateTime(timezone=True))
_IS_LIKE = (
    Order.reported_currency == bindparam("currency", type_=Text),
    Order.reported_sale_minor.between(bindparam("least", type_=BigInteger), bindparam("most", type_=BigInteger)),
    Order.ordered_at.between(_AT - _TOLERANCE, _AT + _TOLERANCE),
)
_BY_HAND = (
    Claim.status == ClaimStatus.APPROVED,
    # An order that came from an event has that one's number, and is found by it.
    Order.external_id == Claim.order_reference,
)
_GRANTED = (
    select(Claim.id)
    .join(Order, Order.id == Claim.order_id)
    .where(Claim.merchant_id == bindparam("merchant_id"), *_BY_HAND)
    .limit(1)
)
# Built once: every report that makes an order asks.
_FIND = select(
    _GRANTED.with_only_columns(Claim.order_id)
    .where(Claim.reference_key == bindparam("key"))
    .scalar_subquery()
    .label("order_id"),
    _GRANTED.where(
        Claim.customer_id == bindparam("customer_id"),
        *_IS_LIKE,
        # Once a report has joined the order, it is known, and a like one is another.
        ~exists().where(OrderReport.order_id == Order.id, OrderReport.webhook_event_id.is_not(None)),
    )
    .order_by(Claim.id)
    .scalar_subquery()
    .label("like_claim_id"),
)
