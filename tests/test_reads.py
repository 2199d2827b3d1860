"""Hot reads: what PostgreSQL writes is what the schemas would, nobody reads past an ended session, no broken connection
is noticed, and the statements stay on their indexes."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from openapi_schema_validator import OAS31Validator
from pydantic import BaseModel
from sqlalchemy import Float, bindparam, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from app import db, reads
from app.config import Settings
from app.models import (
    CustomerSession,
    CustomerStatus,
    MerchantStatus,
    Order,
    OrderReview,
    OrderStatus,
    RateKind,
    ReviewStatus,
    Wallet,
)
from app.reads import Read
from app.schemas.catalogue import CategoryPage, MerchantPage, MerchantRead, OfferPage, OfferRead, RateRead
from app.schemas.common import Money, Page
from app.schemas.orders import OrderMerchant, OrderRead
from app.schemas.wallets import Balance, WalletRead
from app.services.orders.hold import waits_for
from tests.conftest import make_settings
from tests.factories import (
    customer_headers,
    make_category,
    make_click,
    make_customer,
    make_merchant,
    make_offer,
    make_order,
    make_rate,
)

CHANCE = hypothesis_settings(
    max_examples=25,
    phases=[Phase.generate],
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# PostgreSQL's text holds everything but NUL and surrogates.
TEXTS = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
AMOUNTS = st.one_of(st.integers(1, 2**63 - 1), st.sampled_from([1, 2**53 + 1, 2**63 - 1]))
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2999, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds


@pytest.fixture(scope="module")
def document(application: FastAPI) -> dict[str, Any]:
    return application.openapi()


async def get(client: httpx.AsyncClient, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    answer = await client.get(path, headers=headers)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json"), answer.text
    return answer


def assert_is(answer: httpx.Response, expected: BaseModel, document: dict[str, Any], path: str) -> None:
    """The answer is what the model would be as JSON, and what the OpenAPI document promises of the path."""
    assert answer.json() == expected.model_dump(mode="json", by_alias=True)
    schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    OAS31Validator({**schema, "components": document["components"]}).validate(answer.json())


# --- The answers


@CHANCE
@given(data=st.data())
async def test_merchants_are_what_their_schema_says(
    client: httpx.AsyncClient, session: AsyncSession, document: dict[str, Any], data: st.DataObject
) -> None:
    category = await make_category(session, name=data.draw(TEXTS))
    merchant = await make_merchant(
        session,
        name=data.draw(TEXTS),
        description=data.draw(TEXTS),
        logo_url=data.draw(st.none() | TEXTS),
        status=data.draw(st.sampled_from([MerchantStatus.ACTIVE, MerchantStatus.PAUSED])),
        category_id=category.id,
        hold_days=data.draw(st.integers(0, 2**31 - 1)),
        currency=data.draw(st.sampled_from(["PKR", "JPY", "KWD"])),
        rate_basis_points=None,
    )
    rate = None
    if (kind := data.draw(st.none() | st.sampled_from(RateKind))) is not None:
        fixed = kind is RateKind.FIXED
        tier = {"fixed_minor": data.draw(AMOUNTS)} if fixed else {"basis_points": data.draw(st.integers(1, 10_000))}
        columns: dict[str, Any] = {
            "kind": kind,
            "fixed_minor": data.draw(AMOUNTS) if fixed else None,
            "basis_points": None if fixed else data.draw(st.integers(1, 10_000)),
            "cap_minor": data.draw(st.none() | AMOUNTS),
            "cap_month_minor": data.draw(st.none() | AMOUNTS),
            "tiers": data.draw(st.none() | st.lists(st.builds(lambda a: {"from_minor": a, **tier}, AMOUNTS))),
        }
        await make_rate(session, merchant, **columns)
        rate = RateRead.of(currency=merchant.currency, **columns)
    columns = {name: getattr(merchant, name) for name in MerchantRead.model_fields if name not in {"rate", "category"}}
    expected = MerchantRead(**columns, category=category.slug, rate=rate)
    path = "/v1/merchants/{id_or_slug}"
    assert_is(await get(client, f"/v1/merchants/{merchant.slug}"), expected, document, path)
    page = MerchantPage(items=[expected])
    assert_is(await get(client, f"/v1/merchants?category={category.slug}"), page, document, "/v1/merchants")


@CHANCE
@given(data=st.data())
async def test_offers_are_what_their_schema_says(
    client: httpx.AsyncClient, session: AsyncSession, document: dict[str, Any], data: st.DataObject
) -> None:
    category = await make_category(session) if data.draw(st.booleans()) else None
    merchant = await make_merchant(session)
    low = data.draw(st.integers(0, 2**63 - 1))
    expected: list[OfferRead] = []
    for _ in range(data.draw(st.integers(1, 3))):
        offer = await make_offer(
            session,
            merchant,
            title=data.draw(TEXTS),
            description=data.draw(TEXTS),
            brand=data.draw(st.none() | TEXTS),
            category_id=category and category.id,
            url=data.draw(TEXTS),
            image_url=data.draw(st.none() | TEXTS),
            price_minor=low,
            price_max_minor=data.draw(st.integers(low, 2**63 - 1)),
            available=data.draw(st.booleans()),
        )
        price = Money(amount_minor=offer.price_minor, currency="PKR")
        price_max = Money(amount_minor=offer.price_max_minor, currency="PKR")
        columns = {name: getattr(offer, name) for name in OfferRead.model_fields if hasattr(offer, name)}
        slug = category.slug if category else None
        expected.insert(0, OfferRead(**columns, category=slug, price=price, price_max=price_max))
    page = OfferPage(items=expected)
    path = f"/v1/merchants/{merchant.id}/offers"
    assert_is(await get(client, path), page, document, "/v1/merchants/{merchant_id}/offers")
    assert_is(await get(client, f"/v1/offers?merchant_id={merchant.id}"), page, document, "/v1/offers")


async def test_categories_are_what_their_schema_says(
    client: httpx.AsyncClient, session: AsyncSession, document: dict[str, Any]
) -> None:
    await make_category(session, slug="a", name='"Ä"\n')
    expected = CategoryPage.model_validate({"items": [{"slug": "a", "name": '"Ä"\n', "merchants": 0}]})
    assert_is(await get(client, "/v1/categories"), expected, document, "/v1/categories")


@CHANCE
@given(data=st.data())
async def test_a_wallet_is_what_its_schema_says(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, document: dict[str, Any], data: st.DataObject
) -> None:
    customer = await make_customer(session)
    names = [name for name in Balance.model_fields if name != "currency"]
    currencies = data.draw(st.lists(st.sampled_from(["PKR", "EUR", "JPY", "KWD"]), unique=True))
    wallets = [
        Wallet(
            customer_id=customer.id,
            currency=currency,
            **{name: data.draw(st.integers(0, 2**63 - 1)) for name in names if name != "available_minor"},
            available_minor=data.draw(st.integers(-(2**63) + 1, 2**63 - 1)),
        )
        for currency in currencies
    ]
    async with db.undone(session):  # no posting stands behind these balances
        session.add_all(wallets)
        await session.flush()
        expected = WalletRead(
            balances=[Balance.model_validate(one) for one in sorted(wallets, key=lambda w: w.currency)]
        )
        answer = await get(client, "/v1/me/wallet", customer_headers(settings, customer))
        assert_is(answer, expected, document, "/v1/me/wallet")


@CHANCE
@given(data=st.data())
async def test_orders_are_what_their_schema_says_and_wait_for_what_the_rule_says(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, document: dict[str, Any], data: st.DataObject
) -> None:
    customer = await make_customer(session)
    merchant = await make_merchant(
        session,
        name=data.draw(TEXTS),
        payable_after_payment=data.draw(st.booleans()),
        exposure_limit_minor=data.draw(st.sampled_from([None, 0, 4_999, 5_000])),
    )
    order = await make_order(session, await make_click(session, customer, merchant), external_id="A" + data.draw(TEXTS))
    async with db.undone(session):  # the ledger knows nothing of what follows
        now = datetime.now(UTC)
        review = data.draw(st.none() | st.sampled_from(ReviewStatus))
        if review is not None:
            columns = {"merchant_id": merchant.id, "held_since": now, "decided_at": now, "note": "seen", "findings": []}
            session.add(OrderReview(order_id=order.id, status=review, **columns))
        order.status = data.draw(st.sampled_from(OrderStatus))
        order.ordered_at = data.draw(MOMENTS)
        order.payable_at = data.draw(
            st.sampled_from([None, now - timedelta(days=1), now + timedelta(days=1)]) | MOMENTS
        )
        order.settled_minor = data.draw(st.sampled_from([0, order.reported_commission_minor]))
        await session.flush()
        is_held = (await session.execute(select(OrderReview.blocks()).where(Order.id == order.id))).scalar_one()
        expected = OrderRead(
            id=order.id,
            merchant=OrderMerchant.model_validate(merchant),
            order_reference=order.external_id,
            status=order.status,
            sale=Money(amount_minor=order.sale_minor, currency=order.currency),
            cashback=Money(amount_minor=order.cashback_minor, currency=order.currency),
            ordered_at=order.ordered_at,
            payable_at=order.payable_at,
            waits_for=waits_for(order, merchant, is_held=is_held, now=now),
        )
        answer = await get(client, "/v1/me/orders", customer_headers(settings, customer))
        assert_is(answer, Page[OrderRead](items=[expected]), document, "/v1/me/orders")


@pytest.mark.parametrize("path", ["/v1/me/wallet", "/v1/me/orders"])
async def test_nothing_is_read_for_a_session_or_an_account_that_has_ended(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, path: str
) -> None:
    customer, other = await make_customer(session), await make_customer(session)
    await get(client, path, customer_headers(settings, customer))
    await session.execute(
        update(CustomerSession).where(CustomerSession.id == customer.id).values(ended_at=datetime.now(UTC))
    )
    other.status, other.closed_at = CustomerStatus.CLOSED, datetime.now(UTC)
    await session.flush()
    for gone in (customer, other):
        answer = await client.get(path, headers=customer_headers(settings, gone))
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
    assert (await client.get(path)).json()["code"] == "sign_in_required"


# --- The connections


PID = Read.of(select(func.pg_backend_pid().label("pid")))
SLEEP = Read.of(select(func.pg_sleep(bindparam("seconds", type_=Float))))


@pytest.fixture
async def pool(committed_db: Settings) -> AsyncIterator[Settings]:
    """A pool of one connection, for which nobody waits long."""
    settings = make_settings(
        database_url=committed_db.database_url,
        redis_url=committed_db.redis_url,
        db_read_pool_size=1,
        db_pool_timeout_seconds=0.2,
    )
    await reads.open_pool(settings, application_name="tests-reads")
    yield settings
    await reads.close_pool()


async def terminate_readers(pid: int) -> None:
    async with db.transaction() as session:
        await session.execute(select(func.pg_terminate_backend(pid)))


@pytest.mark.usefixtures("pool")
async def test_a_read_outlives_the_end_of_its_connection() -> None:
    before = (await PID.fetch())[0]["pid"]
    await terminate_readers(before)
    after = (await PID.fetch())[0]["pid"]
    assert after != before
    # Also in the middle of it.
    sleeping = asyncio.create_task(SLEEP.fetch(seconds=0.1))
    while not await _is_running(after, "pg_sleep"):
        await asyncio.sleep(0)
    await terminate_readers(after)
    assert len(await sleeping) == 1


async def _is_running(pid: int, statement: str) -> bool:
    async with db.transaction() as session:
        running = text("SELECT query FROM pg_stat_activity WHERE pid = :pid AND state = 'active'")
        return statement in (await session.scalar(running, {"pid": pid}) or "")


async def test_whoever_waits_too_long_for_a_connection_is_told_so(pool: Settings, application: FastAPI) -> None:
    del pool
    sleeping = asyncio.create_task(SLEEP.fetch(seconds=1.0))
    await asyncio.sleep(0)
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://cashback.test") as client:
        answer = await client.get("/v1/offers")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert len(await sleeping) == 1


async def test_a_server_that_cannot_be_reached_is_told_apart_from_a_bad_statement(pool: Settings) -> None:
    with pytest.raises(asyncpg.DataError):
        await SLEEP.fetch(seconds="long")
    await reads.close_pool()
    gone = make_settings(database_url="postgresql://nobody@127.0.0.1:1/none", redis_url=pool.redis_url)
    await reads.open_pool(gone, application_name="tests-reads")
    with pytest.raises(ConnectionError) as raised:
        await PID.fetch()
    assert db.is_unavailable(raised.value)
