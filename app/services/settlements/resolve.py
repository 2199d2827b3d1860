"""Reconciling: what staff decide about lines that do not match. Money moves as the decision says, at once.

The order's row is always locked before the line's, as settlements and events do, so that they cannot deadlock.
"""

from datetime import UTC, datetime
from typing import assert_never
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ring_after_commit
from app.errors import ConflictError, FieldError, InvalidRequestError
from app.models import Order, Settlement, SettlementLine, SettlementLineStatus, SettlementResolution
from app.schemas.settlements import SettlementLineRead, SettlementResolve
from app.services.settlements import decisions, show
from app.services.settlements.show import SettlementLineNotFoundError


class SettlementLineClosedError(ConflictError):
    """The line matched, or was resolved before."""

    code = "settlement_line_closed"
    title = "Line is closed"

    def __init__(self, line: SettlementLine) -> None:
        what = f"was resolved as {line.resolution}" if line.resolution else f"is {line.status}"
        super().__init__(f"The line {what}; there is nothing to resolve.")


class SettlementLineOpenError(ConflictError):
    """A line that was never resolved cannot be opened again."""

    code = "settlement_line_open"
    title = "Line is not resolved"

    def __init__(self) -> None:
        super().__init__("The line has no resolution that could be undone.")


class SettlementLineChangedError(ConflictError):
    """Somebody else assigned the line, or undid that, at the same moment."""

    code = "settlement_line_changed"
    title = "Line has changed"

    def __init__(self) -> None:
        super().__init__("The line was changed by somebody else just now; look at it again.")


class ResolutionMismatchError(ConflictError):
    """The resolution does not fit the line as its order now is."""

    code = "settlement_resolution_mismatch"
    title = "Resolution does not fit"

    def __init__(self, resolution: SettlementResolution, order: Order | None) -> None:
        due = "it has no order" if order is None else f"{order.due_minor} is due for its order now"
        super().__init__(f"The line cannot be resolved as {resolution}: {due}.")


class ForeignOrderError(InvalidRequestError):
    """The order that a line shall be assigned to is not one of the statement's merchant and currency."""

    code = "settlement_order_mismatch"
    title = "Order does not fit"

    def __init__(self, settlement: Settlement) -> None:
        error: FieldError = {"loc": ["body", "order_id"], "msg": "Does not fit the statement", "type": self.code}
        super().__init__(
            f"order_id must be an order of merchant {settlement.merchant_id} that is reported in"
            f" {settlement.currency}.",
            errors=[error],
        )


async def resolve_line(
    session: AsyncSession, *, line_id: UUID, wanted: SettlementResolve, member_id: UUID
) -> SettlementLineRead:
    """Close a line as staff decide, and post what that costs or earns.

    Raises SettlementLineNotFoundError, SettlementLineClosedError, SettlementLineChangedError, ResolutionMismatchError
    and ForeignOrderError.
    """
    line, settlement, order = await _lock(session, line_id, assigned_to=wanted.order_id)
    if line.status is SettlementLineStatus.MATCHED or line.resolution is not None:
        raise SettlementLineClosedError(line)
    line.resolution_note, line.resolved_by_id, line.resolved_at = wanted.note, member_id, datetime.now(UTC)
    match wanted.resolution:
        case SettlementResolution.WRITTEN_OFF:
            missing_minor = -line.amount_minor if order is None else order.due_minor
            if missing_minor <= 0:
                raise ResolutionMismatchError(wanted.resolution, order)
            await decisions.write_off(session, line, settlement, order, missing_minor)
        case SettlementResolution.ACCEPTED:
            surplus_minor = line.amount_minor if order is None else -order.due_minor
            if surplus_minor <= 0:
                raise ResolutionMismatchError(wanted.resolution, order)
            await decisions.accept(session, line, settlement, order, surplus_minor)
        case SettlementResolution.ASSIGNED:
            if order is None or line.order_id is not None:
                raise ResolutionMismatchError(wanted.resolution, order)
            await decisions.assign(session, line, order)
        case SettlementResolution.SETTLED_LATER:
            if order is None or order.due_minor != 0:
                raise ResolutionMismatchError(wanted.resolution, order)
            line.resolution = SettlementResolution.SETTLED_LATER
            line.revision += 1
            await session.flush()
        case _:
            assert_never(wanted.resolution)
    if order is not None and order.due_minor == 0:
        await decisions.close_settled(session, [order.id], note=wanted.note, member_id=member_id)
    ring_after_commit(session, "release_payable")
    return await show.get_line(session, line_id=line_id)


async def reopen_line(session: AsyncSession, *, line_id: UUID, note: str, member_id: UUID) -> SettlementLineRead:
    """Undo a line's resolution by a transfer that corrects the first; cashback that it made payable stays payable.

    Raises SettlementLineNotFoundError, SettlementLineOpenError and SettlementLineChangedError.
    """
    line, settlement, order = await _lock(session, line_id)
    if line.resolution is None:
        raise SettlementLineOpenError
    await decisions.undo(session, line, settlement, order, note=note, member_id=member_id)
    return await show.get_line(session, line_id=line_id)


async def _lock(
    session: AsyncSession, line_id: UUID, *, assigned_to: UUID | None = None
) -> tuple[SettlementLine, Settlement, Order | None]:
    """Lock a line, after its order or the one it shall be assigned to."""
    row = (
        await session.execute(
            select(SettlementLine, Settlement)
            .join(Settlement, Settlement.id == SettlementLine.settlement_id)
            .where(SettlementLine.id == line_id)
        )
    ).one_or_none()
    if row is None:
        raise SettlementLineNotFoundError(line_id)
    line, settlement = row
    seen_order_id = line.order_id
    order = None
    if (order_id := seen_order_id or assigned_to) is not None:
        order = await session.get(Order, order_id, with_for_update=True)
    if assigned_to is not None and not _belongs(order, settlement):
        raise ForeignOrderError(settlement)
    await session.refresh(line, with_for_update=True)
    if line.order_id != seen_order_id:
        # Its order is not the one we locked.
        raise SettlementLineChangedError
    return line, settlement, order


def _belongs(order: Order | None, settlement: Settlement) -> bool:
    return order is not None and (order.merchant_id, order.reported_currency) == (
        settlement.merchant_id,
        settlement.currency,
    )
