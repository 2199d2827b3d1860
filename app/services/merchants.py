"""Categories, merchants and rates as staff manage them: a new merchant is rows, not a deployment."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy.exc
from sqlalchemy import BigInteger, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import constraint_name
from app.errors import AppError, ConflictError, FieldError, InvalidRequestError
from app.models import Category, Merchant, MerchantStatus, Rate
from app.schemas.admin_catalogue import (
    MerchantAdminPage,
    MerchantAdminRead,
    MerchantChange,
    MerchantCreate,
    RateAdminPage,
    RateAdminRead,
    RateCreate,
    RateTierCreate,
)
from app.schemas.catalogue import RateRead
from app.schemas.common import Money
from app.services.catalogue import MerchantNotFoundError
from app.services.catalogue_version import catalogue_changed
from app.services.pagination import cut_page, decode_cursor, encode_cursor


class CategorySlugTakenError(ConflictError):
    """Another category has this slug."""

    code = "category_slug_taken"
    title = "Slug taken"

    def __init__(self) -> None:
        super().__init__("Another category has this slug.")


class MerchantSlugTakenError(ConflictError):
    """Another merchant has this slug."""

    code = "merchant_slug_taken"
    title = "Slug taken"

    def __init__(self) -> None:
        super().__init__("Another merchant has this slug.")


class NetworkMerchantRefTakenError(ConflictError):
    """Another merchant has this name at the same source: its sales could not be told apart."""

    code = "network_merchant_ref_taken"
    title = "Network reference taken"

    def __init__(self) -> None:
        super().__init__("Another merchant of this source has this network_merchant_ref.")


class UnknownCategoryError(InvalidRequestError):
    """The body names a category that does not exist."""

    code = "unknown_category"
    title = "Unknown category"

    def __init__(self, slug: str) -> None:
        error: FieldError = {"loc": ["body", "category"], "msg": "Unknown category", "type": self.code}
        super().__init__(f"There is no category {slug!r}.", errors=[error])


class UnknownMerchantSourceError(InvalidRequestError):
    """The body names a source that does not exist."""

    code = "unknown_merchant_source"
    title = "Unknown source"

    def __init__(self) -> None:
        error: FieldError = {"loc": ["body", "source_id"], "msg": "Unknown source", "type": self.code}
        super().__init__("There is no source with this id.", errors=[error])


class RateCurrencyError(InvalidRequestError):
    """An amount of a rate is not in the merchant's currency."""

    code = "rate_currency_mismatch"
    title = "Wrong currency"

    def __init__(self, currency: str) -> None:
        super().__init__(f"Amounts of this merchant's rates are in {currency}.")


class RatePeriodError(InvalidRequestError):
    """A rate would end before it begins."""

    code = "rate_period_empty"
    title = "Empty period"

    def __init__(self) -> None:
        super().__init__("valid_to must be after valid_from, which is now when it is not given.")


class WriteOffDaysError(InvalidRequestError):
    """The clawback policy and its days do not fit each other."""

    code = "write_off_days_mismatch"
    title = "Write-off days"

    def __init__(self) -> None:
        super().__init__("clawback_policy 'write_off' needs write_off_days, and the others must not have it.")


_REFUSALS: dict[str, Callable[[], AppError]] = {
    "uq_categories_slug": CategorySlugTakenError,
    "uq_merchants_slug": MerchantSlugTakenError,
    "uq_merchants_source_id_network_merchant_ref": NetworkMerchantRefTakenError,
    "fk_merchants_source_id_sources": UnknownMerchantSourceError,
    "ck_merchants_write_off_days": WriteOffDaysError,
}


async def create_category(session: AsyncSession, *, slug: str, name: str) -> Category:
    """Add a category. Raises CategorySlugTakenError."""
    category = Category(slug=slug, name=name)
    session.add(category)
    await _flush(session)
    catalogue_changed(session)
    return category


async def create_merchant(session: AsyncSession, *, wanted: MerchantCreate) -> MerchantAdminRead:
    """Add an active merchant. Raises one of the errors above."""
    merchant = Merchant(
        **wanted.model_dump(exclude={"category"}), category_id=await _category_id(session, wanted.category)
    )
    session.add(merchant)
    await _flush(session)
    catalogue_changed(session)
    return _read(merchant, wanted.category)


async def change_merchant(session: AsyncSession, *, merchant_id: int, change: MerchantChange) -> MerchantAdminRead:
    """Change the members that were sent. Raises MerchantNotFoundError or one of the errors above."""
    merchant = await _get(session, merchant_id)
    changes = change.model_dump(exclude_unset=True)
    if "category" in changes:
        changes["category_id"] = await _category_id(session, changes.pop("category"))
    if "clawback_policy" in changes and "write_off_days" not in changes:
        # The days of before belong to the policy of before.
        changes["write_off_days"] = merchant.write_off_days if changes["clawback_policy"] == "write_off" else None
    for name, value in changes.items():
        setattr(merchant, name, value)
    await _flush(session)
    catalogue_changed(session)
    # `updated_at` was set by the database.
    await session.refresh(merchant)
    return _read(merchant, await session.scalar(select(Category.slug).where(Category.id == merchant.category_id)))


