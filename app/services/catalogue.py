"""What the public sees of the catalogue: one statement a call, and one more to tell how to search.

What each list is ordered by is in its cursors, so a page continues where the last one ended whatever came or went.
"""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFoundError
from app.schemas.catalogue import (
    MAX_MERCHANT_ID,
    CategoryPage,
    MerchantFilter,
    MerchantPage,
    MerchantRead,
    OfferFilter,
    OfferPage,
    OfferSort,
    RateRead,
)
from app.services import catalogue_statements as statements
from app.services.catalogue_statements import AnyRow, Statement
from app.services.pagination import InvalidCursorError, cut_page, decode_cursor, encode_cursor
from app.services.search import search_parameters

# Up to so many matches of a search are gathered and sorted, some milliseconds' work; of more, relevance ranks only the
# newest so many.
MANY_MATCHES = 5_000

# What a cursor holds for each sort: the columns that the list is ordered by.
_SORT_KEYS = {
    OfferSort.NEWEST: ("id",),
    OfferSort.PRICE_ASC: ("price_minor", "id"),
    OfferSort.PRICE_DESC: ("price_minor", "id"),
    OfferSort.RELEVANCE: ("rank", "id"),
}


class MerchantNotFoundError(NotFoundError):
    """No merchant has this id or slug, or none that the public may see."""

    code = "merchant_not_found"
    title = "Merchant not found"

    def __init__(self, id_or_slug: int | str) -> None:
        super().__init__(f"There is no merchant {id_or_slug}.")


async def list_categories(session: AsyncSession, *, limit: int, cursor: str | None) -> CategoryPage:
    """Return categories by name, each with the number of its listed merchants. Raises InvalidCursorError."""
    parameters: dict[str, Any] = {"limit": limit + 1}
    if cursor is not None:
        parameters["after_name"], parameters["after_id"] = decode_cursor(cursor, str, int)
    rows, more = cut_page(await _fetch(session, statements.categories(continued=cursor is not None), parameters), limit)
    return CategoryPage.model_validate(
        {
            "items": [{"slug": row.slug, "name": row.name, "merchants": row.merchants} for row in rows],
            "next_cursor": encode_cursor(rows[-1].name, rows[-1].id) if more else None,
        }
    )


async def list_merchants(
    session: AsyncSession, *, wanted: MerchantFilter, limit: int, cursor: str | None
) -> MerchantPage:
    """Return listed merchants by name, each with the rate a click promises now. Raises InvalidCursorError."""
    parameters: dict[str, Any] = {"limit": limit + 1, "at": datetime.now(UTC)}
    if cursor is not None:
        parameters["after_name"], parameters["after_id"] = decode_cursor(cursor, str, int)
    filters = _filters(wanted, parameters)
    statement = statements.merchants(filters, continued=cursor is not None)
    rows, more = cut_page(await _fetch(session, statement, parameters), limit)
    return MerchantPage.model_validate(
        {
            "items": [_merchant(row) for row in rows],
            "next_cursor": encode_cursor(rows[-1].name, rows[-1].id) if more else None,
        }
    )


async def get_merchant(session: AsyncSession, *, id_or_slug: str) -> MerchantRead:
    """Return a listed merchant; a text of digits is an id. Raises MerchantNotFoundError."""
    by_id = id_or_slug.isdecimal()
    wanted = int(id_or_slug) if by_id else id_or_slug
    if isinstance(wanted, int) and wanted > MAX_MERCHANT_ID:
        raise MerchantNotFoundError(id_or_slug)
    parameters = {"at": datetime.now(UTC), "wanted": wanted}
    statement = statements.merchant_by_id() if by_id else statements.merchant_by_slug()
    rows = await _fetch(session, statement, parameters)
    if not rows:
        raise MerchantNotFoundError(id_or_slug)
    return MerchantRead.model_validate(_merchant(rows[0]))


