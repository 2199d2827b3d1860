"""Recording a network's statement: each line compared with what was owed, all of it in a handful of statements."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy.exc
from sqlalchemy import ARRAY, BigInteger, Text, Uuid, any_, column, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import constraint_name, ring_after_commit
from app.errors import ConflictError, FieldError, InvalidRequestError
from app.ids import new_id
from app.models import (
    Account,
    CauseType,
    Merchant,
    Order,
    Settlement,
    SettlementLine,
    SettlementLineStatus,
)
from app.money import MAX_MINOR
from app.schemas.settlements import SettlementCreate, SettlementLineCreate, SettlementRead
from app.services import ledger
from app.services.catalogue import MerchantNotFoundError
from app.services.ledger import credit, debit
from app.services.settlements import decisions, show


class SettlementExistsError(ConflictError):
    """A settlement of this merchant has this reference."""

    code = "settlement_exists"
    title = "Settlement exists"

    def __init__(self, reference: str) -> None:
        super().__init__(f"A settlement {reference!r} of this merchant is recorded already; nothing was counted twice.")


class SettlementTotalError(InvalidRequestError):
    """The total is not the sum of the lines."""

    code = "settlement_total_mismatch"
    title = "Total does not match"

    def __init__(self, total_minor: int, sum_minor: int) -> None:
        error: FieldError = {"loc": ["body", "total_minor"], "msg": f"The lines sum to {sum_minor}", "type": self.code}
        super().__init__(f"total_minor is {total_minor}, the lines sum to {sum_minor}.", errors=[error])


class SettlementDateError(InvalidRequestError):
    """A payment of the future."""

    code = "settlement_date_in_future"
    title = "Date in the future"

    def __init__(self, paid_on: date) -> None:
        error: FieldError = {"loc": ["body", "paid_on"], "msg": "In the future", "type": self.code}
        super().__init__(f"{paid_on} has not come yet; record a settlement once it is paid.", errors=[error])


class SettlementAmountError(InvalidRequestError):
    """The lines of an order add up to more than an amount can be."""

    code = "settlement_amount_out_of_range"
    title = "Amount out of range"

    def __init__(self, number: int) -> None:
        error: FieldError = {"loc": ["body", "lines", number - 1], "msg": "Out of range", "type": self.code}
        super().__init__(f"With line {number} its order's payments no longer fit in 64 bits.", errors=[error])


@dataclass(slots=True)
class Owed:
    """An order while a statement is gone through: what is still due for it, and what it has been paid."""

    order_id: UUID
    due_minor: int
    settled_minor: int
    paid_minor: int = 0

    def pay(self, amount_minor: int) -> None:
        """Count a line."""
        self.due_minor -= amount_minor
        self.paid_minor += amount_minor

    @property
    def fits(self) -> bool:
        """Whether its amounts can be stored."""
        return abs(self.due_minor) <= MAX_MINOR and abs(self.settled_minor + self.paid_minor) <= MAX_MINOR


async def record_settlement(session: AsyncSession, *, wanted: SettlementCreate, created_by_id: UUID) -> SettlementRead:
    """Record a statement, count its lines for the orders of the merchant, and book what was paid.

    Raises MerchantNotFoundError, SettlementDateError, SettlementTotalError, SettlementAmountError and
    SettlementExistsError.
    """
    if await session.get(Merchant, wanted.merchant_id) is None:
        raise MerchantNotFoundError(wanted.merchant_id)
    # A day's grace: where it was paid it may be tomorrow already.
    if wanted.paid_on > datetime.now(UTC).date() + timedelta(days=1):
        raise SettlementDateError(wanted.paid_on)
    if wanted.total_minor != (sum_minor := sum(line.amount_minor for line in wanted.lines)):
        raise SettlementTotalError(wanted.total_minor, sum_minor)
    owed = await _lock_orders(session, wanted)
    lines = compare(wanted.lines, owed)
    counts = Counter(line["status"] for line in lines)
    settlement = Settlement(
        id=new_id(),
        **wanted.model_dump(exclude={"lines"}),
        lines_by_status={status.value: counts[status] for status in SettlementLineStatus},
        created_by_id=created_by_id,
    )
    await _insert(session, settlement)
    await session.execute(
        # Without the option each change between lines with and without an order would begin another statement.
        insert(SettlementLine).execution_options(render_nulls=True),
        [{"settlement_id": settlement.id, **line} for line in lines],
    )
    await _count(session, owed.values())
    await decisions.close_settled(
        session,
        [order.order_id for order in owed.values() if order.due_minor == 0],
        note=f"with settlement {settlement.reference}",
        member_id=created_by_id,
    )
    await ledger.post(
        session,
        cause_type=CauseType.SETTLEMENT,
        cause_id=settlement.id,
        purpose="paid",
        lines=[
            debit(Account.CASH, settlement.total_minor, settlement.currency),
            credit(
                Account.NETWORK_RECEIVABLE,
                settlement.total_minor,
                settlement.currency,
                merchant_id=settlement.merchant_id,
            ),
        ],
        details={"reference": settlement.reference, "paid_on": settlement.paid_on.isoformat()},
    )
    ring_after_commit(session, "release_payable")
    return await show.read_settlement(session, settlement)


def compare(lines: Iterable[SettlementLineCreate], owed: dict[str, Owed]) -> list[dict[str, Any]]:
    """Compare lines, in their order, with what is owed, which each of them changes; returns the rows to keep.

    Several lines of one order add up: each is compared with what those before it left. Raises SettlementAmountError.
    """
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        order = owed.get(line.order_reference)
        expected_minor = None if order is None else order.due_minor
        rows.append(
            {
                "id": new_id(),
                "number": number,
                "order_reference": line.order_reference,
                "amount_minor": line.amount_minor,
                "expected_minor": expected_minor,
                "order_id": None if order is None else order.order_id,
                "status": _status(line.amount_minor, expected_minor),
            }
        )
        if order is not None:
            order.pay(line.amount_minor)
            if not order.fits:
                raise SettlementAmountError(number)
    return rows


def _status(amount_minor: int, expected_minor: int | None) -> SettlementLineStatus:
    if expected_minor is None:
        return SettlementLineStatus.UNKNOWN
    if amount_minor < expected_minor:
        return SettlementLineStatus.SHORT_PAID
    if amount_minor > expected_minor:
        return SettlementLineStatus.OVER_PAID
    return SettlementLineStatus.MATCHED


async def _lock_orders(session: AsyncSession, wanted: SettlementCreate) -> dict[str, Owed]:
    """Lock the orders that the lines name, in the order of their ids, as everyone does who locks several."""
    references = sorted({line.order_reference for line in wanted.lines})
    rows = await session.execute(
        select(Order.id, Order.external_id, Order.due_minor, Order.settled_minor)
        .where(
            Order.merchant_id == wanted.merchant_id,
            Order.external_id == any_(literal(references, ARRAY(Text))),
            Order.reported_currency == wanted.currency,
        )
        .order_by(Order.id)
        .with_for_update()
    )
    return {row.external_id: Owed(row.id, int(row.due_minor), row.settled_minor) for row in rows}


async def _insert(session: AsyncSession, settlement: Settlement) -> None:
    session.add(settlement)
    try:
        await session.flush()
    except sqlalchemy.exc.IntegrityError as error:
        if constraint_name(error) == "uq_settlements_merchant_id_reference":
            raise SettlementExistsError(settlement.reference) from error
        raise


async def _count(session: AsyncSession, owed: Iterable[Owed]) -> None:
    """Count what was paid for each order, in one statement."""
    counted = [order for order in owed if order.paid_minor]
    paid = (
        func.unnest(
            literal([order.order_id for order in counted], ARRAY(Uuid)),
            literal([order.paid_minor for order in counted], ARRAY(BigInteger)),
        )
        .table_valued(column("order_id", Uuid), column("amount_minor", BigInteger))
        .render_derived()
    )
    await session.execute(
        update(Order)
        .where(Order.id == paid.c.order_id)
        .values(settled_minor=Order.settled_minor + paid.c.amount_minor, updated_at=func.now())
        .execution_options(synchronize_session=False)
    )
