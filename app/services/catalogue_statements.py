"""The statements behind the public catalogue: columns, not entities, and built once for each combination of filters.

Only values change from call to call, so PostgreSQL and SQLAlchemy keep what they prepared, and a raw connection can run
the very same SQL. The names of the parameters are those of the filters.
"""

from functools import cache
from typing import Any, TypeAlias, assert_never

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Integer,
    Row,
    Select,
    Text,
    Uuid,
    bindparam,
    cast,
    exists,
    func,
    literal_column,
    select,
    true,
    tuple_,
)
from sqlalchemy.orm import aliased

from app.models import Category, Merchant, MerchantStatus, Offer, Rate
from app.schemas.catalogue import OfferSort
from app.services.search import search_query

Statement: TypeAlias = Select[*tuple[Any, ...]]
AnyRow: TypeAlias = Row[*tuple[Any, ...]]

_LIMIT = bindparam("limit", type_=Integer)


@cache
def categories(*, continued: bool) -> Statement:
    """Select categories by name; `continued` after `after_name`, `after_id`."""
    merchants = (
        select(func.count())
        .where(Merchant.category_id == Category.id, Merchant.status != MerchantStatus.CLOSED)
        .scalar_subquery()
    )
    statement = (
        select(Category.id, Category.slug, Category.name, merchants.label("merchants"))
        .order_by(Category.name, Category.id)
        .limit(_LIMIT)
    )
    return statement.where(_after_name(Category)) if continued else statement


@cache
def merchants(filters: frozenset[str], *, continued: bool) -> Statement:
    """Select listed merchants by name; `continued` after `after_name`, `after_id`."""
    page = _listed_merchants().order_by(Merchant.name, Merchant.id).limit(_LIMIT)
    if "q" in filters:
        page = page.where(Merchant.search.bool_op("@@")(search_query()))
    if "category" in filters:
        page = page.where(Merchant.category_id == _category_id())
    if continued:
        page = page.where(_after_name(Merchant))
    return _with_rates(page)


@cache
def merchant_by_id() -> Statement:
    """Select a listed merchant by the id `wanted`."""
    return _with_rates(_listed_merchants().where(Merchant.id == bindparam("wanted")))


@cache
def merchant_by_slug() -> Statement:
    """Select a listed merchant by the slug `wanted`."""
    return _with_rates(_listed_merchants().where(Merchant.slug == bindparam("wanted")))


def _listed_merchants() -> Select[Merchant]:
    return select(Merchant).where(Merchant.status != MerchantStatus.CLOSED)


def _with_rates(page: Select[Merchant]) -> Statement:
    # Rates are looked up for the page's merchants only, by the same rule that a click goes by: what is shown is what
    # will be promised.
    merchant = aliased(Merchant, page.subquery("page"))
    at = bindparam("at", type_=DateTime(timezone=True))
    rate = aliased(Rate, Rate.in_force(merchant.id, at).lateral("rate"))
    return (
        select(
            merchant.id,
            merchant.slug,
            merchant.name,
            merchant.description,
            merchant.status,
            Category.slug.label("category"),
            merchant.currency,
            merchant.logo_url,
            merchant.hold_days,
            rate.kind,
            rate.basis_points,
            rate.fixed_minor,
            rate.cap_minor,
            rate.cap_month_minor,
            rate.tiers,
        )
        .outerjoin(Category, Category.id == merchant.category_id)
        .outerjoin(rate, true())
        .order_by(merchant.name, merchant.id)
    )


@cache
def count_offers(filters: frozenset[str]) -> Statement:
    """Count offers that match, up to `many`, and let the rest of the transaction be planned for its very words."""
    found = select(Offer.id).where(*_conditions(filters)).limit(bindparam("many", type_=Integer))
    # A plan that is good for any word is good for none that is common.
    by_words = func.set_config("plan_cache_mode", "force_custom_plan", true())
    return select(func.count().label("matches"), by_words).select_from(found.subquery())


