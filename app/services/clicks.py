"""Clicks: a customer leaves for a merchant, and the rate in force is promised."""

from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import Row, ScalarSelect, Select, and_, func, select, true
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.config import Settings
from app.errors import ConflictError, ForbiddenError, NotFoundError
from app.ids import new_id
from app.models import (
    Campaign,
    Click,
    ClickOrigin,
    Customer,
    CustomerStatus,
    Merchant,
    MerchantStatus,
    Offer,
    Rate,
    Source,
    SourceStatus,
)
from app.schemas.catalogue import RateRead
from app.schemas.clicks import BoostRead, ClickPage, ClickRead
from app.schemas.common import Money
from app.services.catalogue import MerchantNotFoundError
from app.services.click_targets import target_url
from app.services.origin import Origin
from app.services.pagination import newest_first
from app.services.referrals import hints

_Way: TypeAlias = Row[*tuple[Any, ...]]


class CustomerFrozenError(ForbiddenError):
    """A frozen customer earns nothing, so nothing may be promised."""

    code = "customer_frozen"
    title = "Account frozen"

    def __init__(self) -> None:
        super().__init__("This account is frozen: it earns no cashback at present.")


class MerchantClosedError(NotFoundError):
    """The merchant has left."""

    code = "merchant_closed"
    title = "Merchant closed"

    def __init__(self, merchant_id: int) -> None:
        super().__init__(f"The merchant {merchant_id} is no longer with us.")


class MerchantPausedError(ConflictError):
    """The merchant takes no clicks for now."""

    code = "merchant_paused"
    title = "Merchant paused"

    def __init__(self, merchant_id: int) -> None:
        super().__init__(f"The merchant {merchant_id} is paused: it takes no clicks at present.")


class MerchantWithoutRateError(ConflictError):
    """No rate is in force, so no cashback can be promised."""

    code = "merchant_without_rate"
    title = "No cashback at present"

    def __init__(self, merchant_id: int) -> None:
        super().__init__(f"The merchant {merchant_id} has no cashback rate at present.")


class MerchantWithoutSourceError(ConflictError):
    """Nobody would report a sale, so none can be credited."""

    code = "merchant_without_source"
    title = "Merchant not tracked"

    def __init__(self, merchant_id: int) -> None:
        super().__init__(f"Sales of the merchant {merchant_id} are not reported to us at present.")


class OfferNotFoundError(NotFoundError):
    """No offer has this id."""

    code = "offer_not_found"
    title = "Offer not found"

    def __init__(self, offer_id: UUID) -> None:
        super().__init__(f"There is no offer {offer_id}.")


class OfferRemovedError(NotFoundError):
    """The offer is no longer in the merchant's feed."""

    code = "offer_removed"
    title = "Offer removed"

    def __init__(self, offer_id: UUID) -> None:
        super().__init__(f"The merchant no longer has the offer {offer_id}.")


class OfferOfOtherMerchantError(ConflictError):
    """The offer exists, at another merchant."""

    code = "offer_of_other_merchant"
    title = "Offer of another merchant"

    def __init__(self, offer_id: UUID, merchant_id: int) -> None:
        super().__init__(f"The offer {offer_id} is not one of the merchant {merchant_id}.")


class ClickNotFoundError(NotFoundError):
    """No click has this id."""

    code = "click_not_found"
    title = "Click not found"

    def __init__(self, click_id: UUID) -> None:
        super().__init__(f"There is no click {click_id}.")


