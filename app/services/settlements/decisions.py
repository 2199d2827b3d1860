"""What a decision about a settlement line moves, and how it is undone. The line and its order are locked by the caller.

A line's `revision` counts decisions and their undoing, and names the ledger transfer of each.
"""

from collections.abc import Collection
from typing import Any, assert_never
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, any_, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import (
    Account,
    CauseType,
    Order,
    Settlement,
    SettlementLine,
    SettlementLineStatus,
    SettlementResolution,
    Transfer,
)
from app.services import ledger
from app.services.ledger import Line, credit, debit


async def write_off(
    session: AsyncSession, line: SettlementLine, settlement: Settlement, order: Order | None, amount_minor: int
) -> None:
    """Stop waiting for an amount above zero: it is our loss."""
    await _decide(session, line, settlement, order, SettlementResolution.WRITTEN_OFF, amount_minor)


async def accept(
    session: AsyncSession, line: SettlementLine, settlement: Settlement, order: Order | None, amount_minor: int
) -> None:
    """Keep an amount above zero that was paid too much: it is our margin."""
    await _decide(session, line, settlement, order, SettlementResolution.ACCEPTED, amount_minor)


async def assign(session: AsyncSession, line: SettlementLine, order: Order) -> None:
    """Count an unknown line for an order. Nothing is posted: the money was booked with its settlement."""
    line.order_id, line.resolution = order.id, SettlementResolution.ASSIGNED
    line.revision += 1
    order.settled_minor += line.amount_minor
    await session.flush()


async def undo(
    session: AsyncSession,
    line: SettlementLine,
    settlement: Settlement,
    order: Order | None,
    *,
    note: str,
    member_id: UUID | None = None,
) -> None:
    """Open a line again and take back what its resolution posted or counted for its order."""
    match line.resolution:
        case SettlementResolution.WRITTEN_OFF | SettlementResolution.ACCEPTED:
            await _take_back(session, line, settlement, order, details=_details(note, member_id))
        case SettlementResolution.ASSIGNED:
            if order is not None:
                order.settled_minor -= line.amount_minor
            line.order_id = None
        case SettlementResolution.SETTLED_LATER | None:
            pass
        case _:
            assert_never(line.resolution)
    line.revision += 1
    line.resolution = line.resolved_minor = line.resolved_by_id = line.resolved_at = None
    line.resolution_note = f"reopened: {note}"
    await session.flush()


async def close_settled(
    session: AsyncSession, order_ids: Collection[UUID], *, note: str, member_id: UUID | None = None
) -> None:
    """Close what is open of orders for which nothing is due any more, neither way."""
    if not order_ids:
        return
    await session.execute(
        update(SettlementLine)
        .where(
            SettlementLine.order_id == any_(literal(list(order_ids), ARRAY(Uuid))),
            SettlementLine.status != SettlementLineStatus.MATCHED,
            SettlementLine.resolution.is_(None),
        )
        .values(
            resolution=SettlementResolution.SETTLED_LATER,
            resolution_note=note,
            resolved_by_id=member_id,
            resolved_at=func.now(),
            revision=SettlementLine.revision + 1,
        )
        .execution_options(synchronize_session=False)
    )


async def _decide(
    session: AsyncSession,
    line: SettlementLine,
    settlement: Settlement,
    order: Order | None,
    resolution: SettlementResolution,
    amount_minor: int,
) -> None:
    line.resolution, line.resolved_minor = resolution, amount_minor
    line.revision += 1
    if order is not None:
        order.written_off_minor += _written_off(line)
    await session.flush()
    await ledger.post(
        session,
        cause_type=CauseType.SETTLEMENT,
        cause_id=line.id,
        purpose=_purpose(line),
        lines=_position(line, settlement),
        details={"note": line.resolution_note, "staff_key_id": str(line.resolved_by_id)},
    )


async def _take_back(
    session: AsyncSession,
    line: SettlementLine,
    settlement: Settlement,
    order: Order | None,
    *,
    details: dict[str, Any],
) -> None:
    if order is not None:
        order.written_off_minor -= _written_off(line)
    decided = await session.scalar(
        select(Transfer.id).where(
            Transfer.cause_type == CauseType.SETTLEMENT,
            Transfer.cause_id == line.id,
            Transfer.purpose == _purpose(line),
        )
    )
    await ledger.post(
        session,
        cause_type=CauseType.SETTLEMENT,
        cause_id=line.id,
        purpose=f"undone:{line.revision + 1}",
        lines=[posted.reversed() for posted in _position(line, settlement)],
        corrects_id=decided,
        details=details,
    )


def _written_off(line: SettlementLine) -> int:
    """Return what a decision takes from what is due: below zero where it accepts what was paid too much."""
    amount_minor = line.resolved_minor or 0
    return amount_minor if line.resolution is SettlementResolution.WRITTEN_OFF else -amount_minor


def _position(line: SettlementLine, settlement: Settlement) -> list[Line]:
    amount_minor, currency, merchant_id = line.resolved_minor or 0, settlement.currency, settlement.merchant_id
    if line.resolution is SettlementResolution.WRITTEN_OFF:
        return [
            debit(Account.BAD_DEBT, amount_minor, currency, merchant_id=merchant_id),
            credit(Account.NETWORK_RECEIVABLE, amount_minor, currency, merchant_id=merchant_id),
        ]
    return [
        debit(Account.NETWORK_RECEIVABLE, amount_minor, currency, merchant_id=merchant_id),
        credit(Account.MARGIN, amount_minor, currency, merchant_id=merchant_id),
    ]


def _purpose(line: SettlementLine) -> str:
    return f"{line.resolution}:{line.revision}"


def _details(note: str | None, member_id: UUID | None) -> dict[str, Any]:
    return {"note": note, "staff_key_id": None if member_id is None else str(member_id)}
