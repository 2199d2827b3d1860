"""The statements behind the public catalogue, built and compiled once for each combination of filters.

A row is what its list is ordered by, and `item`: the JSON of one answer's item, as its schema says. Only values change
from call to call, so PostgreSQL keeps what it prepared. The names of the parameters are those of the filters.
"""

from functools import cache
from typing import Any, TypeAlias, assert_never

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Integer,
    Select,
    SQLColumnExpression,
    Text,
    Uuid,
    bindparam,
    case,
    cast,
    exists,
    func,
    literal_column,
    select,
    true,
    tuple_,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by
from sqlalchemy.orm import aliased

from app.models import Category, Merchant, MerchantStatus, Offer, Rate
from app.reads import Read
from app.schemas.catalogue import OfferSort
from app.services.json_items import Shape, json_object, json_text, money, optional_money
from app.services.search import search_query

Statement: TypeAlias = Select[*tuple[Any, ...]]

_LIMIT = bindparam("limit", type_=Integer)
# In the text of the statements: of a parameter, a plan for any value expects a single merchant to be listed, and then
# looks for all the offers of each.
_LISTED = Merchant.status != literal_column(f"'{MerchantStatus.CLOSED.value}'", Text)
_SHOWN = (
    Offer.id,
    Offer.merchant_id,
    Offer.title,
    Offer.description,
    Offer.brand,
    Offer.category_id,
    Offer.url,
    Offer.image_url,
    Offer.currency,
    Offer.price_minor,
    Offer.price_max_minor,
    Offer.available,
)

# What a cursor holds for each sort: the columns that the list is ordered by.
SORT_KEYS = {
    OfferSort.NEWEST: ("id",),
    OfferSort.PRICE_ASC: ("price_minor", "id"),
    OfferSort.PRICE_DESC: ("price_minor", "id"),
    OfferSort.RELEVANCE: ("rank", "id"),
}


@cache
def categories(*, continued: bool) -> Read:
    """Select categories by name; `continued` after `after_name`, `after_id`."""
    merchants = select(func.count()).where(Merchant.category_id == Category.id, _LISTED).scalar_subquery()
    statement = (
        select(Category.id, Category.slug, Category.name, merchants.label("merchants"))
        .order_by(Category.name, Category.id)
        .limit(_LIMIT)
    )
    page = (statement.where(_after_name(Category)) if continued else statement).subquery("page")
    item = json_text({"slug": page.c.slug, "name": page.c.name, "merchants": page.c.merchants})
    return Read.of(select(page.c.name, page.c.id, item).order_by(page.c.name, page.c.id), tolerates_lag=True)


@cache
def merchants(filters: frozenset[str], *, continued: bool) -> Read:
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
def merchant_by_id() -> Read:
    """Select a listed merchant by the id `wanted`."""
    return _with_rates(_listed_merchants().where(Merchant.id == bindparam("wanted")))


@cache
def merchant_by_slug() -> Read:
    """Select a listed merchant by the slug `wanted`."""
    return _with_rates(_listed_merchants().where(Merchant.slug == bindparam("wanted")))


def _listed_merchants() -> Select[Merchant]:
    return select(Merchant).where(_LISTED)


def _with_rates(page: Select[Merchant]) -> Read:
    # Rates are looked up for the page's merchants only, by the same rule that a click goes by: what is shown is what
    # will be promised.
    merchant = aliased(Merchant, page.subquery("page"))
    at = bindparam("at", type_=DateTime(timezone=True))
    rate = aliased(Rate, Rate.in_force(merchant.id, at).lateral("rate"))
    shown = {
        "id": merchant.id,
        "slug": merchant.slug,
        "name": merchant.name,
        "description": merchant.description,
        "status": merchant.status,
        "category": Category.slug,
        "currency": merchant.currency,
        "logo_url": merchant.logo_url,
        "hold_days": merchant.hold_days,
        "rate": case((rate.kind.is_not(None), json_object(_rate(rate, merchant.currency)))),
    }
    return Read.of(
        select(merchant.name, merchant.id, json_text(shown))
        .outerjoin(Category, Category.id == merchant.category_id)
        .outerjoin(rate, true())
        .order_by(merchant.name, merchant.id),
        tolerates_lag=True,
    )