async def create_click(
    session: AsyncSession,
    *,
    settings: Settings,
    public_url: str,
    customer: Customer,
    merchant_id: int,
    origin: Origin,
    offer_id: UUID | None = None,
) -> ClickRead:
    """Record a click with the rate in force now; `public_url` is the base of its `redirect_url`.

    Raises one of the errors above, MerchantNotFoundError or InvalidTargetError.
    """
    if customer.status is not CustomerStatus.ACTIVE:
        raise CustomerFrozenError
    now = datetime.now(UTC)
    way = await _find_way(session, merchant_id=merchant_id, offer_id=offer_id, at=now)
    click_id = new_id()
    click = Click(
        id=click_id,
        customer_id=customer.id,
        merchant_id=merchant_id,
        offer_id=offer_id,
        target_url=target_url(
            tracking_url=way.tracking_url,
            deeplink_parameter=way.deeplink_parameter,
            offer_url=way.offer_url,
            subid_parameter=way.subid_parameter,
            subid=str(click_id),
        ),
        rate_kind=way.kind,
        rate_basis_points=way.basis_points,
        rate_fixed_minor=way.fixed_minor,
        rate_cap_minor=way.cap_minor,
        rate_cap_month_minor=way.cap_month_minor,
        rate_tiers=way.tiers,
        boosts=way.boosts,
        currency=way.currency,
        address_hint=hints.address_hint(settings, origin),
        created_at=now,
        expires_at=now + timedelta(days=settings.click_lifetime_days),
    )
    session.add(click)
    await session.flush()
    return _read(click, public_url)


async def promise_for_claim(
    session: AsyncSession, settings: Settings, *, customer_id: UUID, merchant_id: int, at: datetime
) -> Click:
    """Record, for a claim that staff grant without a click, the promise a click at that time would have been.

    Boosts are not promised afterwards. Raises MerchantNotFoundError and MerchantWithoutRateError.
    """
    merchant = await session.get(Merchant, merchant_id)
    if merchant is None:
        raise MerchantNotFoundError(merchant_id)
    rate = await session.scalar(Rate.in_force(merchant_id, at))
    if rate is None:
        raise MerchantWithoutRateError(merchant_id)
    click = Click(
        id=new_id(),
        customer_id=customer_id,
        merchant_id=merchant_id,
        origin=ClickOrigin.CLAIM,
        target_url=merchant.tracking_url,
        rate_kind=rate.kind,
        rate_basis_points=rate.basis_points,
        rate_fixed_minor=rate.fixed_minor,
        rate_cap_minor=rate.cap_minor,
        rate_cap_month_minor=rate.cap_month_minor,
        rate_tiers=rate.tiers,
        currency=merchant.currency,
        created_at=at,
        expires_at=at + timedelta(days=settings.click_lifetime_days),
    )
    session.add(click)
    await session.flush()
    return click


async def get_target_url(session: AsyncSession, *, click_id: UUID) -> str:
    """Return where a click leads. Raises ClickNotFoundError."""
    target = await session.scalar(select(Click.target_url).where(Click.id == click_id))
    if target is None:
        raise ClickNotFoundError(click_id)
    return target


async def list_clicks(
    session: AsyncSession, *, customer_id: UUID, public_url: str, limit: int, cursor: str | None
) -> ClickPage:
    """Return a customer's clicks, newest first. Raises InvalidCursorError."""
    statement = select(Click).where(Click.customer_id == customer_id, Click.origin == ClickOrigin.CUSTOMER)
    rows, next_cursor = await newest_first(session, statement, Click.id, limit=limit, cursor=cursor)
    items = [_read(click, public_url) for click in rows]
    return ClickPage(items=items, next_cursor=next_cursor)


