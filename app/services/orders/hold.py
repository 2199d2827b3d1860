"""The end of the hold: approved orders whose return window is over become payable."""

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Order, OrderStatus
from app.services.orders.change import Target, change

BATCH = 200


async def release_payable(session: AsyncSession, *, limit: int = BATCH) -> int:
    """Make up to `limit` due orders payable and return how many. Safe to run twice and beside itself."""
    orders = await session.scalars(
        select(Order)
        .where(Order.status == OrderStatus.APPROVED, Order.payable_at <= func.now())
        .order_by(Order.payable_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    released = 0
    # By wallet, so that two batches meet the same wallets in the same order.
    for order in sorted(orders, key=lambda order: (order.customer_id, order.currency, order.id)):
        released += await change(
            session,
            order,
            Target.of(order, status=OrderStatus.PAYABLE),
        )
    return released
