"""How merchants perform: clicks, orders and money of a period, by merchant and currency.

PostgreSQL does the counting in one statement, so that all figures are of one moment. Clicks count on the day they
were made, orders on the day of the purchase; both days of a period are included and begin at midnight UTC.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, TypeAlias

from sqlalchemy import Row, Select, and_, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import FieldError, InvalidRequestError
from app.models import Click, ClickOrigin, Merchant, Order, OrderStatus
from app.money import BASIS_POINTS
from app.schemas.report import MoneySum, ReportFigures, ReportMerchant, ReportRead, ReportRow
from app.services.catalogue import MerchantNotFoundError

DEFAULT_DAYS = 30
MOST_DAYS = 366
# In the order of the contract; each is a sum over live orders.
AMOUNTS = ("sales", "commission", "cashback", "margin")

_DEAD = (OrderStatus.DECLINED, OrderStatus.REVERSED)
_Row: TypeAlias = Row[*tuple[Any, ...]]


class InvalidPeriodError(InvalidRequestError):
    """A period that ends before it begins, is too long, or leaves the calendar."""

    code = "invalid_period"
    title = "Invalid period"

    def __init__(self, detail: str) -> None:
        errors: list[FieldError] = [{"loc": ["query", "from"], "msg": detail, "type": self.code}]
        super().__init__(detail, errors=errors)


async def read_report(
    session: AsyncSession, *, first: date | None, last: date | None, merchant_id: int | None
) -> ReportRead:
    """Read the report of a period, both days included; see `choose_period` for defaults.

    Raises InvalidPeriodError, MerchantNotFoundError.
    """
    first, last = choose_period(first, last, today=datetime.now(UTC).date())
    if merchant_id is not None and await session.get(Merchant, merchant_id) is None:
        raise MerchantNotFoundError(merchant_id)
    rows = (await session.execute(_figures(_midnight(first), _midnight(last) + timedelta(days=1), merchant_id))).all()
    items = [_item(row) for row in rows]
    return ReportRead(first=first, last=last, items=items, totals=_totals(items))


def choose_period(first: date | None, last: date | None, *, today: date) -> tuple[date, date]:
    """Return the first and last day: by default the 30 days up to and with today. Raises InvalidPeriodError."""
    last = last or today
    # The day after `last` must exist as well: there the period ends.
    if last == date.max or (first is None and last < date.min + timedelta(days=DEFAULT_DAYS)):
        raise InvalidPeriodError("The period leaves the calendar.")
    first = first or last - timedelta(days=DEFAULT_DAYS - 1)
    if first > last:
        raise InvalidPeriodError(f"The period begins on {first} and so after its end on {last}.")
    days = (last - first).days + 1
    if days > MOST_DAYS:
        raise InvalidPeriodError(f"The period has {days} days; at most {MOST_DAYS} can be asked for at once.")
    return first, last


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, UTC)


def _figures(start: datetime, end: datetime, merchant_id: int | None) -> Select[*tuple[Any, ...]]:
    """Count clicks and orders of `[start, end)`, and lay both side by side."""
    clicks = (
        select(Click.merchant_id, Click.currency, func.count().label("clicks"))
        .where(Click.created_at >= start, Click.created_at < end, Click.origin == ClickOrigin.CUSTOMER)
        .group_by(Click.merchant_id, Click.currency)
    )
    live = Order.status.not_in(_DEAD)
    orders = (
        select(
            Order.merchant_id,
            Order.currency,
            func.count().filter(live).label("orders"),
            func.count().filter(Order.status.in_(_DEAD)).label("declined_orders"),
            func.sum(Order.sale_minor).filter(live).label("sales"),
            func.sum(Order.commission_minor).filter(live).label("commission"),
            func.sum(Order.cashback_minor).filter(live).label("cashback"),
        )
        .where(Order.ordered_at >= start, Order.ordered_at < end)
        .group_by(Order.merchant_id, Order.currency)
    )
    if merchant_id is not None:
        clicks, orders = clicks.where(Click.merchant_id == merchant_id), orders.where(Order.merchant_id == merchant_id)
    clicked, ordered = clicks.subquery("clicked"), orders.subquery("ordered")
    both = clicked.join(
        ordered,
        and_(clicked.c.merchant_id == ordered.c.merchant_id, clicked.c.currency == ordered.c.currency),
        full=True,
    )
    currency = func.coalesce(clicked.c.currency, ordered.c.currency).label("currency")
    figures = [
        func.coalesce(column, 0).label(column.name)
        for column in (clicked.c.clicks, *(c for c in ordered.c if c.name not in {"merchant_id", "currency"}))
    ]
    return (
        select(Merchant.id, Merchant.slug, Merchant.name, currency, *figures)
        .select_from(both)
        .join(Merchant, Merchant.id == func.coalesce(clicked.c.merchant_id, ordered.c.merchant_id))
        .order_by(Merchant.name, Merchant.id, currency)
    )


def _item(row: _Row) -> ReportRow:
    # PostgreSQL sums BIGINT into NUMERIC, which arrives as a whole Decimal.
    sums = {name: int(row._mapping[name]) for name in ("sales", "commission", "cashback")}  # noqa: SLF001 - its name
    sums["margin"] = sums["commission"] - sums["cashback"]
    return ReportRow(
        merchant=ReportMerchant(id=row.id, slug=row.slug, name=row.name),
        currency=row.currency,
        clicks=row.clicks,
        orders=row.orders,
        declined_orders=row.declined_orders,
        conversion_basis_points=_conversion(row.orders, row.clicks),
        **{name: MoneySum(amount_minor=amount, currency=row.currency) for name, amount in sums.items()},
    )


def _totals(items: Sequence[ReportRow]) -> list[ReportFigures]:
    currencies = sorted({item.currency for item in items})
    return [_total(currency, [item for item in items if item.currency == currency]) for currency in currencies]


def _total(currency: str, items: Sequence[ReportRow]) -> ReportFigures:
    def summed(amounts: Iterable[MoneySum]) -> MoneySum:
        return MoneySum(amount_minor=sum(amount.amount_minor for amount in amounts), currency=currency)

    clicks, orders = sum(item.clicks for item in items), sum(item.orders for item in items)
    return ReportFigures(
        currency=currency,
        clicks=clicks,
        orders=orders,
        declined_orders=sum(item.declined_orders for item in items),
        conversion_basis_points=_conversion(orders, clicks),
        sales=summed(item.sales for item in items),
        commission=summed(item.commission for item in items),
        cashback=summed(item.cashback for item in items),
        margin=summed(item.margin for item in items),
    )


def _conversion(orders: int, clicks: int) -> int | None:
    return orders * BASIS_POINTS // clicks if clicks else None
