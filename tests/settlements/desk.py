"""The finance desk of a small committed world: orders that networks owe for, and the statements that pay them."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy import func, select, text

from app.db import transaction
from app.models import Click, Order, OrderStatus, Posting, StaffRole
from tests.factories import make_click, make_order, staff_headers
from tests.webhooks.world import World

URL = "/v1/admin/settlements"
LINES_URL = "/v1/admin/settlement-lines"


@dataclass
class Desk:
    """What finance does, over HTTP. Amounts in minor units."""

    world: World
    headers: dict[str, str] = field(default_factory=dict)
    statements: int = 0

    @classmethod
    async def open(cls, world: World) -> "Desk":
        async with transaction() as session:
            return cls(world, await staff_headers(session, StaffRole.FINANCE))

    async def order(self, reference: str, *, held_days: int = 1, cashback: int = 5_000, **values: Any) -> Order:
        """An approved order whose hold has been over for so many days; the network owes 8,000 for it by default."""
        now = datetime.now(UTC)
        async with transaction() as session:
            click = await session.get_one(Click, self.world.click.id)
            return await make_order(
                session,
                click,
                external_id=reference,
                cashback=cashback,
                **{
                    "status": OrderStatus.APPROVED,
                    "approved_at": now - timedelta(days=40),
                    "payable_at": now - timedelta(days=held_days),
                    **values,
                },
            )

    async def post(self, *lines: tuple[str, int], **changes: Any) -> httpx.Response:
        """Send a statement with these lines."""
        self.statements += 1
        body = {
            "merchant_id": self.world.merchant.id,
            "reference": f"statement {self.statements}",
            "currency": "PKR",
            "paid_on": "2026-11-20",
            "total_minor": sum(amount for _, amount in lines),
            "lines": [{"order_reference": reference, "amount_minor": amount} for reference, amount in lines],
            **changes,
        }
        return await self.world.client.post(URL, json=body, headers=self.headers)

    async def settle(self, *lines: tuple[str, int], **changes: Any) -> list[dict[str, Any]]:
        """Record a statement and return its lines as they then are."""
        answer = await self.post(*lines, **changes)
        assert answer.status_code == 201, answer.text
        return await self.lines(settlement_id=answer.json()["id"])

    async def lines(self, **filters: Any) -> list[dict[str, Any]]:
        answer = await self.world.client.get(LINES_URL, params={"limit": 100, **filters}, headers=self.headers)
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    async def resolve(self, line: dict[str, Any], resolution: str, **values: Any) -> httpx.Response:
        body = {"resolution": resolution, "note": "as agreed", **values}
        return await self.world.client.post(f"{LINES_URL}/{line['id']}/resolve", json=body, headers=self.headers)

    async def reopen(self, line: dict[str, Any]) -> httpx.Response:
        url = f"{LINES_URL}/{line['id']}/reopen"
        return await self.world.client.post(url, json={"note": "a mistake"}, headers=self.headers)

    async def due(self, reference: str) -> int:
        return (await self.world.order(reference)).due_minor

    async def status(self, reference: str) -> OrderStatus:
        return (await self.world.order(reference)).status

    async def other_click(self, **changes: Any) -> UUID:
        async with transaction() as session:
            return (await make_click(session, self.world.customer, self.world.merchant, **changes)).id


def shown(lines: list[dict[str, Any]]) -> list[tuple[str, int, int | None, str, str | None]]:
    """(reference, amount, expected, status, resolution) of each line."""
    return [
        (
            line["order_reference"],
            line["amount"]["amount_minor"],
            line["expected"] and line["expected"]["amount_minor"],
            line["status"],
            line["resolution"],
        )
        for line in lines
    ]


async def balances(currency: str = "PKR") -> dict[str, int]:
    """What each house account holds in a currency, without the zeros."""
    async with transaction() as session:
        rows = await session.execute(
            select(Posting.account, func.sum(Posting.amount_minor))
            .where(Posting.currency == currency, Posting.customer_id.is_(None))
            .group_by(Posting.account)
        )
        return {account.value: int(total) for account, total in rows if total}


async def fill(click: Click, count: int, *, prefix: str = "B", cashback: int = 5_000) -> None:
    """Make many approved orders at once, posted as the service would, their holds over one minute after another."""
    values = {"click": click.id, "count": count, "prefix": prefix, "cashback": cashback}
    async with transaction() as session:
        for statement in _FILL:
            await session.execute(text(statement), {name: values[name] for name in values if f":{name}" in statement})


_FILL = (
    """
    INSERT INTO orders (id, merchant_id, external_id, source_id, customer_id, click_id, status, currency, sale_minor,
        commission_minor, cashback_minor, reported_currency, reported_sale_minor, reported_commission_minor,
        explanation, ordered_at, approved_at, payable_at, revision)
    SELECT gen_random_uuid(), c.merchant_id, :prefix || '-' || n, m.source_id, c.customer_id, c.id, 'approved',
           c.currency, 100000, 8000, cast(:cashback AS int), c.currency, 100000, 8000,
           jsonb_build_object('currency', c.currency, 'cashback_minor', cast(:cashback AS int), 'steps',
               jsonb_build_array(jsonb_build_object('step', 'rate', 'detail', 'made at once', 'amount_minor',
                                                    cast(:cashback AS int)))),
           now() - interval '60 days', now() - interval '40 days', now() - interval '30 days' + n * interval '1 minute',
           1
    FROM clicks c JOIN merchants m ON m.id = c.merchant_id, generate_series(1, cast(:count AS int)) n
    WHERE c.id = :click
    """,
    """
    INSERT INTO order_changes (id, order_id, revision, status, sale_minor, commission_minor, cashback_minor)
    SELECT gen_random_uuid(), o.id, 1, 'approved', o.sale_minor, o.commission_minor, o.cashback_minor
    FROM orders o WHERE o.click_id = :click AND o.external_id LIKE :prefix || '-%'
    """,
    """
    INSERT INTO transfers (id, cause_type, cause_id, purpose, details)
    SELECT o.id, 'order', o.id, 'approved:1', '{}'
    FROM orders o WHERE o.click_id = :click AND o.external_id LIKE :prefix || '-%'
    """,
    """
    INSERT INTO postings (transfer_id, account, merchant_id, customer_id, currency, amount_minor)
    SELECT o.id, line.account, line.merchant_id, line.customer_id, o.currency, line.amount
    FROM orders o CROSS JOIN LATERAL (VALUES
        ('network_receivable', o.merchant_id, null::uuid, o.commission_minor),
        ('customer_pending', null, o.customer_id, -o.cashback_minor),
        ('margin_pending', o.merchant_id, null, o.cashback_minor - o.commission_minor)
    ) line(account, merchant_id, customer_id, amount)
    WHERE o.click_id = :click AND o.external_id LIKE :prefix || '-%' AND line.amount <> 0
    """,
    """
    INSERT INTO wallets (customer_id, currency, pending_minor)
    SELECT o.customer_id, o.currency, sum(o.cashback_minor)
    FROM orders o WHERE o.click_id = :click AND o.external_id LIKE :prefix || '-%' GROUP BY o.customer_id, o.currency
    ON CONFLICT (customer_id, currency) DO UPDATE SET pending_minor = wallets.pending_minor + excluded.pending_minor
    """,
    "ANALYZE orders",
)
