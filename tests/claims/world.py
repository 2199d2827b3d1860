"""The committed world of the webhook tests, with what customers and staff do about cashback that is missing."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy import func, select

from app.config import Settings
from app.db import transaction
from app.models import CauseType, Claim, Customer, Order, Rate, StaffRole, Transfer, Wallet
from app.workers.claims import claim_matching, claim_sweep
from tests.factories import customer_headers, make_customer, staff_headers
from tests.webhooks.world import World, make_world

SALE_MINOR, COMMISSION_MINOR, CASHBACK_MINOR = 100_000, 8_000, 5_000


def pkr(amount_minor: int) -> dict[str, Any]:
    return {"amount_minor": amount_minor, "currency": "PKR"}


def by_hand(sale: int = SALE_MINOR, commission: int = COMMISSION_MINOR, **more: Any) -> dict[str, Any]:
    """The body of an approval with amounts."""
    return {"sale": pkr(sale), "commission": pkr(commission), **more}


@dataclass
class ClaimWorld:
    """What exists, and what can be done to it over HTTP."""

    world: World
    staff: dict[StaffRole, dict[str, str]] = field(default_factory=dict)

    @property
    def client(self) -> httpx.AsyncClient:
        return self.world.client

    @property
    def sold_at(self) -> datetime:
        """A while after the customer's click, and before now."""
        return self.world.click.created_at + timedelta(hours=2)

    async def orphan(self, order_id: str = "A-1", *, at: datetime | None = None, **payload: Any) -> str:
        """Let the shop report a sale without a click, and process it; returns the event's id."""
        values = {"amount": SALE_MINOR, "commission": COMMISSION_MINOR, "click_id": None, **payload}
        answer = await self.world.post(values.pop("kind", "created"), order_id, at=at or self.sold_at, **values)
        assert answer.status_code == 202, answer.text
        await self.world.drain()
        return str(answer.json()["event_id"])

    def claim_body(self, order_reference: str = "A-1", **changes: Any) -> dict[str, Any]:
        return {
            "merchant_id": self.world.merchant.id,
            "order_reference": order_reference,
            "ordered_at": self.sold_at.isoformat(),
            "amount": pkr(SALE_MINOR),
            **changes,
        }

    def headers(self, customer: Customer | None = None) -> dict[str, str]:
        return customer_headers(self.world.settings, customer or self.world.customer)

    async def file(
        self, order_reference: str = "A-1", *, customer: Customer | None = None, key: str | None = None, **changes: Any
    ) -> httpx.Response:
        headers = {**self.headers(customer), **({"Idempotency-Key": key} if key else {})}
        return await self.client.post(
            "/v1/me/claims", json=self.claim_body(order_reference, **changes), headers=headers
        )

    async def filed(self, order_reference: str = "A-1", **changes: Any) -> str:
        """File a claim and return its id."""
        answer = await self.file(order_reference, **changes)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def compare(self) -> int:
        """Do what the worker does when it is rung."""
        return await claim_matching(self.world.settings)()

    async def sweep(self) -> int:
        return await claim_sweep(self.world.settings)()

    async def as_staff(
        self, method: str, path: str, *, role: StaffRole = StaffRole.FINANCE, key: str | None = None, **options: Any
    ) -> httpx.Response:
        if role not in self.staff:
            async with transaction() as session:
                self.staff[role] = await staff_headers(session, role)
        headers = {**self.staff[role], **({"Idempotency-Key": key} if key else {})}
        return await self.client.request(method, f"/v1/admin/{path}", headers=headers, **options)

    async def approve(self, claim_id: str, body: dict[str, Any] | None = None, **options: Any) -> httpx.Response:
        return await self.as_staff("POST", f"claims/{claim_id}/approve", json=body or {}, **options)

    async def match(self, event_id: str, body: dict[str, Any], **options: Any) -> httpx.Response:
        return await self.as_staff("POST", f"orphans/{event_id}/match", json=body, **options)

    async def claim(self, claim_id: str) -> Claim:
        async with transaction() as session:
            return await session.get_one(Claim, UUID(claim_id))

    async def orders(self) -> list[Order]:
        async with transaction() as session:
            return list(await session.scalars(select(Order).order_by(Order.id)))

    async def transfers(self) -> int:
        """How many transfers orders have caused."""
        async with transaction() as session:
            count = select(func.count()).select_from(Transfer).where(Transfer.cause_type == CauseType.ORDER)
            return (await session.scalars(count)).one()

    async def pending(self, customer: Customer | None = None) -> int:
        """A customer's pending cashback in minor units."""
        async with transaction() as session:
            wallet = await session.get(Wallet, ((customer or self.world.customer).id, "PKR"))
            return wallet.pending_minor if wallet else 0

    async def stranger(self) -> Customer:
        """Another customer, who has not clicked."""
        async with transaction() as session:
            return await make_customer(session)


async def make_claim_world(settings: Settings, client: httpx.AsyncClient, **merchant: Any) -> ClaimWorld:
    """A world whose customer clicked ten days ago, and whose rate is older than that."""
    world = await make_world(settings, client, **merchant)
    async with transaction() as session:
        click = await session.merge(world.click)
        click.created_at = datetime.now(UTC) - timedelta(days=10)
        rate = (await session.scalars(select(Rate).where(Rate.merchant_id == world.merchant.id))).one()
        rate.valid_from = datetime.now(UTC) - timedelta(days=400)
    world.click = click
    return ClaimWorld(world)
