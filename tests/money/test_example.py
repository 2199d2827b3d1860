"""The worked example of docs/money.md, played through the service and compared with the document figure by figure."""

import re
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from app.config import Settings
from app.db import transaction
from app.models import Account, Posting, StaffRole
from app.money import parse_decimal
from app.workers.orders import release_payable
from tests.factories import customer_headers, make_payout_method, make_payout_rule, staff_headers
from tests.webhooks.world import World, make_world

DOCUMENT = Path(__file__).parents[2] / "docs" / "money.md"
STEPS = ("sale", "payable", "payout", "settlement", "return")


def documented() -> dict[str, dict[str, int]]:
    """By column of the document's last table, what each account moves by in minor units; `now` is the sum."""
    text = DOCUMENT.read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text[text.index("**What it comes to.**") :].splitlines()
        if line.startswith("|")
    ]
    header = rows[0]
    columns: dict[str, dict[str, int]] = {name: {} for name in header[1:]}
    for row in rows[2:8]:
        for name, cell in zip(header[1:], row[1:], strict=True):
            if cell:
                columns[name][row[0].strip("`")] = parse_decimal(cell.replace("−", "-"), "PKR")
    return columns


async def balances() -> dict[str, int]:
    async with transaction() as session:
        rows = await session.execute(select(Posting.account, func.sum(Posting.amount_minor)).group_by(Posting.account))
        return {Account(account).value: int(total) for account, total in rows}


class Example:
    """The page's people and what they do."""

    def __init__(self, world: World, staff: dict[str, str], method_id: str) -> None:
        self.world = world
        self.staff = staff
        self.method_id = method_id

    async def play(self, step: str) -> None:
        """Do what a step of the page does."""
        match step:
            case "sale":
                await self.report("created", amount=250_000, commission=20_000)
            case "payable":
                await self.report("approved")
                await release_payable()
            case "payout":
                payout = {"amount_minor": 10_000, "currency": "PKR", "method_id": self.method_id}
                made = await self.call("/v1/me/payouts", payout, by_customer=True)
                await self.call(f"/v1/admin/payouts/{made['id']}/approve")
                await self.call("/v1/admin/payout-batches", {"currency": "PKR"})
                await self.call(f"/v1/admin/payouts/{made['id']}/settle", {"status": "paid"})
            case "settlement":
                statement = {
                    "merchant_id": self.world.merchant.id,
                    "reference": "2026-11",
                    "currency": "PKR",
                    "paid_on": datetime.now(UTC).date().isoformat(),
                    "total_minor": 20_000,
                    "lines": [{"order_reference": "A-1", "amount_minor": 20_000}],
                }
                await self.call("/v1/admin/settlements", statement)
            case "return":
                await self.report("returned")

    async def report(self, kind: str, **payload: Any) -> None:
        assert (await self.world.post(kind, **payload)).status_code == 202
        await self.world.drain()

    async def call(self, path: str, body: Any = None, *, by_customer: bool = False) -> Any:
        headers = customer_headers(self.world.settings, self.world.customer) if by_customer else self.staff
        answer = await self.world.client.post(path, json=body, headers=headers)
        assert answer.is_success, answer.text
        return answer.json()


@pytest.fixture
async def example(committed_db: Settings, committed_client: httpx.AsyncClient) -> Example:
    world = await make_world(committed_db, committed_client, hold_days=0)
    async with transaction() as session:
        await make_payout_rule(session, minimum_minor=10_000)
        method = await make_payout_method(session, committed_db, world.customer)
        return Example(world, await staff_headers(session, StaffRole.FINANCE), str(method.id))


async def test_the_documents_example_is_what_the_service_does(example: Example) -> None:
    columns = documented()
    assert tuple(columns) == (*STEPS, "now")
    expected: dict[str, int] = defaultdict(int)
    for step in STEPS:
        await example.play(step)
        for account, amount_minor in columns[step].items():
            expected[account] += amount_minor
        assert {name: total for name, total in (await balances()).items() if total} == {
            name: total for name, total in expected.items() if total
        }, step
        assert sum(columns[step].values()) == 0
    assert columns["now"] == expected
    # The order is approved after all: the dispute is won.
    await example.report("approved")
    assert (await example.world.wallet())[1] == 2_500


def test_every_account_of_the_ledger_is_explained() -> None:
    table = DOCUMENT.read_text().partition("| account | kind |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) == {account.value for account in Account}