@cache
def offers(filters: frozenset[str], sort: OfferSort, *, continued: bool, gather: bool) -> Statement:
    """Select live offers of listed merchants; `continued` after the key in `after_...`.

    `gather`: find all matches by the index of words first and sort them then. Otherwise the order's own index is
    walked until the page is full, which is far better for a word in every tenth title and hopeless for one in none;
    PostgreSQL cannot tell the two apart for words that are unfinished.
    """
    found: Statement = (
        select(
            Offer.id,
            Offer.merchant_id,
            Offer.title,
            Offer.description,
            Offer.brand,
            Category.slug.label("category"),
            Offer.url,
            Offer.image_url,
            Offer.currency,
            Offer.price_minor,
            Offer.price_max_minor,
            Offer.available,
        )
        .outerjoin(Category, Category.id == Offer.category_id)
        .where(*_conditions(filters))
    )
    if sort is OfferSort.RELEVANCE:
        # 1: a hit in a short title counts more. A whole number, so that a cursor brings it back exactly.
        rank = cast(func.ts_rank(Offer.search, search_query(), 1) * literal_column("1e9::float8"), BigInteger)
        found = found.add_columns(rank.label("rank"))
        if not gather:
            # Ranking means reading each match, so there is a bound.
            found = found.order_by(Offer.id.desc()).limit(bindparam("many", type_=Integer))
    if gather or sort is OfferSort.RELEVANCE:
        gathered = found.cte("found").prefix_with("MATERIALIZED")
        return _in_order(select(gathered), gathered.c, sort, continued=continued)
    return _in_order(found, Offer, sort, continued=continued)


def is_listed(merchant_id: int | ColumnElement[int] | Any) -> ColumnElement[bool]:  # noqa: ANN401 - a mapped attribute
    """Whether the merchant is one that the public may see."""
    return exists().where(Merchant.id == merchant_id, Merchant.status != MerchantStatus.CLOSED)


def _conditions(filters: frozenset[str]) -> list[ColumnElement[bool]]:
    conditions: dict[str, ColumnElement[bool]] = {
        "q": Offer.search.bool_op("@@")(search_query()),
        "category": Offer.category_id == _category_id(),
        "merchant_id": Offer.merchant_id == bindparam("merchant_id"),
        "min_price": Offer.price_minor >= bindparam("min_price"),
        "max_price": Offer.price_minor <= bindparam("max_price"),
    }
    return [
        Offer.removed_at.is_(None),
        is_listed(Offer.merchant_id),
        *(conditions[name] for name in sorted(filters)),
    ]


def _in_order(statement: Statement, columns: Any, sort: OfferSort, *, continued: bool) -> Statement:  # noqa: ANN401 - an entity or a CTE's columns
    after_id = bindparam("after_id", type_=Uuid)
    after_number = bindparam("after_number", type_=BigInteger)
    match sort:
        case OfferSort.NEWEST:
            # The order of UUIDv7s is the order in which we first saw the offers.
            order, after = [columns.id.desc()], columns.id < after_id
        case OfferSort.RELEVANCE:
            order = [columns.rank.desc(), columns.id.desc()]
            after = tuple_(columns.rank, columns.id) < tuple_(after_number, after_id)
        case OfferSort.PRICE_ASC:
            order = [columns.price_minor, columns.id]
            after = tuple_(*order) > tuple_(after_number, after_id)
        case OfferSort.PRICE_DESC:
            order = [columns.price_minor.desc(), columns.id.desc()]
            after = tuple_(columns.price_minor, columns.id) < tuple_(after_number, after_id)
        case _:
            assert_never(sort)
    statement = statement.order_by(*order).limit(_LIMIT)
    return statement.where(after) if continued else statement


def _category_id() -> ColumnElement[Any]:
    return select(Category.id).where(Category.slug == bindparam("category")).scalar_subquery()


def _after_name(table: type[Category | Merchant]) -> ColumnElement[bool]:
    # Wider than the columns: a forged cursor is harmless then.
    after = tuple_(bindparam("after_name", type_=Text), bindparam("after_id", type_=BigInteger))
    return tuple_(table.name, table.id) > after