def _rate(rate: type[Rate], currency: SQLColumnExpression[str]) -> Shape:
    """The shape of a `RateRead`."""
    tier = func.jsonb_array_elements(rate.tiers).table_valued("value", with_ordinality="position", name="tier")
    tier = tier.render_derived()
    value = type_coerce(tier.c.value, JSONB)
    shown = {
        "minimum_sale": money(value["from_minor"], currency),
        "basis_points": value["basis_points"],
        "fixed": case((value.has_key("fixed_minor"), json_object(money(value["fixed_minor"], currency)))),
    }
    tiers = select(func.json_agg(aggregate_order_by(json_object(shown), tier.c.position))).scalar_subquery()
    return {
        "kind": rate.kind,
        "basis_points": rate.basis_points,
        "fixed": optional_money(rate.fixed_minor, currency),
        "cap": optional_money(rate.cap_minor, currency),
        "cap_month": optional_money(rate.cap_month_minor, currency),
        "tiers": func.coalesce(tiers, literal_column("'[]'::json")),
    }


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
    # PostgreSQL knows how many offers a category has on average, and hopes to meet those of this one soon among all:
    # where it has few or none it reads everything. Ordered by a range of one category, only that index will do.
    of_one = "category" in filters and "merchant_id" not in filters and sort is OfferSort.NEWEST and not gather
    found: Statement = select(*_SHOWN).where(*_conditions(filters - {"category"} if of_one else filters))
    if of_one:
        wanted = _category_id()
        found = found.where(Offer.category_id.between(wanted, wanted)).order_by(Offer.category_id.desc())
    if sort is OfferSort.RELEVANCE:
        # 1: a hit in a short title counts more. A whole number, so that a cursor brings it back exactly.
        rank = cast(func.ts_rank(Offer.search, search_query(), 1) * literal_column("1e9::float8"), BigInteger)
        found = found.add_columns(rank.label("rank"))
        if not gather:
            # Ranking means reading each match, so there is a bound.
            found = found.order_by(Offer.id.desc()).limit(bindparam("many", type_=Integer))
    if gather or sort is OfferSort.RELEVANCE:
        gathered = found.cte("found").prefix_with("MATERIALIZED")
        return _as_items(_in_order(select(gathered), gathered.c, sort, continued=continued), sort)
    return _as_items(_in_order(found, Offer, sort, continued=continued), sort)


@cache
def offers_read(filters: frozenset[str], sort: OfferSort, *, continued: bool) -> Read:
    """Compile `offers` for lists without words, which are hot."""
    return Read.of(offers(filters, sort, continued=continued, gather=False), tolerates_lag=True)


@cache
def merchant_is_listed() -> Read:
    """Select a row when the merchant `wanted` is listed."""
    return Read.of(select(Merchant.id).where(Merchant.id == bindparam("wanted"), _LISTED), tolerates_lag=True)


def _as_items(statement: Statement, sort: OfferSort) -> Statement:
    # The JSON is made of the page's rows only: in the statement itself it would be made of all that are sorted.
    page = statement.subquery("page")
    shown = {
        "id": page.c.id,
        "merchant_id": page.c.merchant_id,
        "title": page.c.title,
        "description": page.c.description,
        "brand": page.c.brand,
        "category": Category.slug,
        "url": page.c.url,
        "image_url": page.c.image_url,
        "price": money(page.c.price_minor, page.c.currency),
        "price_max": money(page.c.price_max_minor, page.c.currency),
        "available": page.c.available,
    }
    keys = [page.c[name] for name in SORT_KEYS[sort]]
    items = select(*keys, json_text(shown)).outerjoin(Category, Category.id == page.c.category_id)
    return items.order_by(*_order(page.c, sort))


def is_listed(merchant_id: int | ColumnElement[int] | Any) -> ColumnElement[bool]:  # noqa: ANN401 - a mapped attribute
    """Whether the merchant is one that the public may see."""
    return exists().where(Merchant.id == merchant_id, _LISTED)


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
    statement = statement.order_by(*_order(columns, sort)).limit(_LIMIT)
    if not continued:
        return statement
    after_id = bindparam("after_id", type_=Uuid)
    after_number = bindparam("after_number", type_=BigInteger)
    match sort:
        case OfferSort.NEWEST:
            return statement.where(columns.id < after_id)
        case OfferSort.RELEVANCE:
            return statement.where(tuple_(columns.rank, columns.id) < tuple_(after_number, after_id))
        case OfferSort.PRICE_ASC:
            return statement.where(tuple_(columns.price_minor, columns.id) > tuple_(after_number, after_id))
        case OfferSort.PRICE_DESC:
            return statement.where(tuple_(columns.price_minor, columns.id) < tuple_(after_number, after_id))
        case _:
            assert_never(sort)


def _order(columns: Any, sort: OfferSort) -> list[ColumnElement[Any]]:  # noqa: ANN401 - see _in_order
    match sort:
        case OfferSort.NEWEST:
            # The order of UUIDv7s is the order in which we first saw the offers.
            return [columns.id.desc()]
        case OfferSort.RELEVANCE:
            return [columns.rank.desc(), columns.id.desc()]
        case OfferSort.PRICE_ASC:
            return [columns.price_minor, columns.id]
        case OfferSort.PRICE_DESC:
            return [columns.price_minor.desc(), columns.id.desc()]
        case _:
            assert_never(sort)


def _category_id() -> ColumnElement[Any]:
    return select(Category.id).where(Category.slug == bindparam("category")).scalar_subquery()


def _after_name(table: type[Category | Merchant]) -> ColumnElement[bool]:
    # Wider than the columns: a forged cursor is harmless then.
    after = tuple_(bindparam("after_name", type_=Text), bindparam("after_id", type_=BigInteger))
    return tuple_(table.name, table.id) > after
