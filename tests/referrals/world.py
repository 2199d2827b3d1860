"""A referral program, customers who invite each other, and their orders."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.models import (
    Account,
    CauseType,
    Customer,
    Merchant,
    Order,
    OrderStatus,
    Posting,
    Referral,
    ReferralProgram,
    Transfer,
    Wallet,
)
from app.services.orders.change import Target, change
from app.services.referrals import invite
from app.workers.referrals import settle_referrals
from tests.factories import make_click, make_customer, make_merchant, make_order

REFERRER_BONUS, INVITED_BONUS = 50_000, 20_000


async def make_program(session: AsyncSession, **changes: Any) -> ReferralProgram:
    """500.00 PKR for the referrer and 200.00 for the invited one, from sales of 1,000.00 on, since long ago."""
    values = {
        "currency": "PKR",
        "referrer_bonus_minor": REFERRER_BONUS,
        "invited_bonus_minor": INVITED_BONUS,
        "minimum_sale_minor": 100_000,
        "max_granted": 50,
        "valid_from": datetime(2026, 1, 1, tzinfo=UTC),
        **changes,
    }
    program = ReferralProgram(**values)
    session.add(program)
    await session.flush()
    return program


async def make_invited(session: AsyncSession, referrer: Customer, **changes: Any) -> Customer:
    """A customer who registered with another one's code."""
    invited = await make_customer(session, referred_by_id=referrer.id, **changes)
    await invite(session, invited=invited)
    return invited


def client_at(client: httpx.AsyncClient, address: str) -> httpx.AsyncClient:
    """HTTP to a client's application, from another address."""
    application = client._transport.app  # type: ignore[attr-defined]  # httpx's ASGITransport
    transport = httpx.ASGITransport(application, client=(address, 50_000))
    return httpx.AsyncClient(transport=transport, base_url="http://cashback.test")


@dataclass
class World:
    """A referrer, whom they invited, and a shop. Each deed is a transaction of its own, with the jobs that follow."""

    settings: Settings
    client: httpx.AsyncClient
    program: ReferralProgram
    merchant: Merchant
    referrer: Customer
    invited: Customer

    async def buy(
        self, customer: Customer | None = None, *, status: OrderStatus = OrderStatus.PAYABLE, **changes: Any
    ) -> Order:
        """Let a customer, by default the invited one, have an order with 50.00 of cashback."""
        async with transaction() as session:
            click = await make_click(session, customer or self.invited, self.merchant)
            order = await make_order(session, click, status=status, **changes)
        await settle_referrals()
        return order

    async def move(self, order: Order, status: OrderStatus, **amounts: Any) -> None:
        """Bring an order to another state, perhaps with other amounts."""
        async with transaction() as session:
            found = await session.get_one(Order, order.id, with_for_update=True)
            await change(session, found, replace(Target.of(found, status=status), **amounts))
        await settle_referrals()

    async def referral(self, invited: Customer | None = None) -> Referral:
        """The referral of somebody invited."""
        async with transaction() as session:
            found = select(Referral).where(Referral.invited_id == (invited or self.invited).id)
            return (await session.scalars(found)).one()

    async def available(self, customer: Customer) -> int:
        """What a customer has available, in minor units of PKR."""
        async with transaction() as session:
            wallet = await session.get(Wallet, (customer.id, "PKR"))
            return wallet.available_minor if wallet else 0

    async def transfers(self) -> list[tuple[str, dict[tuple[Account, Customer | None], int]]]:
        """(purpose, postings by account and customer) of the referral's transfers, in their order."""
        people: dict[UUID | None, Customer] = {one.id: one for one in (self.referrer, self.invited)}
        async with transaction() as session:
            rows = await session.execute(
                select(Transfer, Posting)
                .join(Posting, Posting.transfer_id == Transfer.id)
                .where(Transfer.cause_type == CauseType.REFERRAL)
                .order_by(Transfer.id, Posting.id)
            )
            found: dict[str, dict[tuple[Account, Customer | None], int]] = {}
            for transfer, posting in rows:
                lines = found.setdefault(transfer.purpose, {})
                lines[posting.account, people.get(posting.customer_id)] = posting.amount_minor
        return list(found.items())

    async def change_customer(self, customer: Customer, **changes: Any) -> None:
        """Change a customer behind the API's back."""
        async with transaction() as session:
            await session.execute(update(Customer).where(Customer.id == customer.id).values(changes))

    async def change_merchant(self, **changes: Any) -> None:
        """Change the shop behind the API's back."""
        async with transaction() as session:
            await session.execute(update(Merchant).where(Merchant.id == self.merchant.id).values(changes))


async def make_world(settings: Settings, client: httpx.AsyncClient, **program: Any) -> World:
    """Create it."""
    async with transaction() as session:
        made = await make_program(session, **program)
        merchant = await make_merchant(session)
        referrer = await make_customer(session, display_name="Bilal")
        invited = await make_invited(session, referrer, display_name="Ayesha Khan")
    return World(settings, client, made, merchant, referrer, invited)
