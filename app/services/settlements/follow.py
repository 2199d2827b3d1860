"""Settlement lines follow their order: what was decided about them was decided about an amount that may change."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Order, Settlement, SettlementLine, SettlementResolution
from app.services.settlements import decisions

_CHANGED = "what is owed for its order has changed"


async def follow_order(session: AsyncSession, order: Order) -> None:
    """Judge an order's lines anew, now that another amount is owed for it; the order is locked.

    What was written off or accepted of the amount of before is taken back, and its line is open again. So of an order
    that is declined after it was paid, the network is expected to take back what it paid, no more and no less.
    """
    decided = await session.execute(
        select(SettlementLine, Settlement)
        .join(Settlement, Settlement.id == SettlementLine.settlement_id)
        .where(
            SettlementLine.order_id == order.id,
            SettlementLine.resolution.in_((SettlementResolution.WRITTEN_OFF, SettlementResolution.ACCEPTED)),
        )
        .order_by(SettlementLine.id)
        .with_for_update(of=SettlementLine)
    )
    for line, settlement in decided.all():
        await decisions.undo(session, line, settlement, order, note=_CHANGED)
    if order.due_minor == 0:
        await decisions.close_settled(session, [order.id], note=_CHANGED)