async def list_offers(session: AsyncSession, *, wanted: OfferFilter, limit: int, cursor: str | None) -> OfferPage:
    """Return live offers of listed merchants. A price bound and the sort look at the lowest price of each.

    By relevance no more than the newest MANY_MATCHES are ranked and listed; every other list is complete.

    Raises InvalidCursorError, also for a cursor of a list that was sorted otherwise.
    """
    parameters: dict[str, Any] = {"limit": limit + 1}
    if cursor is not None:
        parameters |= _continue_after(wanted.sort, cursor)
    filters = _filters(wanted, parameters)
    gather = "q" in filters and await _matches_few(session, filters, parameters)
    statement = statements.offers(filters, wanted.sort, continued=cursor is not None, gather=gather)
    rows, more = cut_page(await _fetch(session, statement, parameters), limit)
    return OfferPage.model_validate(
        {
            "items": [_offer(row) for row in rows],
            "next_cursor": _cursor_after(wanted.sort, rows[-1]) if more else None,
        }
    )


async def list_merchant_offers(session: AsyncSession, *, merchant_id: int, limit: int, cursor: str | None) -> OfferPage:
    """Return a listed merchant's live offers, newest first. Raises MerchantNotFoundError and InvalidCursorError."""
    # Not validated again: the hottest list of all.
    wanted = OfferFilter.model_construct(merchant_id=merchant_id)
    page = await list_offers(session, wanted=wanted, limit=limit, cursor=cursor)
    if not page.items and not await session.scalar(select(statements.is_listed(merchant_id))):
        raise MerchantNotFoundError(merchant_id)
    return page


def _cursor_after(sort: OfferSort, row: AnyRow) -> str:
    # The sort's name comes first: a cursor of another sort is refused and never misread.
    return encode_cursor(sort.value, *(getattr(row, name) for name in _SORT_KEYS[sort]))


def _continue_after(sort: OfferSort, cursor: str) -> dict[str, Any]:
    names = _SORT_KEYS[sort]
    given, *key = decode_cursor(cursor, str, *(UUID if name == "id" else int for name in names))
    if given != sort.value:
        raise InvalidCursorError
    # The id comes last in every key, with at most one number before it.
    return dict(zip(("after_id", "after_number"), reversed(key), strict=False))


async def _matches_few(session: AsyncSession, filters: frozenset[str], parameters: dict[str, Any]) -> bool:
    parameters["many"] = MANY_MATCHES
    (row,) = await _fetch(session, statements.count_offers(filters), parameters)
    return bool(row.matches < MANY_MATCHES)


async def _fetch(session: AsyncSession, statement: Statement, parameters: dict[str, Any]) -> list[AnyRow]:
    # Rows of columns need nothing that a session adds to its connection.
    connection = await session.connection()
    return list((await connection.execute(statement, parameters)).all())


def _filters(wanted: MerchantFilter | OfferFilter, parameters: dict[str, Any]) -> frozenset[str]:
    """Add the values of the filters that are set to the parameters, and return the names of those filters."""
    given: dict[str, Any] = {name: getattr(wanted, name) for name in type(wanted).model_fields if name != "sort"}
    present = {name: value for name, value in given.items() if value is not None and value != ""}
    if text := present.get("q"):
        parameters |= search_parameters(text)
    parameters |= {name: value for name, value in present.items() if name != "q"}
    return frozenset(present)


# --- Rows to schemas: plain mappings, which a page then validates in one go.


def _merchant(row: AnyRow) -> dict[str, Any]:
    shown = {name: getattr(row, name) for name in MerchantRead.model_fields if name != "rate"}
    rate = None
    if row.kind is not None:
        rate = RateRead.of(
            kind=row.kind,
            basis_points=row.basis_points,
            fixed_minor=row.fixed_minor,
            cap_minor=row.cap_minor,
            cap_month_minor=row.cap_month_minor,
            tiers=row.tiers,
            currency=row.currency,
        )
    return {**shown, "rate": rate}


def _offer(row: AnyRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "merchant_id": row.merchant_id,
        "title": row.title,
        "description": row.description,
        "brand": row.brand,
        "category": row.category,
        "url": row.url,
        "image_url": row.image_url,
        "price": {"amount_minor": row.price_minor, "currency": row.currency},
        "price_max": {"amount_minor": row.price_max_minor, "currency": row.currency},
        "available": row.available,
    }
