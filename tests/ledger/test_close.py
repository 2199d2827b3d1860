"""Closing a month: once its days are sealed, once and for all, and what is kept adds up."""

import asyncio
import csv
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from typing import Any

import httpx
import pytest
import sqlalchemy.exc
from sqlalchemy import select, text

from app.config import Settings
from app.db import constraint_name, transaction
from app.models import LedgerDay, MonthClose, StaffKey, StaffRole
from app.services.ledger import chain
from app.services.ledger.close import CSV_COLUMNS
from app.workers.ledger import seal_days
from tests.factories import make_customer, staff_headers
from tests.ledger.past import post_at, tamper

THIS_MONTH = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
LAST_MONTH = (THIS_MONTH - timedelta(days=1)).replace(day=1)
BEFORE_LAST = (LAST_MONTH - timedelta(days=1)).replace(day=1)
URL = "/v1/admin/ledger/months"


def name(month: datetime) -> str:
    return f"{month:%Y-%m}"


@pytest.fixture
async def finance(committed_client: httpx.AsyncClient) -> httpx.AsyncClient:
    async with transaction() as session:
        committed_client.headers.update(await staff_headers(session, StaffRole.FINANCE))
    return committed_client


async def make_months() -> None:
    async with transaction() as session:
        customer = await make_customer(session)
        await post_at(session, BEFORE_LAST + timedelta(days=3), customer, 100)
        await post_at(session, LAST_MONTH, customer, 20)
        await post_at(session, THIS_MONTH - timedelta(microseconds=1), customer, 3)
        await post_at(session, datetime.now(UTC), customer, 4_000)


async def test_a_closed_month_tells_opening_movements_and_closing(
    committed_db: Settings, finance: httpx.AsyncClient
) -> None:
    await make_months()
    await seal_days()
    answer = await finance.post(f"{URL}/{name(LAST_MONTH)}/close")
    assert answer.status_code == 201, answer.text
    closed = answer.json()
    assert closed["month"] == name(LAST_MONTH)
    report = closed["report"]
    common = {"currency": "PKR", "postings": 2}
    assert report["accounts"] == [
        {
            **common,
            "account": "customer_pending",
            "opening_minor": -100,
            "debit_minor": 0,
            "credit_minor": 23,
            "closing_minor": -123,
        },
        {
            **common,
            "account": "promotions",
            "opening_minor": 100,
            "debit_minor": 23,
            "credit_minor": 0,
            "closing_minor": 123,
        },
    ]
    assert (report["days"], report["postings"]) == ((THIS_MONTH - LAST_MONTH).days, 4)
    assert report["transfers"] == {"adjustment": 2}
    async with transaction() as session:
        last_day = await session.get_one(LedgerDay, (THIS_MONTH - timedelta(days=1)).date())
    assert closed["chain_hash"] == last_day.hash.hex()
    # The trial balance of the same moment says the same.
    at = THIS_MONTH.isoformat()
    trial = (await finance.get("/v1/admin/ledger/trial-balance", params={"at": at})).json()
    assert {row["account"]: row["balance_minor"] for row in trial["items"]} == {
        row["account"]: row["closing_minor"] for row in report["accounts"]
    }


async def test_it_is_closed_once_and_says_the_same_for_good(committed_db: Settings, finance: httpx.AsyncClient) -> None:
    await make_months()
    await seal_days()
    url = f"{URL}/{name(LAST_MONTH)}"
    answers = await asyncio.gather(*(finance.post(f"{url}/close") for _ in range(5)))
    assert {answer.status_code for answer in answers} == {201}
    bodies = [answer.json() for answer in answers]
    assert all(body == bodies[0] for body in bodies)
    assert (await finance.get(url)).json() == bodies[0]
    async with transaction() as session:
        assert len((await session.scalars(select(MonthClose))).all()) == 1
    await finance.post(f"{URL}/{name(BEFORE_LAST)}/close")
    listed = (await finance.get(URL, params={"limit": 1})).json()
    rest = (await finance.get(URL, params={"limit": 1, "cursor": listed["next_cursor"]})).json()
    assert listed["items"] == [bodies[0]]
    assert [item["month"] for item in rest["items"]] == [name(BEFORE_LAST)]
    # What closed one month opened the next.
    closing = {row["account"]: row["closing_minor"] for row in rest["items"][0]["report"]["accounts"]}
    assert {row["account"]: row["opening_minor"] for row in bodies[0]["report"]["accounts"]} == closing


