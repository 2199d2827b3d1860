"""Exchange rates: exact, of the day, never changed, and kept by the orders that they converted."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy.exc
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.models import ExchangeRate, OrderStatus, Posting, StaffRole, WebhookEvent, WebhookStatus
from app.money import MAX_MINOR, MoneyError, minor_digits
from app.services.exchange_rates import (
    ExchangeRateRangeError,
    add_exchange_rate,
    convert,
    parse_rate,
    rate_on,
    show_rate,
    wait_key,
)
from app.workers.orders import release_payable
from tests.factories import staff_headers
from tests.webhooks.world import World, make_world

URL = "/v1/admin/exchange-rates"
DAY = date(2026, 1, 31)
RATE = {"base": "USD", "quote": "PKR", "rate": "278.45", "effective_on": "2026-01-31"}
CURRENCIES = ("JPY", "PKR", "KWD", "CLF")


@pytest.fixture
async def world(committed_db: Settings, committed_client: httpx.AsyncClient) -> World:
    return await make_world(committed_db, committed_client)


async def add(rate: str = "278.45", *, base: str = "USD", days_ago: int = 0, quote: str = "PKR") -> None:
    day = datetime.now(UTC).date() - timedelta(days=days_ago)
    async with transaction() as session:
        await add_exchange_rate(session, base=base, quote=quote, rate=rate, effective_on=day, created_by_id=None)


async def sums() -> dict[tuple[str, str], int]:
    """What each account holds in each currency, without the zeros."""
    async with transaction() as session:
        rows = await session.execute(
            select(Posting.account, Posting.currency, func.sum(Posting.amount_minor)).group_by(
                Posting.account, Posting.currency
            )
        )
        return {(account.value, currency): int(total) for account, currency, total in rows if total}


# --- Arithmetic


@pytest.mark.parametrize(
    ("amount", "rate", "base", "quote", "converted"),
    [
        (1_000, "278.45", "USD", "PKR", 278_450),
        (1_000, "1.8512", "USD", "JPY", 19),  # 18.512 yen
        (1_000, "150.5", "USD", "JPY", 1_505),
        (1_505, "0.0066", "JPY", "USD", 993),  # 9.933 dollars
        (1_505, "0.00205", "JPY", "KWD", 3_085),  # 3.08525 dinars
        (1_250, "905.5", "KWD", "PKR", 113_188),  # 1131.875 rupees
        (1_000, "0.3055", "USD", "KWD", 3_055),
        (5, "0.1", "PKR", "USD", 0),  # half a cent goes to the even one
        (15, "0.1", "PKR", "USD", 2),
        (2**53 + 1, "1", "USD", "PKR", 2**53 + 1),
        (-1_000, "278.45", "USD", "PKR", -278_450),
    ],
)
def test_a_conversion_is_exact_between_any_two_minor_units(
    amount: int, rate: str, base: str, quote: str, converted: int
) -> None:
    assert convert(amount, parse_rate(rate), base=base, quote=quote) == converted


@given(
    amount=st.integers(-MAX_MINOR, MAX_MINOR),
    rate=st.integers(1, MAX_MINOR),
    base=st.sampled_from(CURRENCIES),
    quote=st.sampled_from(CURRENCIES),
)
def test_a_conversion_is_the_nearest_whole_unit_and_half_goes_to_the_even(
    amount: int, rate: int, base: str, quote: str
) -> None:
    exact = Fraction(amount * rate, 10**12) * Fraction(10) ** (minor_digits(quote) - minor_digits(base))
    nearest = round(exact)  # of a Fraction: half to even
    if abs(exact) > MAX_MINOR:
        with pytest.raises(MoneyError, match="too large"):
            convert(amount, rate, base=base, quote=quote)
    else:
        assert convert(amount, rate, base=base, quote=quote) == nearest


@given(rate=st.integers(1, MAX_MINOR))
def test_a_rate_that_is_shown_is_read_as_the_same_rate(rate: int) -> None:
    assert parse_rate(show_rate(rate)) == rate
    assert Decimal(show_rate(rate)) * 10**12 == rate
    assert not show_rate(rate).endswith((".", ".0"))


@pytest.mark.parametrize("rate", ["0", "0.0", "0.0000000000001", "9223372.036854775808", "-1", "1e3", "", ".", "١"])
def test_a_rate_out_of_range_is_refused(rate: str) -> None:
    with pytest.raises(ExchangeRateRangeError):
        parse_rate(rate)


def test_zeros_at_the_end_of_a_rate_say_nothing() -> None:
    assert parse_rate("278.450000000000000000") == parse_rate("278.45") == 278_450_000_000_000
    assert parse_rate("9223372.036854775807") == MAX_MINOR


# --- Over HTTP


async def test_finance_adds_a_rate_and_finds_it(client: httpx.AsyncClient, session: AsyncSession) -> None:
    finance = await staff_headers(session, StaffRole.FINANCE)
    added = await client.post(URL, json=RATE, headers=finance)
    assert added.status_code == 201, added.text
    assert {name: added.json()[name] for name in RATE} == RATE
    assert added.json()["created_by_id"]
    other = await client.post(URL, json={**RATE, "base": "GBP"}, headers=finance)
    viewer = await staff_headers(session, StaffRole.VIEWER)
    everything = (await client.get(URL, headers=viewer)).json()
    assert everything == {"items": [other.json(), added.json()], "next_cursor": None}
    first = (await client.get(URL, params={"limit": 1}, headers=viewer)).json()
    rest = (await client.get(URL, params={"cursor": first["next_cursor"]}, headers=viewer)).json()
    assert (first["items"], rest["items"]) == ([other.json()], [added.json()])
    for filters, found in (({"base": "USD"}, 1), ({"quote": "PKR"}, 2), ({"base": "PKR"}, 0), ({"quote": "USD"}, 0)):
        assert len((await client.get(URL, params=filters, headers=viewer)).json()["items"]) == found


async def test_the_same_rate_again_is_the_same_row_and_another_value_is_refused(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    finance = await staff_headers(session, StaffRole.FINANCE)
    first = await client.post(URL, json=RATE, headers=finance)
    again = await client.post(URL, json={**RATE, "rate": "278.4500"}, headers=finance)
    assert (again.status_code, again.json()) == (201, first.json())
    changed = await client.post(URL, json={**RATE, "rate": "278.46"}, headers=finance)
    assert (changed.status_code, changed.json()["code"]) == (409, "exchange_rate_exists")
    assert "278.45" in changed.json()["detail"]
    next_day = await client.post(URL, json={**RATE, "rate": "278.46", "effective_on": "2026-02-01"}, headers=finance)
    assert next_day.status_code == 201


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"quote": "USD"}, "exchange_rate_same_currency"),
        ({"rate": "0"}, "exchange_rate_out_of_range"),
        ({"rate": "9223373"}, "exchange_rate_out_of_range"),
        ({"rate": "0.0000000000001"}, "exchange_rate_out_of_range"),
        ({"rate": 278.45}, "invalid_request"),
        ({"rate": "1e3"}, "invalid_request"),
        ({"rate": "-1"}, "invalid_request"),
        ({"rate": "NaN"}, "invalid_request"),
        ({"base": "usd"}, "invalid_request"),
        ({"effective_on": "2026-02-30"}, "invalid_request"),
        ({"created_by_id": "0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e"}, "invalid_request"),
    ],
)
async def test_a_rate_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, session: AsyncSession, changes: dict[str, Any], code: str
) -> None:
    answer = await client.post(URL, json={**RATE, **changes}, headers=await staff_headers(session, StaffRole.FINANCE))
    assert (answer.status_code, answer.json()["code"]) == (422, code)


async def test_only_finance_adds_rates_and_only_staff_see_them(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    for role, status in ((StaffRole.VIEWER, 403), (StaffRole.OPERATOR, 403), (StaffRole.ADMIN, 201)):
        answer = await client.post(URL, json=RATE, headers=await staff_headers(session, role))
        assert answer.status_code == status
    assert (await client.post(URL, json=RATE)).status_code == 401
    assert (await client.get(URL)).status_code == 401


async def test_the_same_key_adds_one_rate(client: httpx.AsyncClient, session: AsyncSession) -> None:
    headers = {**await staff_headers(session, StaffRole.FINANCE), "Idempotency-Key": "usd-31-january"}
    first = await client.post(URL, json=RATE, headers=headers)
    again = await client.post(URL, json=RATE, headers=headers)
    assert (again.content, again.headers["Idempotency-Replayed"]) == (first.content, "true")
    other = await client.post(URL, json={**RATE, "base": "GBP"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_two_values_for_one_day_that_come_at_once_leave_one(committed_client: httpx.AsyncClient) -> None:
    async with transaction() as session:
        headers = await staff_headers(session, StaffRole.FINANCE)
    answers = await asyncio.gather(
        *(committed_client.post(URL, json={**RATE, "rate": f"278.{45 + n % 2}"}, headers=headers) for n in range(10))
    )
    assert sorted(answer.status_code for answer in answers) == [201] * 5 + [409] * 5
    async with transaction() as session:
        assert (await session.scalars(select(func.count()).select_from(ExchangeRate))).one() == 1


@pytest.mark.parametrize(
    "statement",
    ["UPDATE exchange_rates SET rate_e12 = 1", "DELETE FROM exchange_rates", "TRUNCATE exchange_rates"],
)
async def test_the_database_refuses_to_change_a_rate(session: AsyncSession, statement: str) -> None:
    await add_exchange_rate(session, base="USD", quote="PKR", rate="1", effective_on=DAY, created_by_id=None)
    with pytest.raises(sqlalchemy.exc.DBAPIError, match="append-only"):
        async with session.begin_nested():
            await session.execute(text(statement))


# --- Which rate holds


async def test_a_rate_holds_from_its_day_until_a_newer_one_and_not_for_ever(session: AsyncSession) -> None:
    for day, rate in ((DAY, "1"), (DAY + timedelta(days=3), "2")):
        await add_exchange_rate(session, base="USD", quote="PKR", rate=rate, effective_on=day, created_by_id=None)

    async def on(days: int, *, base: str = "USD", max_age_days: int = 7) -> int | None:
        day = DAY + timedelta(days=days)
        rate = await rate_on(session, base=base, quote="PKR", day=day, max_age_days=max_age_days)
        return None if rate is None else rate // 10**12

    assert [await on(days) for days in (-1, 0, 2, 3, 10, 11)] == [None, 1, 1, 2, 2, None]
    assert [await on(days, max_age_days=0) for days in (0, 1, 3)] == [1, None, 2]
    assert await on(0, base="GBP") is None


async def test_a_sale_without_a_rate_waits_and_is_processed_when_one_comes(world: World) -> None:
    posted = await world.post("created", amount=10_000, commission=1_000, currency="USD")
    await world.drain()
    event = await world.event(posted.json()["event_id"])
    assert (event.status, event.waits_for) == (WebhookStatus.QUARANTINED, "exchange_rate:USD/PKR")
    assert "no exchange rate from USD to PKR" in (event.reason or "")
    await add(base="GBP")
    await add(days_ago=-1)
    assert (await world.event(event.id.hex)).status is WebhookStatus.RECEIVED
    await world.drain()
    # A rate that begins tomorrow is none for today.
    assert (await world.event(event.id.hex)).waits_for == "exchange_rate:USD/PKR"
    await add()
    assert await world.drain() == 1
    event = await world.event(event.id.hex)
    assert (event.status, event.waits_for, event.reason) == (WebhookStatus.PROCESSED, None, None)
    order = await world.order()
    assert (order.sale_minor, order.commission_minor, order.cashback_minor) == (2_784_500, 278_450, 139_225)


async def test_the_setting_says_how_old_a_rate_may_be(world: World) -> None:
    await add(days_ago=3)
    world.settings = world.settings.model_copy(update={"exchange_rate_max_age_days": 2})
    posted = await world.post("created", amount=10_000, commission=1_000, currency="USD")
    await world.drain()
    assert (await world.event(posted.json()["event_id"])).status is WebhookStatus.QUARANTINED
    await add("300", days_ago=2)
    await world.drain()
    assert (await world.order()).exchange_rate_e12 == 300 * 10**12


async def test_who_finds_no_rate_is_seen_by_who_adds_one(world: World) -> None:
    """The event waits in a transaction that is not committed yet when the rate is added."""
    posted = await world.post("created", amount=10_000, commission=1_000, currency="USD")
    event_id = UUID(posted.json()["event_id"])
    async with transaction() as session:
        day = datetime.now(UTC).date()
        assert await rate_on(session, base="USD", quote="PKR", day=day, max_age_days=7) is None
        adding = asyncio.create_task(add())
        await waiting_for_a_lock()
        event = await session.get_one(WebhookEvent, event_id)
        event.status, event.waits_for = WebhookStatus.QUARANTINED, wait_key("USD", "PKR")
    await adding
    assert (await world.event(event_id.hex)).status is WebhookStatus.RECEIVED


async def waiting_for_a_lock() -> None:
    async with asyncio.timeout(10):
        while True:
            async with transaction() as session:
                if await session.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                    return
            await asyncio.sleep(0.01)


async def test_no_event_is_forgotten_while_rates_are_added(world: World) -> None:
    bases = [f"X{letter}X" for letter in "ABCDEFGHIJKLMNOPQRST"]
    for base in bases:
        await world.post("created", f"R-{base}", amount=10_000, commission=1_000, currency=base)
    await asyncio.gather(*(world.drain() for _ in range(3)), *(add(base=base) for base in bases))
    await world.drain()
    async with transaction() as session:
        statuses = (await session.scalars(select(WebhookEvent.status))).all()
    assert statuses == [WebhookStatus.PROCESSED] * len(bases)


# --- An order in another currency


async def test_an_order_keeps_the_rate_it_was_converted_at(world: World) -> None:
    await add("278.45", days_ago=2)
    sold_at = datetime.now(UTC) - timedelta(days=1)
    await world.post("created", amount=10_000, commission=1_000, currency="USD", at=sold_at)
    await world.drain()
    await add("300", days_ago=1)
    await add("310")
    await world.post("approved", amount=20_000, commission=2_000, currency="USD")
    await world.drain()
    order = await world.order()
    assert order.exchange_rate_e12 == parse_rate("278.45")
    assert (order.reported_sale_minor, order.reported_commission_minor) == (20_000, 2_000)
    assert (order.sale_minor, order.commission_minor, order.cashback_minor) == (5_569_000, 556_900, 278_450)
    assert order.explanation["steps"][0]["detail"] == "the sale of 55690.00 PKR, from USD at 278.45"


async def test_the_whole_life_of_an_order_in_another_currency_is_in_the_ledger(
    committed_client: httpx.AsyncClient, committed_db: Settings
) -> None:
    world = await make_world(committed_db, committed_client, hold_days=0)
    await add("278.45", days_ago=1)
    start = datetime.now(UTC) - timedelta(minutes=1)
    await world.post("created", amount=10_000, commission=1_000, currency="USD", at=start)
    await world.drain()
    pending = {
        ("network_receivable", "USD"): 1_000,
        ("currency_exchange", "USD"): -1_000,
        ("currency_exchange", "PKR"): 278_450,
        ("customer_pending", "PKR"): -139_225,
        ("margin_pending", "PKR"): -139_225,
    }
    assert await sums() == pending
    await world.post("approved", at=start + timedelta(seconds=1))
    await world.drain()
    assert await sums() == pending
    await release_payable()
    assert await sums() == {
        **{key: amount for key, amount in pending.items() if not key[0].endswith("_pending")},
        ("customer_available", "PKR"): -139_225,
        ("margin", "PKR"): -139_225,
    }
    await world.post("returned", amount=4_000, commission=400, currency="USD", at=start + timedelta(seconds=2))
    await world.drain()
    assert await sums() == {
        ("network_receivable", "USD"): 600,
        ("currency_exchange", "USD"): -600,
        ("currency_exchange", "PKR"): 167_070,
        ("customer_available", "PKR"): -83_535,
        ("margin", "PKR"): -83_535,
    }
    await world.post("returned", at=start + timedelta(seconds=3))
    await world.drain()
    assert (await world.order()).status is OrderStatus.REVERSED
    assert await sums() == {}


async def test_a_declined_order_in_another_currency_leaves_nothing(world: World) -> None:
    await add("0.0066", base="JPY", quote="PKR")
    await world.post("created", amount=1_505_000, commission=100_001, currency="JPY")
    await world.drain()
    assert (await sums())["currency_exchange", "JPY"] == -100_001
    assert (await sums())["currency_exchange", "PKR"] == 66_001  # 660.0066 rupees
    await world.post("declined", currency="JPY")
    await world.drain()
    assert (await world.order()).status is OrderStatus.DECLINED
    assert await sums() == {}


async def test_a_report_in_a_third_currency_does_not_touch_the_order(world: World) -> None:
    await add("278.45")
    await world.post("created", amount=10_000, commission=1_000, currency="USD")
    await world.drain()
    before = await sums()
    posted = await world.post("approved", amount=10_000, commission=1_000, currency="PKR")
    await world.drain()
    event = await world.event(posted.json()["event_id"])
    assert (event.status, event.reason) == (
        WebhookStatus.QUARANTINED,
        "the order is in USD, the report in PKR",
    )
    assert await sums() == before
