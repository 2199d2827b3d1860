"""Lists of offers read about as many rows as they show, also where a filter leaves few or none."""

import pytest
from sqlalchemy import text

from app.db import transaction
from app.schemas.catalogue import OfferSort
from app.services import catalogue_statements as statements
from tests.plans.conftest import Business


@pytest.mark.parametrize(("category", "shown"), [("bench-3", 21), ("nothing-like-it", 0)], ids=["full", "unknown"])
async def test_a_category_is_read_by_its_own_index(business: Business, category: str, shown: int) -> None:
    statement = statements.offers(frozenset({"category"}), OfferSort.NEWEST, continued=False, gather=False)

    async def work() -> None:
        async with transaction() as session:
            rows = (await session.execute(statement, {"category": category, "limit": 21})).all()
            assert len(rows) == shown

    await business.assert_bounded(work, most_rows=100)


@pytest.mark.parametrize(
    ("filters", "sort"),
    [
        (("category", "max_price"), OfferSort.NEWEST),
        (("min_price", "max_price"), OfferSort.PRICE_ASC),
        (("merchant_id", "min_price"), OfferSort.PRICE_DESC),
        (("merchant_id",), OfferSort.NEWEST),
        ((), OfferSort.NEWEST),
    ],
    ids=lambda value: "-".join(value) or "all" if isinstance(value, tuple) else value.value,
)
async def test_a_list_is_read_as_far_as_it_is_shown_by_a_plan_for_any_values(
    business: Business, filters: tuple[str, ...], sort: OfferSort
) -> None:
    statement = statements.offers(frozenset(filters), sort, continued=False, gather=False)
    values = {"category": "bench-3", "min_price": 60_000, "max_price": 900_000, "limit": 21}
    values["merchant_id"] = business.loaded.merchant_id

    async def work() -> None:
        async with transaction() as session:
            # As PostgreSQL does by itself after the fifth time, where it thinks that the plan is no worse.
            await session.execute(text("SELECT set_config('plan_cache_mode', 'force_generic_plan', true)"))
            given = {name: values[name] for name in (*filters, "limit")}
            assert len((await session.execute(statement, given)).all()) == 21

    await business.assert_bounded(work, most_rows=100, generic=True)


async def test_the_next_page_of_a_category_begins_where_the_last_one_ended(business: Business) -> None:
    first = statements.offers(frozenset({"category"}), OfferSort.NEWEST, continued=False, gather=False)
    further = statements.offers(frozenset({"category"}), OfferSort.NEWEST, continued=True, gather=False)

    async def work() -> None:
        async with transaction() as session:
            values = {"category": "bench-3", "limit": 21}
            ids = [row.id for row in await session.execute(first, values)]
            rows = [row.id for row in await session.execute(further, {**values, "after_id": ids[9]})]
            assert rows[:11] == ids[10:]

    await business.assert_bounded(work, most_rows=100)
