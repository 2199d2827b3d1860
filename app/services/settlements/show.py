"""Settlements and their lines, as staff see them."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import BigInteger, Select, func, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFoundError
from app.models import Order, Settlement, SettlementLine, SettlementLineStatus
from app.schemas.common import Money
from app.schemas.settlements import (
    SettlementDetail,
    SettlementLinePage,
    SettlementLineRead,
    SettlementPage,
    SettlementRead,
)
from app.services.pagination import cut_page, decode_cursor, encode_cursor, newest_first


class SettlementNotFoundError(NotFoundError):
    """No settlement has this id."""

    code = "settlement_not_found"
    title = "Settlement not found"

    def __init__(self, settlement_id: UUID) -> None:
        super().__init__(f"There is no settlement {settlement_id}.")


class SettlementLineNotFoundError(NotFoundError):
    """No settlement line has this id."""

    code = "settlement_line_not_found"
    title = "Settlement line not found"

    def __init__(self, line_id: UUID) -> None:
        super().__init__(f"There is no settlement line {line_id}.")


async def list_settlements(
    session: AsyncSession, *, limit: int, cursor: str | None, merchant_id: int | None = None
) -> SettlementPage:
    """Return settlements, the last recorded first. Raises InvalidCursorError."""
    statement = select(Settlement)
    if merchant_id is not None:
        statement = statement.where(Settlement.merchant_id == merchant_id)
    rows, next_cursor = await newest_first(session, statement, Settlement.id, limit=limit, cursor=cursor)
    open_lines = await _count_open(session, rows)
    items = [_read(settlement, open_lines.get(settlement.id, 0)) for settlement in rows]
    return SettlementPage(items=items, next_cursor=next_cursor)


async def get_settlement(
    session: AsyncSession, *, settlement_id: UUID, limit: int, cursor: str | None
) -> SettlementDetail:
    """Return a settlement with a page of its lines. Raises SettlementNotFoundError and InvalidCursorError."""
    settlement = await session.get(Settlement, settlement_id)
    if settlement is None:
        raise SettlementNotFoundError(settlement_id)
    lines = await list_lines(session, limit=limit, cursor=cursor, settlement_id=settlement_id)
    return SettlementDetail(**dict(await read_settlement(session, settlement)), lines=lines)


async def read_settlement(session: AsyncSession, settlement: Settlement) -> SettlementRead:
    """Show a settlement."""
    return _read(settlement, (await _count_open(session, [settlement])).get(settlement.id, 0))


async def list_lines(
    session: AsyncSession,
    *,
    limit: int,
    cursor: str | None,
    settlement_id: UUID | None = None,
    merchant_id: int | None = None,
    status: SettlementLineStatus | None = None,
    only_open: bool = False,
) -> SettlementLinePage:
    """Return lines of settlements, the oldest first, each statement's in its order. Raises InvalidCursorError."""
    place = (SettlementLine.settlement_id, SettlementLine.number)
    statement = _lines().order_by(*place).limit(limit + 1)
    filters = {
        SettlementLine.settlement_id: settlement_id,
        Settlement.merchant_id: merchant_id,
        SettlementLine.status: status,
    }
    for column, value in filters.items():
        if value is not None:
            statement = statement.where(column == value)
    if only_open:
        statement = statement.where(
            SettlementLine.status != SettlementLineStatus.MATCHED, SettlementLine.resolution.is_(None)
        )
    if cursor is not None:
        last_settlement, last_number = decode_cursor(cursor, UUID, int)
        statement = statement.where(tuple_(*place) > tuple_(last_settlement, literal(last_number, BigInteger)))
    rows, more = cut_page((await session.execute(statement)).all(), limit)
    items = [_read_line(*row) for row in rows]
    next_cursor = encode_cursor(items[-1].settlement_id, items[-1].number) if more else None
    return SettlementLinePage(items=items, next_cursor=next_cursor)


async def get_line(session: AsyncSession, *, line_id: UUID) -> SettlementLineRead:
    """Return a line. Raises SettlementLineNotFoundError."""
    row = (await session.execute(_lines().where(SettlementLine.id == line_id))).one_or_none()
    if row is None:
        raise SettlementLineNotFoundError(line_id)
    return _read_line(*row)


def _lines() -> Select[SettlementLine, Settlement, int]:
    return (
        select(SettlementLine, Settlement, Order.due_minor)
        .join(Settlement, Settlement.id == SettlementLine.settlement_id)
        .outerjoin(Order, Order.id == SettlementLine.order_id)
    )


async def _count_open(session: AsyncSession, settlements: Sequence[Settlement]) -> dict[UUID, int]:
    rows = await session.execute(
        select(SettlementLine.settlement_id, func.count().label("lines"))
        .where(
            SettlementLine.settlement_id.in_([settlement.id for settlement in settlements]),
            SettlementLine.status != SettlementLineStatus.MATCHED,
            SettlementLine.resolution.is_(None),
        )
        .group_by(SettlementLine.settlement_id)
    )
    return {row.settlement_id: row.lines for row in rows}


def _read(settlement: Settlement, open_lines: int) -> SettlementRead:
    computed = {"total", "open_lines"}
    return SettlementRead(
        **{name: getattr(settlement, name) for name in SettlementRead.model_fields if name not in computed},
        total=Money(amount_minor=settlement.total_minor, currency=settlement.currency),
        open_lines=open_lines,
    )


def _read_line(line: SettlementLine, settlement: Settlement, due_minor: int | None) -> SettlementLineRead:
    def money(amount_minor: int | None) -> Money | None:
        return None if amount_minor is None else Money(amount_minor=int(amount_minor), currency=settlement.currency)

    amounts = {
        "amount": money(line.amount_minor),
        "expected": money(line.expected_minor),
        "due": money(due_minor),
        "resolved": money(line.resolved_minor),
    }
    columns = SettlementLineRead.model_fields.keys() - amounts.keys() - {"merchant_id"}
    return SettlementLineRead.model_validate(
        {**{name: getattr(line, name) for name in columns}, **amounts, "merchant_id": settlement.merchant_id}
    )
