"""A customer with money, a usable payout method and a rule, and what can be done with them over HTTP."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.models import Customer, OrderStatus, Payout, PayoutMethod, PayoutRule, StaffRole, Wallet
from app.services.passwords import Passwords
from tests.factories import (
    customer_headers,
    make_click,
    make_customer,
    make_merchant,
    make_order,
    make_payout_method,
    make_payout_rule,
    staff_headers,
)

PASSWORD = "correct horse battery staple"


@dataclass
class World:
    """What exists, and what can be done to it over HTTP."""

    settings: Settings
    client: httpx.AsyncClient
    customer: Customer
    method: PayoutMethod
    rule: PayoutRule
    headers: dict[str, str]
    staff: dict[StaffRole, dict[str, str]] = field(default_factory=dict)

    async def ask(self, amount_minor: object = 60_000, **changes: Any) -> httpx.Response:
        """Ask for a payout; `headers` go beside the customer's own."""
        headers = {**self.headers, **changes.pop("headers", {})}
        body = {"amount_minor": amount_minor, "currency": self.rule.currency, "method_id": str(self.method.id)}
        return await self.client.post("/v1/me/payouts", json={**body, **changes}, headers=headers)

    async def asked(self, amount_minor: int = 60_000, **changes: Any) -> dict[str, Any]:
        """Ask for a payout that must be taken, and return it."""
        answer = await self.ask(amount_minor, **changes)
        assert answer.status_code == 201, answer.text
        payout: dict[str, Any] = answer.json()
        return payout

    async def decide(
        self, payout_id: str, verb: str, role: StaffRole = StaffRole.OPERATOR, **arguments: Any
    ) -> httpx.Response:
        """Approve or reject as a member of staff."""
        if verb == "reject":
            arguments.setdefault("json", {"reason": "the name does not match"})
        headers = {**await self.as_staff(role), **arguments.pop("headers", {})}
        return await self.client.post(f"/v1/admin/payouts/{payout_id}/{verb}", headers=headers, **arguments)

    async def as_staff(self, role: StaffRole = StaffRole.OPERATOR) -> dict[str, str]:
        """Headers of a member of staff, one key a role."""
        if role not in self.staff:
            async with transaction() as session:
                self.staff[role] = await staff_headers(session, role)
        return self.staff[role]

    async def balance(self) -> dict[str, int]:
        """The customer's balances in the rule's currency, as the API shows them."""
        answer = await self.client.get("/v1/me/wallet", headers=self.headers)
        [found] = [row for row in answer.json()["balances"] if row.pop("currency") == self.rule.currency]
        return {name.removesuffix("_minor"): amount for name, amount in found.items() if amount}

    async def payouts(self) -> list[Payout]:
        """All payouts of the customer, the first one first."""
        async with transaction() as session:
            found = select(Payout).where(Payout.customer_id == self.customer.id).order_by(Payout.id)
            return list((await session.scalars(found)).all())

    async def change_rule(self, **changes: Any) -> None:
        """Change the rule behind the API's back."""
        async with transaction() as session:
            rule = await session.get_one(PayoutRule, self.rule.currency)
            for name, value in changes.items():
                setattr(rule, name, value)

    async def change_customer(self, **changes: Any) -> None:
        """Change the customer behind the API's back."""
        async with transaction() as session:
            customer = await session.get_one(Customer, self.customer.id)
            for name, value in changes.items():
                setattr(customer, name, value)


async def make_world(
    settings: Settings, client: httpx.AsyncClient, *, available: int = 1_000_000, currency: str = "PKR", **rule: Any
) -> World:
    """Create and commit it: `available` minor units, and a rule changed by what else is given."""
    async with transaction() as session:
        customer = await make_customer(session, password_hash=await Passwords(1).hash(PASSWORD))
        made = await make_payout_rule(session, currency, **rule)
        method = await make_payout_method(session, settings, customer)
        await fund(session, customer, available, currency)
    return World(settings, client, customer, method, made, customer_headers(settings, customer))


async def fund(session: AsyncSession, customer: Customer, amount_minor: int, currency: str = "PKR") -> None:
    """Make so much available, by an order whose hold is over."""
    if amount_minor:
        click = await make_click(session, customer, await make_merchant(session, currency=currency))
        await make_order(
            session,
            click,
            status=OrderStatus.PAYABLE,
            sale=amount_minor,
            commission=amount_minor,
            cashback=amount_minor,
        )


async def wallet_of(customer_id: UUID, currency: str = "PKR") -> Wallet | None:
    """The customer's row in the ledger."""
    async with transaction() as session:
        return await session.get(Wallet, (customer_id, currency))
