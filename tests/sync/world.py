"""A merchant with a feed, its server, staff, and what a worker does when it is rung."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import httpx
from sqlalchemy import select

from app.config import Settings
from app.db import transaction
from app.models import Feed, Merchant, Offer, OfferStaging, StaffRole, SyncRun
from app.workers.sync import merchant_sync
from tests.factories import make_merchant, staff_headers
from tests.feed_server import FeedServer

Found = TypeVar("Found")


async def eventually(look: Callable[[], Awaitable[Found]], *, seconds: float = 10, what: str = "") -> Found:
    """Look again and again until the answer is true, and return it."""
    async with asyncio.timeout(seconds):
        while not (found := await look()):
            await asyncio.sleep(0.01)
    assert found, what
    return found


@dataclass
class World:
    """What exists, and what can be done to it."""

    settings: Settings
    client: httpx.AsyncClient
    server: FeedServer
    merchant: Merchant
    operator: dict[str, str]
    viewer: dict[str, str]

    async def set_feed(self, merchant_id: int | None = None, **body: Any) -> dict[str, Any]:
        """Set the merchant's feed: by default our own JSON at the server's /feed, not due by itself."""
        body = {"url": self.server.url(), "mapping": {"preset": "direct-json"}, "enabled": False, **body}
        path = f"/v1/admin/merchants/{merchant_id or self.merchant.id}/feed"
        response = await self.client.put(path, json=body, headers=self.operator)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def post(self, merchant_id: int | None = None, headers: dict[str, str] | None = None) -> httpx.Response:
        """Ask for a sync."""
        path = f"/sync/{merchant_id or self.merchant.id}"
        return await self.client.post(path, headers=self.operator | (headers or {}))

    async def job(self, job_id: str) -> dict[str, Any]:
        """How a sync goes."""
        response = await self.client.get(f"/sync/jobs/{job_id}", headers=self.viewer)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def work(self, job_id: str, **settings: Any) -> dict[str, Any]:
        """Do what a worker does that is rung for this job; returns the job afterwards."""
        await merchant_sync(self.settings.model_copy(update=settings))(job_id)
        return await self.job(job_id)

    async def sync(self, **settings: Any) -> dict[str, Any]:
        """Ask for a sync and do it."""
        response = await self.post()
        assert response.status_code == 202, response.text
        return await self.work(response.json()["job_id"], **settings)

    async def live(self) -> dict[str, Offer]:
        """The merchant's live offers by their id in the feed."""
        async with transaction() as session:
            rows = await session.scalars(
                select(Offer).where(Offer.merchant_id == self.merchant.id, Offer.removed_at.is_(None))
            )
            return {offer.external_id: offer for offer in rows}

    async def staged(self) -> int:
        """How many rows are left in the staging table."""
        async with transaction() as session:
            return len((await session.execute(select(OfferStaging.row_number))).all())

    async def run(self, job_id: str) -> SyncRun:
        async with transaction() as session:
            return await session.get_one(SyncRun, UUID(job_id))

    async def feed(self) -> Feed:
        async with transaction() as session:
            return await session.get_one(Feed, self.merchant.id)


async def make_world(settings: Settings, client: httpx.AsyncClient, server: FeedServer, **merchant: Any) -> World:
    """Create and commit it."""
    async with transaction() as session:
        shop = await make_merchant(session, **merchant)
        operator = await staff_headers(session, StaffRole.OPERATOR)
        viewer = await staff_headers(session, StaffRole.VIEWER)
    return World(settings, client, server, shop, operator, viewer)


def counts(job: dict[str, Any]) -> dict[str, int]:
    """The counts of a job that are not zero."""
    names = ("fetched", "created", "updated", "unchanged", "removed", "rejected")
    return {name: job[name] for name in names if job[name]}
