"""What the public sees of the catalogue: one statement a call, whose rows are JSON already (`catalogue_statements.py`).

What each list is ordered by is in its cursors, so a page continues where the last one ended whatever came or went.
These answers are the JSON of their schemas, as bytes.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from app.db import transaction
from app.errors import NotFoundError
from app.schemas.catalogue import MAX_MERCHANT_ID, MerchantFilter, OfferFilter, OfferSort
from app.services import catalogue_statements as statements
from app.services.json_items import page
from app.services.pagination import InvalidCursorError, cut_page, decode_cursor, encode_cursor
from app.services.search import search_parameters

# Up to so many matches of a search are gathered and sorted, some milliseconds' work; of more, relevance ranks only the
# newest so many.
MANY_MATCHES = 5_000


class MerchantNotFoundError(NotFoundError):
    """No merchant has this id or slug, or none that the public may see."""

    code = "merchant_not_found"
    title = "Merchant not found"

    def __init__(self, id_or_slug: int | str) -> None:
        super().__init__(f"There is no merchant {id_or_slug}.")


async def list_categories(*, limit: int, cursor: str | None) -> bytes:
    """Return categories by name, each with the number of its listed merchants. Raises InvalidCursorError."""
    parameters: dict[str, Any] = {"limit": limit + 1}
    if cursor is not None:
        parameters["after_name"], parameters["after_id"] = decode_cursor(cursor, str, int)
    rows = await statements.categories(continued=cursor is not None).fetch(**parameters)
    return _page_by_name(rows, limit)


async def list_merchants(*, wanted: MerchantFilter, limit: int, cursor: str | None) -> bytes:
    """Return listed merchants by name, each with the rate a click promises now. Raises InvalidCursorError."""
    parameters: dict[str, Any] = {"limit": limit + 1, "at": datetime.now(UTC)}
    if cursor is not None:
        parameters["after_name"], parameters["after_id"] = decode_cursor(cursor, str, int)
    filters = _filters(wanted, parameters)
    rows = await statements.merchants(filters, continued=cursor is not None).fetch(**parameters)
    return _page_by_name(rows, limit)


async def get_merchant(*, id_or_slug: str) -> bytes:
    """Return a listed merchant; a text of digits is an id. Raises MerchantNotFoundError."""
    by_id = id_or_slug.isdecimal()
    wanted = int(id_or_slug) if by_id else id_or_slug
    if isinstance(wanted, int) and wanted > MAX_MERCHANT_ID:
        raise MerchantNotFoundError(id_or_slug)
    statement = statements.merchant_by_id() if by_id else statements.merchant_by_slug()
    rows = await statement.fetch(at=datetime.now(UTC), wanted=wanted)
    if not rows:
        raise MerchantNotFoundError(id_or_slug)
    item: str = rows[0]["item"]
    return item.encode()


async def list_offers(*, wanted: OfferFilter, limit: int, cursor: str | None) -> bytes:
    """Return live offers of listed merchants. A price bound and the sort look at the lowest price of each.

    By relevance no more than the newest MANY_MATCHES are ranked and listed; every other list is complete.

    Raises InvalidCursorError, also for a cursor of a list that was sorted otherwise.
    """
    rows = await _offers(wanted, limit=limit, cursor=cursor)
    return _page_of_offers(rows, wanted.sort, limit)


async def list_merchant_offers(*, merchant_id: int, limit: int, cursor: str | None) -> bytes:
    """Return a listed merchant's live offers, newest first. Raises MerchantNotFoundError and InvalidCursorError."""
    # Not validated again: the hottest list of all.
    wanted = OfferFilter.model_construct(merchant_id=merchant_id)
    rows = await _offers(wanted, limit=limit, cursor=cursor)
    if not rows and not await statements.merchant_is_listed().fetch(wanted=merchant_id):
        raise MerchantNotFoundError(merchant_id)
    return _page_of_offers(rows, wanted.sort, limit)


async def _offers(wanted: OfferFilter, *, limit: int, cursor: str | None) -> Sequence[Any]:
    parameters: dict[str, Any] = {"limit": limit + 1}
    if cursor is not None:
        parameters |= _continue_after(wanted.sort, cursor)
    filters = _filters(wanted, parameters)
    if "q" not in filters:
        return await statements.offers_read(filters, wanted.sort, continued=cursor is not None).fetch(**parameters)
    # What the count says of how to plan holds until the end of the transaction.
    async with transaction() as session:
        # Rows of columns need nothing that a session adds to its connection.
        connection = await session.connection()
        parameters["many"] = MANY_MATCHES
        counted = await connection.execute(statements.count_offers(filters), parameters)
        gather = counted.one().matches < MANY_MATCHES
        statement = statements.offers(filters, wanted.sort, continued=cursor is not None, gather=gather)
        return (await connection.execute(statement, parameters)).mappings().all()


def _page_by_name(found: Sequence[Any], limit: int) -> bytes:
    rows, more = cut_page(found, limit)
    return page(rows, encode_cursor(rows[-1]["name"], rows[-1]["id"]) if more else None)


def _page_of_offers(found: Sequence[Any], sort: OfferSort, limit: int) -> bytes:
    rows, more = cut_page(found, limit)
    if not more:
        return page(rows, None)
    # The sort's name comes first: a cursor of another sort is refused and never misread.
    return page(rows, encode_cursor(sort.value, *(rows[-1][name] for name in statements.SORT_KEYS[sort])))


def _continue_after(sort: OfferSort, cursor: str) -> dict[str, Any]:
    names = statements.SORT_KEYS[sort]
    given, *key = decode_cursor(cursor, str, *(UUID if name == "id" else int for name in names))
    if given != sort.value:
        raise InvalidCursorError
    # The id comes last in every key, with at most one number before it.
    return dict(zip(("after_id", "after_number"), reversed(key), strict=False))


def _filters(wanted: MerchantFilter | OfferFilter, parameters: dict[str, Any]) -> frozenset[str]:
    """Add the values of the filters that are set to the parameters, and return the names of those filters."""
    given: dict[str, Any] = {name: getattr(wanted, name) for name in type(wanted).model_fields if name != "sort"}
    present = {name: value for name, value in given.items() if value is not None and value != ""}
    if text := present.get("q"):
        parameters |= search_parameters(text)
    parameters |= {name: value for name, value in present.items() if name != "q"}
    return frozenset(present)
