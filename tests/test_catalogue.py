"""The public catalogue: what is shown, how it is searched, and that walking the pages gives every row once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import event, select
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncSession

from app.ids import new_id
from app.models import MerchantStatus, Offer, RateKind
from app.schemas.catalogue import OfferFilter, OfferSort
from app.services import catalogue
from app.services.pagination import encode_cursor
from tests.factories import make_category, make_merchant, make_offer, make_rate


@asynccontextmanager
async def counted_statements(session: AsyncSession) -> AsyncIterator[list[str]]:
    """Collect the statements that reach the server meanwhile; savepoints and the look at the version left out."""
    statements: list[str] = []

    def note(statement: str) -> None:
        if "SAVEPOINT" not in statement and "catalogue_version" not in statement:
            statements.append(statement)

    def note_ours(_c: object, _cursor: object, statement: str, *_: object) -> None:
        note(statement)

    driver: Any = (await (await session.connection()).get_raw_connection()).driver_connection
    event.listen(Engine, "before_cursor_execute", note_ours)
    try:
        with driver.query_logger(lambda logged: note(logged.query)):
            yield statements
            await asyncio.sleep(0)  # the driver tells of each in the loop's next round
    finally:
        event.remove(Engine, "before_cursor_execute", note_ours)


async def walk(client: httpx.AsyncClient, path: str, **params: Any) -> list[dict[str, Any]]:
    """Every row of a list, page by page."""
    rows: list[dict[str, Any]] = []
    while True:
        answer = await client.get(path, params=params)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        rows += page["items"]
        if page["next_cursor"] is None:
            return rows
        assert page["items"]
        params["cursor"] = page["next_cursor"]


async def titles(client: httpx.AsyncClient, **params: Any) -> list[str]:
    """Titles of the first page of offers."""
    answer = await client.get("/v1/offers", params=params)
    assert answer.status_code == 200, answer.text
    return [offer["title"] for offer in answer.json()["items"]]


# --- Categories and merchants


async def test_categories_count_the_merchants_that_are_listed(client: httpx.AsyncClient, session: AsyncSession) -> None:
    fashion = await make_category(session, slug="fashion", name="Fashion")
    await make_category(session, slug="books", name="Books")
    await make_merchant(session, category_id=fashion.id)
    await make_merchant(session, category_id=fashion.id, status=MerchantStatus.PAUSED)
    await make_merchant(session, category_id=fashion.id, status=MerchantStatus.CLOSED)
    assert (await client.get("/v1/categories")).json() == {
        "items": [
            {"slug": "books", "name": "Books", "merchants": 0},
            {"slug": "fashion", "name": "Fashion", "merchants": 2},
        ],
        "next_cursor": None,
    }


async def test_categories_of_one_name_are_walked_once_each(client: httpx.AsyncClient, session: AsyncSession) -> None:
    made = [(await make_category(session, name=name)).slug for name in ("B", "A", "B", "B", "C")]
    walked = [category["slug"] for category in await walk(client, "/v1/categories", limit=1)]
    assert sorted(walked) == sorted(made)


async def test_merchant_is_found_by_id_and_by_slug(client: httpx.AsyncClient, session: AsyncSession) -> None:
    fashion = await make_category(session, slug="fashion")
    merchant = await make_merchant(
        session, slug="khaadi", name="Khaadi", category_id=fashion.id, logo_url="https://cdn.example/k.png"
    )
    by_id = await client.get(f"/v1/merchants/{merchant.id}")
    assert by_id.status_code == 200
    assert by_id.json() == {
        "id": merchant.id,
        "slug": "khaadi",
        "name": "Khaadi",
        "description": "",
        "status": "active",
        "category": "fashion",
        "currency": "PKR",
        "logo_url": "https://cdn.example/k.png",
        "hold_days": 30,
        "rate": {
            "kind": "percent_of_sale",
            "basis_points": 500,
            "fixed": None,
            "cap": None,
            "cap_month": None,
            "tiers": [],
        },
    }
    assert (await client.get("/v1/merchants/khaadi")).json() == by_id.json()


async def test_unknown_and_closed_merchants_are_not_found(client: httpx.AsyncClient, session: AsyncSession) -> None:
    closed = await make_merchant(session, slug="gone", status=MerchantStatus.CLOSED)
    for path in (f"{closed.id}", "gone", f"{closed.id}/offers", "0", "999999999", "9" * 80, "999999999/offers"):
        answer = await client.get(f"/v1/merchants/{path}")
        assert answer.status_code == 404, path
        assert answer.json()["code"] == "merchant_not_found"
    for path in ("Not%20A%20Slug", "%00", "-", "0/offers", "99999999999/offers", "x/offers"):
        assert (await client.get(f"/v1/merchants/{path}")).status_code == 422, path


async def test_lists_show_paused_merchants_with_their_status_but_no_closed_ones(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    await make_merchant(session, name="A", status=MerchantStatus.ACTIVE)
    await make_merchant(session, name="B", status=MerchantStatus.PAUSED)
    await make_merchant(session, name="C", status=MerchantStatus.CLOSED)
    shown = (await client.get("/v1/merchants")).json()["items"]
    assert [(merchant["name"], merchant["status"]) for merchant in shown] == [("A", "active"), ("B", "paused")]


async def test_rate_shown_is_the_one_in_force_that_began_last(client: httpx.AsyncClient, session: AsyncSession) -> None:
    now = datetime.now(UTC)
    merchant = await make_merchant(session, rate_basis_points=900)
    await make_rate(
        session,
        merchant,
        kind=RateKind.FIXED,
        fixed_minor=25_000,
        cap_minor=90_000,
        valid_from=now - timedelta(hours=2),
    )
    await make_rate(
        session, merchant, basis_points=700, valid_from=now - timedelta(hours=1), valid_to=now - timedelta(minutes=1)
    )
    await make_rate(session, merchant, basis_points=800, valid_from=now + timedelta(hours=1))
    rate: dict[str, Any] = {
        "kind": "fixed",
        "basis_points": None,
        "fixed": {"amount_minor": 25_000, "currency": "PKR"},
        "cap": {"amount_minor": 90_000, "currency": "PKR"},
        "cap_month": None,
        "tiers": [],
    }
    assert (await client.get(f"/v1/merchants/{merchant.id}")).json()["rate"] == rate
    assert (await client.get("/v1/merchants")).json()["items"][0]["rate"] == rate


async def test_merchant_without_a_rate_in_force_is_shown_without_one(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    merchant = await make_merchant(session, rate_basis_points=None)
    assert (await client.get(f"/v1/merchants/{merchant.id}")).json()["rate"] is None


async def test_merchants_are_searched_by_name_and_description_and_filtered_by_category(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    fashion = await make_category(session, slug="fashion")
    await make_merchant(session, name="Khaadi Home", description="Fabrics", category_id=fashion.id)
    await make_merchant(session, name="Daraz", description="Everything and fabrics")

    async def names(**params: str) -> list[str]:
        answer = await client.get("/v1/merchants", params=params)
        return [merchant["name"] for merchant in answer.json()["items"]]

    assert await names(q="FABR") == ["Daraz", "Khaadi Home"]
    assert await names(q="home kha") == ["Khaadi Home"]
    assert await names(q="fabr", category="fashion") == ["Khaadi Home"]
    assert await names(category="unknown") == []
    assert await names(q="   ") == ["Daraz", "Khaadi Home"]


async def test_merchants_of_one_name_are_walked_once_each(client: httpx.AsyncClient, session: AsyncSession) -> None:
    made = [(await make_merchant(session, name=name)).id for name in ("B", "A", "B", "B", "C", "A")]
    for limit in (1, 2, 4):
        walked = await walk(client, "/v1/merchants", limit=limit)
        assert sorted(merchant["id"] for merchant in walked) == made
        assert [merchant["name"] for merchant in walked] == ["A", "A", "B", "B", "B", "C"]


# --- Offers


async def test_offer_is_shown_as_the_contract_says(client: httpx.AsyncClient, session: AsyncSession) -> None:
    merchant = await make_merchant(session)
    category = await make_category(session, slug="suits")
    offer = await make_offer(
        session,
        merchant,
        title="Lawn suit",
        description="3 pieces",
        brand="Khaadi",
        category_id=category.id,
        url="https://k.example/1",
        image_url="https://k.example/1.jpg",
        price_minor=100,
        price_max_minor=300,
        available=False,
    )
    expected = {
        "id": str(offer.id),
        "merchant_id": merchant.id,
        "title": "Lawn suit",
        "description": "3 pieces",
        "brand": "Khaadi",
        "category": "suits",
        "url": "https://k.example/1",
        "image_url": "https://k.example/1.jpg",
        "price": {"amount_minor": 100, "currency": "PKR"},
        "price_max": {"amount_minor": 300, "currency": "PKR"},
        "available": False,
    }
    for path in ("/v1/offers", f"/v1/merchants/{merchant.id}/offers"):
        assert (await client.get(path)).json() == {"items": [expected], "next_cursor": None}


async def test_removed_offers_and_those_of_closed_merchants_are_not_shown(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    active = await make_merchant(session)
    paused = await make_merchant(session, status=MerchantStatus.PAUSED)
    closed = await make_merchant(session, status=MerchantStatus.CLOSED)
    await make_offer(session, active, title="live")
    await make_offer(session, active, title="removed", removed_at=datetime.now(UTC))
    await make_offer(session, paused, title="paused")
    await make_offer(session, closed, title="closed")
    assert await titles(client) == ["paused", "live"]
    assert await titles(client, merchant_id=closed.id) == []
    assert await titles(client, q="closed") == []


async def test_merchant_without_offers_has_an_empty_list(client: httpx.AsyncClient, session: AsyncSession) -> None:
    merchant = await make_merchant(session)
    answer = await client.get(f"/v1/merchants/{merchant.id}/offers")
    assert answer.status_code == 200
    assert answer.json() == {"items": [], "next_cursor": None}


async def test_offers_are_filtered_by_everything_at_once(client: httpx.AsyncClient, session: AsyncSession) -> None:
    merchant = await make_merchant(session)
    suits = await make_category(session, slug="suits")
    for price in (100, 200, 300, 400):
        await make_offer(session, merchant, title=f"Lawn {price}", price_minor=price, category_id=suits.id)
    await make_offer(session, merchant, title="Lawn uncategorised", price_minor=200)
    await make_offer(session, merchant, title="Silk", price_minor=200, category_id=suits.id)
    await make_offer(session, await make_merchant(session), title="Lawn", price_minor=200, category_id=suits.id)
    wanted = {"q": "law", "category": "suits", "merchant_id": merchant.id, "min_price": 200, "max_price": 300}
    assert await titles(client, **wanted) == ["Lawn 300", "Lawn 200"]
    assert await titles(client, **wanted, sort="price_asc") == ["Lawn 200", "Lawn 300"]
    assert await titles(client, category="unknown") == []
    assert await titles(client, merchant_id=2**31 - 1) == []


@pytest.mark.parametrize(
    "params",
    [
        {"min_price": 2, "max_price": 1},
        {"min_price": -1},
        {"max_price": 2**63},
        {"min_price": "1.5"},
        {"merchant_id": 0},
        {"merchant_id": 2**31},
        {"sort": "random"},
        {"sort": "relevance"},
        {"sort": "relevance", "q": "  "},
        {"q": "x" * 201},
        {"q": "a\0b"},
        {"category": "Not A Slug"},
        {"limit": 0},
        {"limit": 101},
        {"cursor": "x"},
        {"cursor": encode_cursor("newest", 1)},
    ],
)
async def test_nonsense_is_refused(client: httpx.AsyncClient, params: dict[str, Any]) -> None:
    answer = await client.get("/v1/offers", params=params)
    assert answer.status_code == 422, answer.text


async def test_search_wants_all_words_and_takes_the_last_one_unfinished(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    merchant = await make_merchant(session)
    await make_offer(session, merchant, title="Embroidered lawn suit", brand="Khaadi")
    await make_offer(session, merchant, title="Men's T-shirt 50% off")
    assert await titles(client, q="khaadi LAWN") == ["Embroidered lawn suit"]
    assert await titles(client, q="suit embr") == ["Embroidered lawn suit"]
    assert await titles(client, q="embr suit") == []
    assert await titles(client, q="lawn shirt") == []
    for text in ("men's t-shirt", "t-sh", "50%", "off 50", "MEN'S"):
        assert await titles(client, q=text) == ["Men's T-shirt 50% off"], text
    assert await titles(client, q="!!! ???") == []


async def test_relevance_puts_the_better_match_first(client: httpx.AsyncClient, session: AsyncSession) -> None:
    merchant = await make_merchant(session)
    made = ["Lawn suit", "Suit in a box, with a dupatta of lawn and silk", "Silk suit"]
    for title in made:
        await make_offer(session, merchant, title=title)
    assert await titles(client, q="lawn suit", sort="relevance") == [made[0], made[1]]
    assert await titles(client, q="lawn suit") == [made[1], made[0]]


# Both are what a parser of queries could trip over; the rest is left to chance.
_TRICKY = st.text(alphabet="a1 '\"\\:*&|!()<->@./😀\t\n\u00a0\u202e%-_", max_size=40)
_SEARCHES = st.one_of(st.text(max_size=60), _TRICKY).filter(lambda text: "\0" not in text)


@hypothesis_settings(
    max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(text="'")
@example(text="\\")
@example(text="a\\' :* & b")
@example(text="🛍️" * 100)
@example(text="<a href='x'> --5 a@b.c http://x.example/y?z=1 1e5")
@given(text=_SEARCHES)
@pytest.mark.usefixtures("session")
async def test_no_text_is_a_syntax_error(text: str) -> None:
    wanted = OfferFilter(q=text)
    sorts = [OfferSort.NEWEST, OfferSort.RELEVANCE] if wanted.q else [OfferSort.NEWEST]
    for sort in sorts:
        page = await catalogue.list_offers(wanted=wanted.model_copy(update={"sort": sort}), limit=2, cursor=None)
        assert orjson.loads(page)["items"] == []


@hypothesis_settings(
    max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(words=st.lists(st.text(alphabet="abcdexyz", min_size=1, max_size=8), min_size=1, max_size=5), data=st.data())
async def test_a_title_is_found_by_any_of_its_words_in_any_order(
    session: AsyncSession, words: list[str], data: st.DataObject
) -> None:
    offer = await make_offer(session, await make_merchant(session), title=" ".join(words))
    typed = data.draw(st.permutations(words))[: data.draw(st.integers(1, len(words)))]
    typed[-1] = typed[-1][: data.draw(st.integers(1, len(typed[-1])))]
    wanted = OfferFilter(q=" ".join(typed), merchant_id=offer.merchant_id)
    page = await catalogue.list_offers(wanted=wanted, limit=2, cursor=None)
    assert [found["id"] for found in orjson.loads(page)["items"]] == [str(offer.id)]


@pytest.mark.parametrize("many", [5000, 3])
@pytest.mark.parametrize("sort", ["newest", "price_asc", "price_desc", "relevance"])
async def test_walking_all_pages_gives_every_offer_once(
    client: httpx.AsyncClient, session: AsyncSession, monkeypatch: pytest.MonkeyPatch, sort: str, many: int
) -> None:
    if sort == "relevance" and many == 3:
        many = 23
    # Both ways to search: few matches are gathered and sorted, of many an index in the list's order is walked.
    monkeypatch.setattr(catalogue, "MANY_MATCHES", many)
    merchant = await make_merchant(session)
    for number in range(23):
        # Many equal prices, many equal ranks.
        await make_offer(session, merchant, title="lawn " * (number % 3 + 1), price_minor=[100, 100, 200][number % 3])
    made = set((await session.scalars(select(Offer.id))).all())
    for limit in (1, 2, 7, 23, 100):
        walked = await walk(client, "/v1/offers", limit=limit, sort=sort, q="lawn")
        assert len(walked) == 23
        assert {offer["id"] for offer in walked} == {str(one) for one in made}
        prices = [offer["price"]["amount_minor"] for offer in walked]
        if sort.startswith("price"):
            assert prices == sorted(prices, reverse=sort == "price_desc")
        if sort == "newest":
            assert [offer["id"] for offer in walked] == sorted((offer["id"] for offer in walked), reverse=True)


async def test_relevance_ranks_only_the_newest_of_very_many_matches(
    client: httpx.AsyncClient, session: AsyncSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "MANY_MATCHES", 3)
    merchant = await make_merchant(session)
    for title in ("lawn", "lawn a b c", "lawn a", "lawn a b"):
        await make_offer(session, merchant, title=title)
    walked = await walk(client, "/v1/offers", q="lawn", sort="relevance", limit=2)
    assert [offer["title"] for offer in walked] == ["lawn a", "lawn a b", "lawn a b c"]


async def test_a_merchants_offers_are_walked_newest_first(client: httpx.AsyncClient, session: AsyncSession) -> None:
    merchant = await make_merchant(session)
    made = [str((await make_offer(session, merchant)).id) for _ in range(7)]
    await make_offer(session, await make_merchant(session))
    walked = await walk(client, f"/v1/merchants/{merchant.id}/offers", limit=3)
    assert [offer["id"] for offer in walked] == made[::-1]


async def test_cursor_of_another_sort_is_refused(client: httpx.AsyncClient, session: AsyncSession) -> None:
    merchant = await make_merchant(session)
    for _ in range(3):
        await make_offer(session, merchant, title="lawn")
    sorts = ("newest", "price_asc", "price_desc", "relevance")
    cursors = {}
    for sort in sorts:
        page = await client.get("/v1/offers", params={"sort": sort, "q": "lawn", "limit": 1})
        cursors[sort] = page.json()["next_cursor"]
    for sort in sorts:
        for other in sorts:
            answer = await client.get("/v1/offers", params={"sort": sort, "q": "lawn", "cursor": cursors[other]})
            assert answer.status_code == (200 if sort == other else 422)
            if sort != other:
                assert answer.json()["code"] == "invalid_cursor"
    # Other filters do no harm: it is still a place in the same order.
    answer = await client.get("/v1/offers", params={"max_price": 1, "cursor": cursors["newest"]})
    assert answer.json()["items"] == []


@pytest.mark.parametrize("path", ["/v1/categories", "/v1/merchants", "/v1/offers"])
@pytest.mark.parametrize(
    "key", [("x", 2**63 - 1), ("x", -(2**63)), ("newest", new_id()), (1, 2), (), ("x", "y", "z"), ("\ud7ff", 0)]
)
async def test_forged_cursor_is_refused_or_harmless(
    client: httpx.AsyncClient, path: str, key: tuple[str | int, ...]
) -> None:
    answer = await client.get(path, params={"cursor": encode_cursor(*key)})
    assert answer.status_code in (200, 422)


async def test_lists_take_one_statement_however_many_rows(client: httpx.AsyncClient, session: AsyncSession) -> None:
    category = await make_category(session)
    merchants = [await make_merchant(session, category_id=category.id) for _ in range(12)]
    for merchant in merchants * 2:
        await make_offer(session, merchant, category_id=category.id)
    merchant = merchants[0]
    for path in (
        "/v1/categories",
        "/v1/merchants",
        f"/v1/merchants/{merchant.id}",
        f"/v1/merchants/{merchant.id}/offers",
        "/v1/offers",
        f"/v1/offers?category={category.slug}&merchant_id={merchant.id}&sort=price_asc&max_price=9999",
    ):
        async with counted_statements(session) as statements:
            answer = await client.get(path)
        assert answer.status_code == 200
        assert len(statements) == 1, (path, statements)
    async with counted_statements(session) as statements:
        await client.get("/v1/offers", params={"q": "product", "sort": "relevance"})
    assert len(statements) == 2, statements