async def _find_way(session: AsyncSession, *, merchant_id: int, offer_id: UUID | None, at: datetime) -> _Way:
    """Return merchant, rate, source and offer of a click in one row, or raise what stands in its way."""
    rate = aliased(Rate, Rate.in_force(merchant_id, at, category_id=Offer.category_id).lateral("rate"))
    statement: Select[*tuple[Any, ...]] = (
        select(
            Merchant.status,
            Merchant.currency,
            Merchant.tracking_url,
            Merchant.deeplink_parameter,
            Source.subid_parameter,
            rate.kind,
            rate.basis_points,
            rate.fixed_minor,
            rate.cap_minor,
            rate.cap_month_minor,
            rate.tiers,
            _boosts(at).label("boosts"),
            Offer.id.label("offer_id"),
            Offer.merchant_id.label("offer_merchant_id"),
            Offer.url.label("offer_url"),
            Offer.removed_at,
        )
        .outerjoin(Source, and_(Source.id == Merchant.source_id, Source.status == SourceStatus.ACTIVE))
        .outerjoin(Offer, Offer.id == offer_id)
        .outerjoin(rate, true())
        .where(Merchant.id == merchant_id)
    )
    row = (await session.execute(statement)).one_or_none()
    if row is None:
        raise MerchantNotFoundError(merchant_id)
    _refuse_merchant(row, merchant_id)
    if offer_id is not None:
        _refuse_offer(row, merchant_id, offer_id)
    return row


def _boosts(at: datetime) -> ScalarSelect[Any]:
    """Freeze the campaigns in force at the merchant, as `services/orders/boosts.py` reads them."""
    campaign = aliased(
        Campaign,
        Campaign.in_force(at, merchant_id=Merchant.id, category_id=Merchant.category_id, currency=Merchant.currency)
        # A subquery in FROM takes nothing from outside by itself: it would be joined with every merchant there is.
        .correlate(Merchant)
        .subquery("campaign"),
    )
    frozen = func.jsonb_build_object(
        *chain.from_iterable(
            (name, column)
            for name, column in (
                ("campaign_id", campaign.id),
                ("name", campaign.name),
                ("kind", campaign.kind),
                ("basis_points", campaign.basis_points),
                ("fixed_minor", campaign.fixed_minor),
                ("cap_minor", campaign.cap_minor),
                ("minimum_sale_minor", campaign.minimum_sale_minor),
            )
        )
    )
    return select(func.jsonb_agg(frozen, type_=JSONB)).correlate(Merchant).scalar_subquery()


def _refuse_merchant(row: _Way, merchant_id: int) -> None:
    if row.status is MerchantStatus.CLOSED:
        raise MerchantClosedError(merchant_id)
    if row.status is MerchantStatus.PAUSED:
        raise MerchantPausedError(merchant_id)
    if row.kind is None:
        raise MerchantWithoutRateError(merchant_id)
    if row.subid_parameter is None:
        raise MerchantWithoutSourceError(merchant_id)


def _refuse_offer(row: _Way, merchant_id: int, offer_id: UUID) -> None:
    if row.offer_id is None:
        raise OfferNotFoundError(offer_id)
    if row.offer_merchant_id != merchant_id:
        raise OfferOfOtherMerchantError(offer_id, merchant_id)
    if row.removed_at is not None:
        raise OfferRemovedError(offer_id)


def _read(click: Click, public_url: str) -> ClickRead:
    rate = RateRead.of(
        kind=click.rate_kind,
        basis_points=click.rate_basis_points,
        fixed_minor=click.rate_fixed_minor,
        cap_minor=click.rate_cap_minor,
        cap_month_minor=click.rate_cap_month_minor,
        tiers=click.rate_tiers,
        currency=click.currency,
    )
    return ClickRead(
        id=click.id,
        merchant_id=click.merchant_id,
        offer_id=click.offer_id,
        redirect_url=f"{public_url}/r/{click.id}",
        rate=rate,
        boosts=[_read_boost(boost, click.currency) for boost in click.boosts or ()],
        created_at=click.created_at,
        expires_at=click.expires_at,
    )


def _read_boost(boost: dict[str, Any], currency: str) -> BoostRead:
    def money(amount_minor: int | None) -> Money | None:
        return Money(amount_minor=amount_minor, currency=currency) if amount_minor else None

    return BoostRead(
        campaign_id=boost["campaign_id"],
        name=boost["name"],
        kind=boost["kind"],
        basis_points=boost["basis_points"],
        fixed=money(boost["fixed_minor"]),
        cap=money(boost["cap_minor"]),
        minimum_sale=money(boost["minimum_sale_minor"]),
    )
