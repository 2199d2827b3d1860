"""Referrals: a bonus to both sides when the invited customer's first order becomes payable."""

from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Order


async def follow_order(session: AsyncSession, order: Order) -> None:
    """Let the bonus that hangs on this order follow it; called after each change to or from payable."""
