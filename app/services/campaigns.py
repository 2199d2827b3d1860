"""Campaigns as staff manage them. What they add to an order is computed and posted in `orders/boosts.py`."""

from datetime import UTC, datetime
from uuid import UUID

import sqlalchemy.exc
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import constraint_name
from app.errors import ConflictError, InvalidRequestError, NotFoundError
from app.models import Campaign, CampaignStatus, Category, Merchant
from app.schemas.campaigns import CampaignChange, CampaignCreate, CampaignPage, CampaignRead
from app.schemas.common import Money
from app.services.catalogue import MerchantNotFoundError
from app.services.merchants import UnknownCategoryError
from app.services.pagination import newest_rows


class CampaignNotFoundError(NotFoundError):
    """No campaign has this id."""

    code = "campaign_not_found"
    title = "Campaign not found"

    def __init__(self, campaign_id: UUID) -> None:
        super().__init__(f"There is no campaign {campaign_id}.")


class CampaignBudgetSpentError(ConflictError):
    """The new budget is less than what is spent already."""

    code = "campaign_budget_spent"
    title = "Budget spent already"

    def __init__(self, spent_minor: int, currency: str) -> None:
        super().__init__(f"{spent_minor} minor units of {currency} are spent already; choose at least that.")


class CampaignPeriodError(InvalidRequestError):
    """The campaign would end before it begins."""

    code = "campaign_period_empty"
    title = "Empty period"

    def __init__(self) -> None:
        super().__init__("valid_to must be after valid_from, which is now when it is not given.")


class CampaignCurrencyError(InvalidRequestError):
    """The merchant's cashback is in another currency."""

    code = "campaign_currency_mismatch"
    title = "Wrong currency"

    def __init__(self, currency: str) -> None:
        super().__init__(f"This merchant's cashback is in {currency}; a campaign for it must be too.")


async def create_campaign(session: AsyncSession, *, wanted: CampaignCreate) -> CampaignRead:
    """Add an active campaign.

    Raises UnknownCategoryError, MerchantNotFoundError, CampaignCurrencyError and CampaignPeriodError.
    """
    category_id = None
    if wanted.category is not None:
        category_id = await session.scalar(select(Category.id).where(Category.slug == wanted.category))
        if category_id is None:
            raise UnknownCategoryError(wanted.category)
    if wanted.merchant_id is not None:
        merchant = await session.get(Merchant, wanted.merchant_id)
        if merchant is None:
            raise MerchantNotFoundError(wanted.merchant_id)
        if merchant.currency != wanted.currency:
            raise CampaignCurrencyError(merchant.currency)
    valid_from = wanted.valid_from or datetime.now(UTC)
    if wanted.valid_to is not None and wanted.valid_to <= valid_from:
        raise CampaignPeriodError
    campaign = Campaign(
        name=wanted.name,
        status=CampaignStatus.ACTIVE,
        merchant_id=wanted.merchant_id,
        category_id=category_id,
        kind=wanted.kind,
        basis_points=wanted.basis_points,
        fixed_minor=_minor(wanted.fixed),
        currency=wanted.currency,
        cap_minor=_minor(wanted.cap),
        minimum_sale_minor=_minor(wanted.minimum_sale) or 0,
        budget_minor=_minor(wanted.budget),
        spent_minor=0,
        valid_from=valid_from,
        valid_to=wanted.valid_to,
    )
    session.add(campaign)
    await session.flush()
    return _read(campaign, wanted.category)


async def change_campaign(session: AsyncSession, *, campaign_id: UUID, change: CampaignChange) -> CampaignRead:
    """Change the members that were sent.

    Raises CampaignNotFoundError, CampaignBudgetSpentError and CampaignPeriodError.
    """
    campaign = await session.get(Campaign, campaign_id, with_for_update=True, populate_existing=True)
    if campaign is None:
        raise CampaignNotFoundError(campaign_id)
    spent_minor = campaign.spent_minor
    for name, value in change.model_dump(exclude_unset=True).items():
        setattr(campaign, name, value)
    try:
        await session.flush()
    except sqlalchemy.exc.IntegrityError as error:
        match constraint_name(error):
            case "ck_campaigns_budget":
                raise CampaignBudgetSpentError(spent_minor, campaign.currency) from error
            case "ck_campaigns_period":
                raise CampaignPeriodError from error
            case _:
                raise
    return await get_campaign(session, campaign_id=campaign_id)


async def get_campaign(session: AsyncSession, *, campaign_id: UUID) -> CampaignRead:
    """Return a campaign. Raises CampaignNotFoundError."""
    row = (
        await session.execute(
            select(Campaign, Category.slug)
            .outerjoin(Category, Category.id == Campaign.category_id)
            .where(Campaign.id == campaign_id)
            .execution_options(populate_existing=True)
        )
    ).one_or_none()
    if row is None:
        raise CampaignNotFoundError(campaign_id)
    return _read(row[0], row[1])


async def list_campaigns(session: AsyncSession, *, limit: int, cursor: str | None) -> CampaignPage:
    """Return campaigns, newest first. Raises InvalidCursorError."""
    statement = select(Campaign, Category.slug).outerjoin(Category, Category.id == Campaign.category_id)
    rows, next_cursor = await newest_rows(session, statement, Campaign.id, limit=limit, cursor=cursor)
    items = [_read(campaign, category) for campaign, category in rows]
    return CampaignPage(items=items, next_cursor=next_cursor)


def _minor(money: Money | None) -> int | None:
    return None if money is None else money.amount_minor


def _read(campaign: Campaign, category: str | None) -> CampaignRead:
    def money(amount_minor: int | None) -> Money | None:
        return None if amount_minor is None else Money(amount_minor=amount_minor, currency=campaign.currency)

    return CampaignRead(
        id=campaign.id,
        name=campaign.name,
        status=campaign.status,
        merchant_id=campaign.merchant_id,
        category=category,
        currency=campaign.currency,
        kind=campaign.kind,
        basis_points=campaign.basis_points,
        fixed=money(campaign.fixed_minor),
        cap=money(campaign.cap_minor),
        minimum_sale=money(campaign.minimum_sale_minor or None),
        budget=money(campaign.budget_minor),
        spent=Money(amount_minor=campaign.spent_minor, currency=campaign.currency),
        valid_from=campaign.valid_from,
        valid_to=campaign.valid_to,
        created_at=campaign.created_at,
    )
