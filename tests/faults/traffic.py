"""Webhooks at a steady rate, sent again until they are taken as a network would, and what must have become of them."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx
from sqlalchemy import func, select

from app.db import is_unavailable, transaction
from app.models import CauseType, Order, Transfer, WebhookEvent, WebhookStatus
from app.services.ledger.verify import violations
from tests.webhooks.world import World

# The whole load of the design, for `make test-faults FAULTS=full`; else as much as fits a small machine.
IS_FULL = os.environ.get("FAULT_SCALE") == "full"


def scaled(small: int, full: int) -> int:
    """As much of something as this run is to do."""
    return full if IS_FULL else small


@dataclass
class Traffic:
    """What was sent and how it went. Each report is sent again, the same to the byte, until it is taken."""

    world: World
    rate: float
    name: str = "t"
    amount: int = 1_000
    sent: int = 0
    slowest_seconds: float = 0.0
    # When an attempt failed, and how.
    errors: list[tuple[float, str]] = field(default_factory=list)

    @property
    def server_errors(self) -> int:
        """How many attempts were answered 5xx."""
        return sum(what.startswith("5") for _, what in self.errors)

    def recovered(self, since: float) -> float:
        """Seconds from a moment to the last error."""
        return max((at - since for at, _ in self.errors), default=0.0)

    async def send_until_taken(self, number: int) -> None:
        at = datetime.now(UTC)
        key = f"{self.name}-{number}"
        wait_seconds = 0.2
        while True:
            began = time.monotonic()
            try:
                answer = await self.world.post(
                    "created", key, message_id=key, amount=self.amount, commission=100, at=at
                )
                what = str(answer.status_code)
            except httpx.HTTPError as error:
                what = type(error).__name__
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
            if what == "202":
                return
            assert not what.startswith("4"), what
            self.errors.append((time.monotonic(), what))
            await asyncio.sleep(wait_seconds)
            wait_seconds = min(2 * wait_seconds, 2.0)

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Send at the rate while the block runs; afterwards wait for those that are still on their way."""
        stop = asyncio.Event()

        async def send() -> None:
            async with asyncio.TaskGroup() as group:
                began = time.monotonic()
                while not stop.is_set():
                    group.create_task(self.send_until_taken(self.sent))
                    self.sent += 1
                    await asyncio.sleep(max(0.0, began + self.sent / self.rate - time.monotonic()))

        task = asyncio.create_task(send())
        try:
            yield
        finally:
            stop.set()
            async with asyncio.timeout(60):
                await task

    async def send_many(self, count: int, *, at_once: int = 16) -> None:
        """Send so many as fast as they are taken."""
        slots = asyncio.Semaphore(at_once)

        async def send(number: int) -> None:
            async with slots:
                await self.send_until_taken(number)

        first, self.sent = self.sent, self.sent + count
        await asyncio.gather(*(send(number) for number in range(first, self.sent)))


@dataclass(frozen=True)
class Books:
    """How what was accepted differs from what was posted."""

    lost: int
    doubled: int


async def until_processed(count: int, *, seconds: float) -> float:
    """Wait until so many events are processed; returns how long that took."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while await processed() < count:
            await asyncio.sleep(0.05)
    return time.monotonic() - began


async def processed() -> int:
    """How many events are processed; 0 while PostgreSQL does not say."""
    try:
        async with transaction() as session:
            wanted = WebhookEvent.status == WebhookStatus.PROCESSED
            return (await session.scalars(select(func.count()).select_from(WebhookEvent).where(wanted))).one()
    except Exception as error:
        if not is_unavailable(error):
            raise
        return 0


async def books(expected: int) -> Books:
    """Compare with how many orders there must be, each credited once; every rule of the ledger must hold."""
    async with transaction() as session:
        orders = (await session.scalars(select(func.count()).select_from(Order))).one()
        credits_ = select(func.count()).select_from(Transfer).where(Transfer.cause_type == CauseType.ORDER)
        credited = (await session.scalars(credits_)).one()
        assert await violations(session) == []
    return Books(lost=expected - min(orders, credited), doubled=max(orders, credited) - expected)
