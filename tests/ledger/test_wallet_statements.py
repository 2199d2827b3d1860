"""A customer's statement reconciles to the balance at any past moment, whatever happened in between."""

import csv
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from io import StringIO
from itertools import pairwise
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.ids import new_id
from app.models import (
    Account,
    CauseType,
    ClawbackPolicy,
    Customer,
    Merchant,
    Order,
    OrderStatus,
    Payout,
    PayoutProvider,
    PayoutStatus,
    Wallet,
)
from app.money import parse_decimal
from app.services import ledger, wallet_statements
from app.services.orders.change import Target, change
from app.services.payouts import life
from app.services.wallet_statements import CSV_COLUMNS
from tests.factories import (
    customer_headers,
    make_click,
    make_customer,
    make_merchant,
    make_order,
    make_payout_method,
    staff_headers,
)

BALANCES = ("pending", "available", "in_payout", "debt")
Balances = dict[str, tuple[int, ...]]
STATEMENT = "/v1/me/wallet/statement"


class History:
    """A customer to whom things happen, each in a transaction of its own; after each it is noted what there is."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings = settings
        self.random = random.Random(seed)  # noqa: S311 - a history that can be told again
        self.orders: list[Any] = []
        self.payouts: list[Any] = []
        self.noted: list[tuple[datetime, Balances]] = []

    async def begin(self) -> None:
        async with transaction() as session:
            self.customer = await make_customer(session)
            self.method = await make_payout_method(session, self.settings, self.customer)
            self.merchants = [
                await make_merchant(session, currency="PKR", clawback_policy=ClawbackPolicy.OFFSET),
                await make_merchant(session, currency="KWD"),
            ]
            self.clicks = [await make_click(session, self.customer, merchant) for merchant in self.merchants]
        await self.note()

    async def note(self) -> None:
        async with transaction() as session:
            wallets = await session.scalars(select(Wallet).where(Wallet.customer_id == self.customer.id))
            now = (await session.execute(select(func.clock_timestamp()))).scalar_one()
            self.noted.append(
                (
                    now,
                    {
                        wallet.currency: tuple(getattr(wallet, f"{name}_minor") for name in BALANCES)
                        for wallet in wallets
                    },
                )
            )

    async def happen(self) -> None:
        """Let one thing happen that is possible now."""
        async with transaction() as session:
            match self.random.choice(("order", "order", "change", "change", "payout", "advance")):
                case "order":
                    status = self.random.choice((OrderStatus.PENDING, OrderStatus.PAYABLE))
                    cashback = self.random.randrange(0, 9_000)
                    click = self.random.choice(self.clicks)
                    self.orders.append((await make_order(session, click, status=status, cashback=cashback)).id)
                case "change" if self.orders:
                    order = await session.get_one(Order, self.random.choice(self.orders))
                    status = self.random.choice(list(OrderStatus))
                    cashback = self.random.choice((order.cashback_minor, self.random.randrange(0, 9_000)))
                    await change(session, order, Target(status, 100_000, 8_000, cashback, 0, 100_000, 8_000))
                case "payout":
                    await self._ask_for_payout(session)
                case "advance" if self.payouts:
                    payout = await session.get_one(Payout, self.random.choice(self.payouts))
                    ways = [status for status in PayoutStatus if life.may_become(payout.status, status)]
                    if ways:
                        await life.advance(session, payout, self.random.choice(ways))
                case _:
                    pass
        await self.note()

    async def _ask_for_payout(self, session: AsyncSession) -> None:
        currency = self.random.choice(("PKR", "KWD"))
        wallet = await session.get(Wallet, (self.customer.id, currency))
        if wallet is None or wallet.available_minor <= 1:
            return
        payout = Payout(
            id=new_id(),
            customer_id=self.customer.id,
            method_id=self.method.id,
            currency=currency,
            amount_minor=self.random.randrange(1, wallet.available_minor) + 1,
            fee_minor=0,
            status=PayoutStatus.REQUESTED,
            provider=PayoutProvider.BATCH,
        )
        await life.start(session, payout)
        self.payouts.append(payout.id)


def by_currency(balances: list[dict[str, Any]]) -> Balances:
    """Without currencies in which there is nothing: at some moments the wallet has no row of them yet."""
    found = {row["currency"]: tuple(row[f"{name}_minor"] for name in BALANCES) for row in balances}
    return {currency: amounts for currency, amounts in found.items() if any(amounts)}


def something(balances: Balances) -> Balances:
    return {currency: amounts for currency, amounts in balances.items() if any(amounts)}


def added_up(opening: Balances, items: Sequence[dict[str, Any]]) -> Balances:
    """The balances after all the movements, each of which must say what its balance then was."""
    now = {currency: dict(zip(BALANCES, amounts, strict=True)) for currency, amounts in opening.items()}
    for item in items:
        balances = now.setdefault(item["currency"], dict.fromkeys(BALANCES, 0))
        balances[item["balance"]] += item["amount_minor"]
        assert balances[item["balance"]] == item["balance_minor"]
    return something({currency: tuple(balances.values()) for currency, balances in now.items()})


async def get_all(
    client: httpx.AsyncClient, headers: dict[str, str], url: str = STATEMENT, **query: Any
) -> dict[str, Any]:
    """A whole statement, page by page."""
    items: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await client.get(url, params={**query, **cursor}, headers=headers)
        assert answer.status_code == 200, answer.text
        page: dict[str, Any] = answer.json()
        items += page["items"]
        if page["next_cursor"] is None:
            return {**page, "items": items}
        cursor = {"cursor": page["next_cursor"]}


@pytest.mark.parametrize("seed", range(3))
async def test_any_period_of_a_random_history_reconciles(
    committed_db: Settings, committed_client: httpx.AsyncClient, seed: int
) -> None:
    history = History(committed_db, seed)
    await history.begin()
    for _ in range(40):
        await history.happen()
    headers = customer_headers(committed_db, history.customer)
    periods = [sorted(history.random.sample(history.noted, 2)) for _ in range(25)]
    for (start, opening), (end, closing) in [[history.noted[0], history.noted[-1]], *periods]:
        query = {"from": start.isoformat(), "to": end.isoformat(), "limit": str(history.random.choice((3, 100)))}
        statement = await get_all(committed_client, headers, STATEMENT, **query)
        assert by_currency(statement["opening"]) == something(opening)
        assert by_currency(statement["closing"]) == something(closing)
        assert added_up(something(opening), statement["items"]) == something(closing)
    # What closes one statement opens the next, and the last one closes with what the wallet says now.
    moments = [moment.isoformat() for moment, _ in history.noted[::10]]
    parts = [await get_all(committed_client, headers, **{"from": a, "to": b}) for a, b in pairwise(moments)]
    for before, after in pairwise(parts):
        assert by_currency(before["closing"]) == by_currency(after["opening"])
    today = await get_all(committed_client, headers)
    wallet = (await committed_client.get("/v1/me/wallet", headers=headers)).json()
    assert by_currency(today["closing"]) == by_currency(wallet["balances"])


async def test_csv_tells_the_whole_statement_and_reconciles(
    committed_db: Settings, committed_client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wallet_statements, "CSV_BATCH", 5)
    history = History(committed_db, 7)
    await history.begin()
    for _ in range(30):
        await history.happen()
    (start, opening), (end, closing) = history.noted[8], history.noted[-1]
    headers = customer_headers(committed_db, history.customer)
    query = {"from": start.isoformat(), "to": end.isoformat()}
    statement = await get_all(committed_client, headers, **query)
    answer = await committed_client.get(STATEMENT, params={**query, "format": "csv"}, headers=headers)
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
    assert answer.headers["Content-Disposition"].endswith('.csv"')
    rows = list(csv.DictReader(StringIO(answer.text, newline="")))
    assert tuple(rows[0]) == CSV_COLUMNS
    for kind, expected in (("opening", opening), ("closing", closing)):
        told: dict[str, list[int]] = {}
        for row in rows:
            if row["kind"] == kind:
                told.setdefault(row["currency"], []).append(parse_decimal(row["balance_after"], row["currency"]))
        assert something({currency: tuple(amounts) for currency, amounts in told.items()}) == something(expected)
    lines = [row for row in rows if row["kind"] not in {"opening", "closing"}]
    assert len(lines) > 10
    assert [
        (row["at"], row["balance"], parse_decimal(row["amount"], row["currency"]), row["order_id"] or None)
        for row in lines
    ] == [(item["created_at"], item["balance"], item["amount_minor"], item["order_id"]) for item in statement["items"]]


async def gift(session: AsyncSession, customer: Customer, amount_minor: int, currency: str = "PKR") -> None:
    await ledger.post(
        session,
        cause_type=CauseType.ADJUSTMENT,
        cause_id=new_id(),
        purpose="gift",
        lines=[
            ledger.debit(Account.PROMOTIONS, amount_minor, currency),
            ledger.credit(Account.CUSTOMER_PENDING, amount_minor, currency, customer_id=customer.id),
        ],
    )


async def test_amounts_have_the_digits_of_their_currency_and_names_are_no_formulas(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    customer = await make_customer(session)
    for currency, cashback in (("PKR", 1_250), ("KWD", 1_250), ("JPY", 1_250)):
        merchant: Merchant = await make_merchant(session, currency=currency, name='=HYPERLINK("https://evil.example")')
        await make_order(session, await make_click(session, customer, merchant), cashback=cashback)
    answer = await client.get(STATEMENT, params={"format": "csv"}, headers=customer_headers(settings, customer))
    rows = [row for row in csv.DictReader(StringIO(answer.text, newline="")) if row["kind"] == "order"]
    assert {row["currency"]: row["amount"] for row in rows} == {"PKR": "12.50", "KWD": "1.250", "JPY": "1250"}
    assert {row["merchant"] for row in rows} == {'\'=HYPERLINK("https://evil.example")'}


async def test_a_day_is_meant_as_a_whole(client: httpx.AsyncClient, session: AsyncSession, settings: Settings) -> None:
    customer = await make_customer(session)
    await gift(session, customer, 500)
    headers = customer_headers(settings, customer)
    today = (await session.execute(select(func.now()))).scalar_one().date()
    yesterday = today - timedelta(days=1)
    for query, items, opening, closing in (
        ({"from": today, "to": today}, 1, 0, 500),
        ({"from": yesterday, "to": yesterday}, 0, None, None),
        ({"from": yesterday}, 1, 0, 500),
        ({"currency": "PKR"}, 1, 0, 500),
        ({"currency": "EUR"}, 0, None, None),
    ):
        statement = await get_all(client, headers, **query)
        assert len(statement["items"]) == items
        assert [row["pending_minor"] for row in statement["opening"]] == ([] if opening is None else [opening])
        assert [row["pending_minor"] for row in statement["closing"]] == ([] if closing is None else [closing])


@pytest.mark.parametrize(
    "query",
    [
        {"from": "2026-11-02", "to": "2026-11-01"},
        {"from": "9999-12-31"},
        {"to": "0001-01-05"},
        {"from": "yesterday"},
        {"from": "2026-11-01T00:00:00"},
        {"from": "0001-01-01T00:00:00+12:00"},
        {"from": "1762000000"},
        {"currency": "pkr"},
        {"format": "xlsx"},
        {"limit": "0"},
        {"cursor": "nonsense"},
        {"customer_id": "x"},
    ],
)
async def test_what_is_no_period_is_refused(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, query: dict[str, str]
) -> None:
    headers = customer_headers(settings, await make_customer(session))
    assert (await client.get(STATEMENT, params=query, headers=headers)).status_code == 422


async def test_staff_see_any_customers_statement_and_customers_their_own(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    one, other = await make_customer(session), await make_customer(session)
    await gift(session, one, 500)
    staff = await staff_headers(session)
    url = f"/v1/admin/customers/{one.id}/statement"
    seen, own = await get_all(client, staff, url), await get_all(client, customer_headers(settings, one))
    assert (seen["items"], seen["closing"]) == (own["items"], own["closing"])
    (item,) = own["items"]
    assert (item["cause_type"], item["cause"], item["merchant"]) == ("adjustment", "gift", None)
    assert (await get_all(client, customer_headers(settings, other)))["items"] == []
    assert (await client.get(url, headers=customer_headers(settings, one))).status_code == 401
    unknown = await client.get(f"/v1/admin/customers/{new_id()}/statement", headers=staff)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_customer")
    table = await client.get(url, params={"format": "csv"}, headers=staff)
    assert table.text.splitlines()[-1].endswith(",PKR,debt,closing,,,,,,0.00")


async def test_entries_name_the_order_that_was_clawed_back(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    customer = await make_customer(session)
    merchant = await make_merchant(session, clawback_policy=ClawbackPolicy.OFFSET)
    click = await make_click(session, customer, merchant)
    order = await make_order(session, click, status=OrderStatus.PAYABLE, cashback=600)
    spent = [
        ledger.debit(Account.CUSTOMER_AVAILABLE, 600, "PKR", customer_id=customer.id),
        ledger.credit(Account.CASH, 600, "PKR"),
    ]
    await ledger.post(session, cause_type=CauseType.ADJUSTMENT, cause_id=new_id(), purpose="paid", lines=spent)
    await change(session, order, Target(OrderStatus.REVERSED, 0, 0, 0, 0, 0, 0))
    headers = customer_headers(settings, customer)
    items = (await client.get("/v1/me/wallet/entries", headers=headers)).json()["items"]
    debts = [item for item in items if item["cause_type"] == "clawback"]
    assert sorted((item["balance"], item["amount_minor"]) for item in debts) == [("available", 600), ("debt", 600)]
    assert {(item["order_id"], item["merchant_id"]) for item in debts} == {(str(order.id), merchant.id)}
    (balance,) = (await client.get("/v1/me/wallet", headers=headers)).json()["balances"]
    assert (balance["available_minor"], balance["debt_minor"]) == (0, 600)
