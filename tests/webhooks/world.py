"""A small committed world for webhook tests: a merchant, a customer, a click, and the worker's drain."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy import select

from app.config import Settings
from app.db import transaction
from app.models import Click, Customer, Merchant, Order, Source, Wallet, WebhookEvent
from app.workers.webhooks import webhook_drain
from tests.factories import make_click, make_customer, make_merchant
from tests.webhooks.sender import make_signed_source, order_payload, post_signed


@dataclass
class World:
    """What exists, and what can be done to it over HTTP."""

    settings: Settings
    client: httpx.AsyncClient
    source: Source
    merchant: Merchant
    customer: Customer
    click: Click

    async def post(
        self, kind: str, order_id: str = "A-1", *, message_id: str | None = None, **payload: Any
    ) -> httpx.Response:
        """Post a signed report about an order of the click (`click_id=None` leaves it out)."""
        click_id: UUID | None = payload.pop("click_id", self.click.id)
        return await post_signed(
            self.client,
            self.source.source_key,
            order_payload(kind, order_id, click_id, **payload),
            message_id=message_id,
        )

    async def drain(self) -> int:
        """Do what the worker does when it is rung."""
        return await webhook_drain(self.settings)()

    async def order(self, external_id: str = "A-1") -> Order:
        async with transaction() as session:
            return (await session.scalars(select(Order).where(Order.external_id == external_id))).one()

    async def event(self, event_id: str) -> WebhookEvent:
        async with transaction() as session:
            return await session.get_one(WebhookEvent, UUID(event_id))

    async def wallet(self) -> tuple[int, int]:
        """(pending, available) in minor units; zeros before the first cashback."""
        async with transaction() as session:
            row = await session.get(Wallet, (self.customer.id, "PKR"))
            return (row.pending_minor, row.available_minor) if row else (0, 0)


async def make_world(settings: Settings, client: httpx.AsyncClient, **merchant: Any) -> World:
    """Create and commit it."""
    async with transaction() as session:
        source = await make_signed_source(session, settings)
        shop = await make_merchant(session, source_id=source.id, **merchant)
        customer = await make_customer(session)
        click = await make_click(session, customer, shop)
    return World(settings, client, source, shop, customer, click)