@pytest.mark.parametrize("statement", ["UPDATE month_closes SET report = '{}'", "DELETE FROM month_closes"])
async def test_the_database_refuses_to_change_it(
    committed_db: Settings, finance: httpx.AsyncClient, statement: str
) -> None:
    await make_months()
    await seal_days()
    await finance.post(f"{URL}/{name(LAST_MONTH)}/close")
    with pytest.raises(sqlalchemy.exc.IntegrityError) as refused:
        async with transaction() as session:
            await session.execute(text(statement))
    assert constraint_name(refused.value) == "ledger_append_only"


async def test_csv_has_amounts_as_decimals(committed_db: Settings, finance: httpx.AsyncClient) -> None:
    await make_months()
    await seal_days()
    await finance.post(f"{URL}/{name(LAST_MONTH)}/close")
    answer = await finance.get(f"{URL}/{name(LAST_MONTH)}", params={"format": "csv"})
    assert answer.headers["Content-Type"].startswith("text/csv")
    rows = list(csv.reader(StringIO(answer.text, newline="")))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert rows[1:] == [
        [name(LAST_MONTH), "customer_pending", "PKR", "-1.00", "0.00", "0.23", "-1.23", "2"],
        [name(LAST_MONTH), "promotions", "PKR", "1.00", "0.23", "0.00", "1.23", "2"],
    ]


async def refusal(finance: httpx.AsyncClient, month: str) -> tuple[int, str, str]:
    answer = await finance.post(f"{URL}/{month}/close")
    body: dict[str, Any] = answer.json()
    return answer.status_code, body["code"], body["detail"]


async def test_an_unfinished_or_unsealed_month_or_one_before_the_ledger_cannot_be_closed(
    committed_db: Settings, finance: httpx.AsyncClient
) -> None:
    await make_months()
    month = name(LAST_MONTH)
    assert await refusal(finance, month) == (
        409,
        "month_not_sealed",
        f"{month} can be closed once its last day is sealed; no day is sealed.",
    )
    await seal_days()
    for other in (name(THIS_MONTH), "2999-12", "1999-01"):
        status, code, detail = await refusal(finance, other)
        assert (status, code) == (409, "month_not_sealed")
        assert "days are sealed up to" in detail
    assert (await finance.get(f"{URL}/{month}")).json()["code"] == "month_not_closed"


async def test_only_finance_closes(committed_db: Settings, committed_client: httpx.AsyncClient) -> None:
    await make_months()
    await seal_days()
    url = f"{URL}/{name(LAST_MONTH)}/close"
    assert (await committed_client.post(url)).status_code == 401
    async with transaction() as session:
        operator = await staff_headers(session, StaffRole.OPERATOR)
    assert (await committed_client.post(url, headers=operator)).status_code == 403


async def test_a_chain_made_anew_does_not_fit_the_closed_month(doomed_db: Settings) -> None:
    async with transaction() as session:
        await staff_headers(session, StaffRole.FINANCE)
    await make_months()
    await seal_days()
    last = date(THIS_MONTH.year, THIS_MONTH.month, 1) - timedelta(days=1)
    async with transaction() as session:
        staff_id = (await session.scalars(select(StaffKey.id))).one()
        day = await session.get_one(LedgerDay, last)
        session.add(MonthClose(month=last.replace(day=1), report={}, chain_hash=day.hash, closed_by_id=staff_id))
    await tamper(
        "UPDATE postings SET amount_minor = amount_minor * 2",
        "DELETE FROM ledger_day_totals",
        "DELETE FROM ledger_days",
    )
    await seal_days()
    async with transaction() as session:
        day = await session.get_one(LedgerDay, last)
        (found,) = await chain.check_day(session, day)
    assert found.detail == "its hash is not the one that the closed month has"