async def list_merchants(
    session: AsyncSession, *, status: MerchantStatus | None, limit: int, cursor: str | None
) -> MerchantAdminPage:
    """Return merchants by id, closed ones too. Raises InvalidCursorError."""
    statement = (
        select(Merchant, Category.slug)
        .outerjoin(Category, Category.id == Merchant.category_id)
        .order_by(Merchant.id)
        .limit(limit + 1)
    )
    if status is not None:
        statement = statement.where(Merchant.status == status)
    if cursor is not None:
        (after,) = decode_cursor(cursor, int)
        statement = statement.where(Merchant.id > literal(after, BigInteger))
    rows, more = cut_page((await session.execute(statement)).all(), limit)
    items = [_read(merchant, category) for merchant, category in rows]
    return MerchantAdminPage(items=items, next_cursor=encode_cursor(items[-1].id) if more else None)


async def add_rate(session: AsyncSession, *, merchant_id: int, wanted: RateCreate) -> RateAdminRead:
    """Add a rate; see `Rate.in_force` for how overlapping ones are told apart. Clicks of before keep theirs.

    Raises MerchantNotFoundError, UnknownCategoryError, RateCurrencyError or RatePeriodError.
    """
    merchant = await _get(session, merchant_id)
    valid_from = wanted.valid_from or datetime.now(UTC)
    if wanted.valid_to is not None and wanted.valid_to <= valid_from:
        raise RatePeriodError
    rate = Rate(
        merchant_id=merchant.id,
        category_id=await _category_id(session, wanted.category),
        kind=wanted.kind,
        basis_points=wanted.basis_points,
        fixed_minor=_minor(wanted.fixed, merchant.currency),
        cap_minor=_minor(wanted.cap, merchant.currency),
        cap_month_minor=_minor(wanted.cap_month, merchant.currency),
        tiers=[_tier(tier, merchant.currency) for tier in wanted.tiers] or None,
        valid_from=valid_from,
        valid_to=wanted.valid_to,
    )
    session.add(rate)
    await session.flush()
    catalogue_changed(session)
    return _read_rate(rate, merchant.currency, wanted.category)


async def list_rates(session: AsyncSession, *, merchant_id: int, limit: int, cursor: str | None) -> RateAdminPage:
    """Return a merchant's rates, the latest to begin first. Raises MerchantNotFoundError and InvalidCursorError."""
    merchant = await _get(session, merchant_id)
    statement = (
        select(Rate, Category.slug)
        .outerjoin(Category, Category.id == Rate.category_id)
        .where(Rate.merchant_id == merchant_id)
        .order_by(Rate.valid_from.desc(), Rate.id.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        statement = statement.where(tuple_(Rate.valid_from, Rate.id) < tuple_(*decode_cursor(cursor, datetime, UUID)))
    rows, more = cut_page((await session.execute(statement)).all(), limit)
    items = [_read_rate(rate, merchant.currency, category) for rate, category in rows]
    next_cursor = encode_cursor(items[-1].valid_from, items[-1].id) if more else None
    return RateAdminPage(items=items, next_cursor=next_cursor)


async def _get(session: AsyncSession, merchant_id: int) -> Merchant:
    merchant = await session.get(Merchant, merchant_id)
    if merchant is None:
        raise MerchantNotFoundError(merchant_id)
    return merchant


async def _category_id(session: AsyncSession, slug: str | None) -> int | None:
    if slug is None:
        return None
    category_id = await session.scalar(select(Category.id).where(Category.slug == slug))
    if category_id is None:
        raise UnknownCategoryError(slug)
    return category_id


async def _flush(session: AsyncSession) -> None:
    # The constraints decide and not a look before: two members of staff may add the same at once.
    try:
        await session.flush()
    except sqlalchemy.exc.IntegrityError as error:
        refusal = _REFUSALS.get(constraint_name(error) or "")
        if refusal is None:
            raise
        raise refusal() from error


def _minor(money: Money | None, currency: str) -> int | None:
    if money is None:
        return None
    if money.currency != currency:
        raise RateCurrencyError(currency)
    return money.amount_minor


def _read(merchant: Merchant, category: str | None) -> MerchantAdminRead:
    columns = {name: getattr(merchant, name) for name in MerchantAdminRead.model_fields if name != "category"}
    return MerchantAdminRead.model_validate({**columns, "category": category})


def _tier(tier: RateTierCreate, currency: str) -> dict[str, Any]:
    """Return a tier as `Rate.tiers` keeps it."""
    kept: dict[str, Any] = {"from_minor": _minor(tier.minimum_sale, currency)}
    if tier.fixed is not None:
        return {**kept, "fixed_minor": _minor(tier.fixed, currency)}
    return {**kept, "basis_points": tier.basis_points}


def _read_rate(rate: Rate, currency: str, category: str | None) -> RateAdminRead:
    value = RateRead.of(
        kind=rate.kind,
        basis_points=rate.basis_points,
        fixed_minor=rate.fixed_minor,
        cap_minor=rate.cap_minor,
        cap_month_minor=rate.cap_month_minor,
        tiers=rate.tiers,
        currency=currency,
    )
    return RateAdminRead(
        **dict(value),
        id=rate.id,
        category=category,
        valid_from=rate.valid_from,
        valid_to=rate.valid_to,
        created_at=rate.created_at,
    )
