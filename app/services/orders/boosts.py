"""Boosts: what campaigns add to an order, each taken from its campaign's budget in the order's own transaction.

A click freezes the campaigns in force as `[{"campaign_id", "name", "kind", "basis_points", "fixed_minor", "cap_minor",
"minimum_sale_minor"}]`, amounts in minor units of the click's currency.
"""

from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Campaign, Order, OrderBoost
from app.money import Rounding
from app.services.orders.cashback import Amounts, Cashback, boost, budget_step


async def grant(
    session: AsyncSession, order: Order, frozen: list[dict[str, Any]], amounts: Amounts, *, rounding: Rounding
) -> Cashback:
    """Bring an order's boosts to what its amounts earn and its campaigns' budgets still hold; the order is locked.

    Campaigns are met in the order of their ids and before any wallet, so that two orders cannot deadlock.
    """
    held = await _held(session, order)
    total_minor, steps = 0, []
    for campaign in sorted(frozen, key=lambda campaign: str(campaign["campaign_id"])):
        campaign_id = UUID(campaign["campaign_id"])
        wanted = boost(campaign, amounts, rounding=rounding)
        granted_minor = await _move(session, order, campaign_id, held.get(campaign_id, 0), wanted.amount_minor)
        total_minor += granted_minor
        steps += wanted.steps
        if granted_minor < wanted.amount_minor:
            steps.append(budget_step(campaign, wanted.amount_minor - granted_minor))
    return Cashback(total_minor, steps)


async def give_back(session: AsyncSession, order: Order) -> None:
    """Return all that an order has of any budget: it earns nothing any more."""
    for campaign_id, amount_minor in sorted((await _held(session, order)).items()):
        await _move(session, order, campaign_id, amount_minor, 0)


async def _held(session: AsyncSession, order: Order) -> dict[UUID, int]:
    if not order.revision:
        return {}
    rows = await session.execute(
        select(OrderBoost.campaign_id, OrderBoost.amount_minor).where(OrderBoost.order_id == order.id)
    )
    return {row.campaign_id: row.amount_minor for row in rows}


async def _move(session: AsyncSession, order: Order, campaign_id: UUID, held_minor: int, wanted_minor: int) -> int:
    """Take from a budget, or give back to it, and note what the order has then; returns that."""
    change_minor = wanted_minor - held_minor
    if change_minor == 0:
        return held_minor
    if not await _spend(session, campaign_id, change_minor):
        # Not all of it is left. With the row locked, what is left stays left until we have taken it.
        left_minor = await session.scalar(
            select(Campaign.budget_minor - Campaign.spent_minor).where(Campaign.id == campaign_id).with_for_update()
        )
        change_minor = min(change_minor, left_minor or 0)
        if change_minor <= 0 or not await _spend(session, campaign_id, change_minor):
            return held_minor
    granted_minor = held_minor + change_minor
    key = (OrderBoost.order_id == order.id, OrderBoost.campaign_id == campaign_id)
    if granted_minor == 0:
        await session.execute(delete(OrderBoost).where(*key))
    else:
        await session.execute(
            insert(OrderBoost)
            .values(order_id=order.id, campaign_id=campaign_id, amount_minor=granted_minor)
            .on_conflict_do_update(
                index_elements=[OrderBoost.order_id, OrderBoost.campaign_id], set_={"amount_minor": granted_minor}
            )
        )
    return granted_minor


async def _spend(session: AsyncSession, campaign_id: UUID, change_minor: int) -> bool:
    """Move what a campaign has spent, unless that would overspend it: one statement, judged on the newest row."""
    spent = Campaign.spent_minor + change_minor
    statement = (
        update(Campaign)
        .where(Campaign.id == campaign_id, or_(Campaign.budget_minor.is_(None), spent <= Campaign.budget_minor))
        .values(spent_minor=spent, updated_at=func.now())
        .returning(Campaign.id)
        .execution_options(synchronize_session=False)
    )
    if change_minor < 0:
        # Giving back is always right, also to a budget that staff have cut since.
        statement = (
            update(Campaign)
            .where(Campaign.id == campaign_id)
            .values(spent_minor=spent, updated_at=func.now())
            .returning(Campaign.id)
            .execution_options(synchronize_session=False)
        )
    return (await session.execute(statement)).first() is not None
