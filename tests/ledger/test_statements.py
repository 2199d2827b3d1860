"""What finance sees: trial balances and statements at any time, the same before and after days are sealed."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.ids import new_id
from app.models import Account, CauseType, OrderStatus, Posting, StaffRole
from app.services.ledger import credit, debit, post
from app.workers.ledger import seal_days
from tests.factories import customer_headers, make_click, make_customer, make_merchant, make_order, staff_headers
from tests.ledger.past import post_at

FIRST = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=5)
URL = "/v1/admin/ledger"


@pytest.fixture
async def viewer(committed_client: httpx.AsyncClient) -> httpx.AsyncClient:
    """The application, called by a member of staff who may only look."""
    async with transaction() as session:
        committed_client.headers.update(await staff_headers(session, StaffRole.VIEWER))
    return committed_client


async def get(client: httpx.AsyncClient, path: str, **query: Any) -> dict[str, Any]:
    answer = await client.get(f"{URL}{path}", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def make_history() -> None:
    """Gifts on six days up to now, two an hour apart on most, and today orders at two merchants in two currencies."""
    async with transaction() as session:
        customer = await make_customer(session)
        for day, hour, amount in ((0, 1, 100), (0, 13, 250), (1, 0, 70), (3, 23, 30), (3, 23, 31), (4, 12, 5)):
            await post_at(session, FIRST + timedelta(days=day, hours=hour), customer, amount)
        for currency in ("PKR", "EUR"):
            merchant = await make_merchant(session, currency=currency)
            click = await make_click(session, customer, merchant)
            for status in OrderStatus:
                await make_order(session, click, status=status)


async def expected(at: datetime) -> dict[tuple[str, str], tuple[int, int]]:
    """(debits, credits) by account and currency, added up here and not in PostgreSQL."""
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    async with transaction() as session:
        for posting in await session.scalars(select(Posting).where(Posting.created_at < at)):
            amount = posting.amount_minor
            sums[posting.account.value, posting.currency][amount < 0] += abs(amount)
    return {key: (debit_minor, credit_minor) for key, (debit_minor, credit_minor) in sums.items()}


MOMENTS = [
    FIRST - timedelta(days=1),
    *(FIRST + timedelta(hours=hours) for hours in (0, 1, 2, 24, 25, 47, 72, 95.5, 96)),
]


async def test_trial_balances_of_any_time_are_the_sums_of_postings(
    committed_db: Settings, viewer: httpx.AsyncClient
) -> None:
    await make_history()
    for _ in range(2):
        for at in [*MOMENTS, datetime.now(UTC) + timedelta(days=1)]:
            found = await get(viewer, "/trial-balance", at=at.isoformat())
            told = {
                (row["account"], row["currency"]): (row["debit_minor"], row["credit_minor"]) for row in found["items"]
            }
            assert told == await expected(at)
            assert all(row["balance_minor"] == row["debit_minor"] - row["credit_minor"] for row in found["items"])
            assert [row["difference_minor"] for row in found["totals"]] == [0] * len(found["totals"])
        # The second time days are sealed, and sums begin with their totals.
        await seal_days()
    today = await get(viewer, "/trial-balance")
    assert today["items"] == (await get(viewer, "/trial-balance", at=datetime.now(UTC).date()))["items"]
    assert [row["currency"] for row in today["totals"]] == ["EUR", "PKR"]


@pytest.mark.parametrize("account", ["promotions", "customer_pending"])
async def test_statements_of_an_account_reconcile_for_any_period(
    committed_db: Settings, viewer: httpx.AsyncClient, account: str
) -> None:
    await make_history()
    now = datetime.now(UTC)
    for _ in range(2):
        for number, start in enumerate(MOMENTS):
            for end in [*MOMENTS[number + 1 :], now]:
                found = await statement(viewer, account, start, end, limit=3)
                sums = [(await expected(at)).get((account, "PKR"), (0, 0)) for at in (start, end)]
                opening, closing = (debit_minor - credit_minor for debit_minor, credit_minor in sums)
                assert (found["opening_minor"], found["closing_minor"]) == (opening, closing)
                for line in found["items"]:
                    opening += line["amount_minor"]
                    assert line["balance_minor"] == opening
                assert opening == closing
        await seal_days()


async def statement(
    client: httpx.AsyncClient, account: str, start: datetime, end: datetime, **query: Any
) -> dict[str, Any]:
    """A whole statement in PKR, page by page."""
    items: list[dict[str, Any]] = []
    query |= {"from": start.isoformat(), "to": end.isoformat(), "currency": "PKR"}
    while True:
        page = await get(client, f"/accounts/{account}/statement", **query)
        items += page["items"]
        if page["next_cursor"] is None:
            return {**page, "items": items}
        query["cursor"] = page["next_cursor"]


async def test_a_merchants_part_of_an_account(committed_db: Settings, viewer: httpx.AsyncClient) -> None:
    async with transaction() as session:
        customer = await make_customer(session)
        one, other = await make_merchant(session), await make_merchant(session)
        order = await make_order(session, await make_click(session, customer, one), commission=8_000)
        await make_order(session, await make_click(session, customer, other), commission=500)
    path = "/accounts/network_receivable/statement"
    both = await get(viewer, path, currency="PKR")
    part = await get(viewer, path, currency="PKR", merchant_id=one.id)
    assert (both["closing_minor"], part["closing_minor"]) == (8_500, 8_000)
    (line,) = part["items"]
    assert (line["cause_type"], line["cause_id"], line["purpose"]) == ("order", str(order.id), "pending:1")
    unknown = await viewer.get(f"{URL}{path}", params={"currency": "PKR", "merchant_id": 2_000_000_000})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "merchant_not_found")


async def test_a_transfer_is_shown_with_its_lines(client: httpx.AsyncClient, session: AsyncSession) -> None:
    customer = await make_customer(session)
    cause_id = new_id()
    lines = [
        debit(Account.PROMOTIONS, 500, "PKR"),
        credit(Account.CUSTOMER_PENDING, 500, "PKR", customer_id=customer.id),
    ]
    transfer_id = await post(
        session, cause_type=CauseType.ADJUSTMENT, cause_id=cause_id, purpose="gift", lines=lines, details={"why": "Eid"}
    )
    client.headers.update(await staff_headers(session, StaffRole.VIEWER))
    found = await get(client, f"/transfers/{transfer_id}")
    assert (found["cause_type"], found["cause_id"], found["purpose"]) == ("adjustment", str(cause_id), "gift")
    assert found["details"] == {"why": "Eid"}
    assert [(line["account"], line["amount_minor"], line["customer_id"]) for line in found["postings"]] == [
        ("promotions", 500, None),
        ("customer_pending", -500, str(customer.id)),
    ]
    unknown = await client.get(f"{URL}/transfers/{new_id()}")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "transfer_not_found")


async def test_sums_beyond_64_bits_are_exact(committed_db: Settings, viewer: httpx.AsyncClient) -> None:
    most = 2**63 - 1
    async with transaction() as session:
        for _ in range(2):
            customer = await make_customer(session)
            await post_at(session, FIRST + timedelta(hours=1), customer, most)
    for _ in range(2):
        found = await get(viewer, "/trial-balance", at=(FIRST + timedelta(days=1)).isoformat())
        assert {row["balance_minor"] for row in found["items"]} == {2 * most, -2 * most}
        found = await get(viewer, "/accounts/promotions/statement", currency="PKR")
        assert [line["balance_minor"] for line in found["items"]] == [most, 2 * most]
        await seal_days()


async def test_sealed_days_are_listed(committed_db: Settings, viewer: httpx.AsyncClient) -> None:
    await make_history()
    await seal_days()
    first = await get(viewer, "/days", limit=3)
    rest = await get(viewer, "/days", limit=3, cursor=first["next_cursor"])
    days = [*first["items"], *rest["items"]]
    assert [day["day"] for day in days] == [(FIRST + timedelta(days=n)).date().isoformat() for n in (4, 3, 2, 1, 0)]
    assert [day["postings"] for day in days] == [2, 4, 0, 2, 4]
    assert [day["previous_hash"] for day in days] == [*(day["hash"] for day in days[1:]), "00" * 32]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/trial-balance?at=tomorrow", 422),
        ("/trial-balance?at=0001-01-01T00:00:00Z", 422),
        ("/trial-balance?at=9999-12-31", 422),
        ("/trial-balance?when=2026-11-01", 422),
        ("/accounts/promotions/statement", 422),
        ("/accounts/petty_cash/statement?currency=PKR", 422),
        ("/accounts/promotions/statement?currency=PKR&from=2026-11-02&to=2026-11-01", 422),
        ("/accounts/promotions/statement?currency=PKR&from=2100-01-01", 422),
        ("/accounts/promotions/statement?currency=PKR&merchant_id=99999999999999999999", 422),
        ("/accounts/promotions/statement?currency=PKR&cursor=abc", 422),
        ("/transfers/1", 422),
        ("/days?cursor=abc", 422),
        ("/months/2026-13", 422),
        ("/months/0000-01", 422),
        ("/months/2026-11", 404),
    ],
)
async def test_what_cannot_be_answered_is_refused(
    client: httpx.AsyncClient, session: AsyncSession, path: str, status: int
) -> None:
    headers = await staff_headers(session, StaffRole.VIEWER)
    assert (await client.get(f"{URL}{path}", headers=headers)).status_code == status


async def test_staff_only(client: httpx.AsyncClient, session: AsyncSession, settings: Settings) -> None:
    customer = customer_headers(settings, await make_customer(session))
    for path in (
        "/trial-balance",
        "/accounts/cash/statement?currency=PKR",
        f"/transfers/{new_id()}",
        "/days",
        "/months",
    ):
        assert (await client.get(f"{URL}{path}")).status_code == 401
        assert (await client.get(f"{URL}{path}", headers=customer)).status_code == 401
