"""A source that is polled at an API of the tests, a customer with a click, and what the workers do when rung."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
from sqlalchemy import func, select, update

from app.config import Settings
from app.db import transaction
from app.models import Click, Customer, EventOrigin, Order, Poller, Source, Wallet, WebhookEvent
from app.schemas.source_definitions import SourceDefinition
from app.services.sources import get_preset
from app.workers.polling import source_poll
from app.workers.webhooks import webhook_drain
from tests.factories import make_click, make_customer, make_merchant, make_source, staff_headers
from tests.feed_server import FeedServer
from tests.polling.networks import MERCHANT, Network, Sale


def local_definition(preset: str, server: FeedServer, prefix: str = "", **polling: Any) -> SourceDefinition:
    """A preset whose API is at the server, as fast as it answers."""
    definition = get_preset(preset).definition.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    path = urlsplit(definition["polling"]["url"]).path
    definition["polling"] |= {"url": server.url(prefix + path), "calls_a_minute": None, **polling}
    return SourceDefinition.model_validate(definition)


@dataclass
class World:
    """What exists, and what can be done to it."""

    settings: Settings
    client: httpx.AsyncClient
    staff: dict[str, str]
    server: FeedServer
    network: Network
    source: Source
    customer: Customer
    click: Click

    @property
    def path(self) -> str:
        return f"/v1/admin/sources/{self.source.id}"

    async def state(self) -> dict[str, Any]:
        answer = await self.client.get(f"{self.path}/polling", headers=self.staff)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def poll(self, *, everything: bool = False) -> dict[str, Any]:
        """Poll now, process what came, and return how the polling stands then."""
        if everything:
            await self.set(watermarks={})
        answer = await self.client.post(f"{self.path}/poll", headers=self.staff)
        assert answer.status_code == 202, answer.text
        await self.work()
        return await self.state()

    async def work(self) -> None:
        """Do what the workers do when they are rung."""
        await source_poll(self.settings)(str(self.source.id))
        await webhook_drain(self.settings)()

    async def set(self, **changes: Any) -> None:
        async with transaction() as session:
            await session.execute(update(Poller).where(Poller.source_id == self.source.id).values(**changes))

    async def poller(self) -> Poller:
        async with transaction() as session:
            return await session.get_one(Poller, self.source.id)

    async def events(self) -> int:
        async with transaction() as session:
            statement = select(func.count()).where(
                WebhookEvent.source_id == self.source.id, WebhookEvent.origin == EventOrigin.POLL
            )
            return (await session.scalars(statement)).one()

    async def orders(self) -> dict[str, tuple[str, int, int]]:
        """By their number, what became of the orders and what is owed for them: (status, sale, commission)."""
        async with transaction() as session:
            rows = await session.scalars(select(Order).where(Order.source_id == self.source.id))
            return {
                row.external_id: (
                    row.status.value,
                    row.reported_sale_minor if row.owed_minor else 0,
                    row.owed_minor,
                )
                for row in rows
            }

    async def wallet(self) -> tuple[int, int]:
        """(pending, available) in cents."""
        async with transaction() as session:
            row = await session.get(Wallet, (self.customer.id, "USD"))
            return (row.pending_minor, row.available_minor) if row else (0, 0)

    def sale(self, number: int, *, days_ago: float = 1, sale: int = 10_000, commission: int = 1_000) -> Sale:
        """Let the network track a sale of the click."""
        sold_at = (datetime.now(UTC) - timedelta(days=days_ago)).replace(microsecond=0)
        tracked = Sale(number, str(self.click.id), sold_at, sale, commission)
        self.network.add(tracked)
        return tracked


async def make_world(
    settings: Settings,
    client: httpx.AsyncClient,
    server: FeedServer,
    network: type[Network],
    *,
    prefix: str = "",
    page_size: int = 3,
    shuffle: random.Random | None = None,
    **polling: Any,
) -> World:
    """Create and commit it; the polling is set and nothing is polled yet."""
    api = network(page_size=page_size, shuffle=shuffle)
    api.path = prefix + api.path
    server.routes[api.path] = api
    async with transaction() as session:
        staff = await staff_headers(session)
        source = await make_source(session, definition=local_definition(api.preset, server, prefix, **polling))
        merchant = await make_merchant(session, source_id=source.id, network_merchant_ref=MERCHANT, currency="USD")
        customer = await make_customer(session)
        now = datetime.now(UTC)
        click = await make_click(
            session, customer, merchant, created_at=now - timedelta(days=100), expires_at=now + timedelta(days=9)
        )
    world = World(settings, client, staff, server, api, source, customer, click)
    body = {"values": api.values, "credentials": api.credentials}
    answer = await client.put(f"{world.path}/polling", json=body, headers=staff)
    assert answer.status_code == 200, answer.text
    assert answer.json()["missing"] == []
    return world
