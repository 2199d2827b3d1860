"""A worker that is killed while it sends payouts: the provider makes each exactly once, and the ledger knows it."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator

import orjson
import pytest
from sqlalchemy import func, select

from app.config import Settings
from app.db import transaction
from app.models import Payout, PayoutProvider, PayoutStatus, Wallet
from app.services.ledger.verify import violations
from app.services.payouts.providers import payout_key
from tests.factories import make_payout
from tests.faults.traffic import scaled
from tests.payouts.provider_server import TOKEN, Moment, PayoutServer
from tests.service import Service

pytestmark = pytest.mark.fault

KILLS = scaled(4, 12)
PAYOUTS_A_KILL = 5


@pytest.fixture
async def server(service: Service) -> AsyncIterator[PayoutServer]:
    """A provider that the service's processes use, and look at every second."""
    async with PayoutServer() as server:
        service.environment |= {
            "PAYOUT_HTTP_URL": server.url,
            "PAYOUT_HTTP_TOKEN": TOKEN,
            "PAYOUT_HTTP_TIMEOUT_SECONDS": "1",
            "SWEEP_INTERVAL_SECONDS": "1",
        }
        yield server


async def approve(settings: Settings) -> None:
    async with transaction() as session:
        for _ in range(PAYOUTS_A_KILL):
            await make_payout(session, settings, provider=PayoutProvider.HTTP)


async def counts() -> dict[PayoutStatus, int]:
    async with transaction() as session:
        rows = await session.execute(select(Payout.status, func.count()).group_by(Payout.status))
        return dict(rows.all())


async def test_kill_9_between_call_and_record_pays_each_once(
    service: Service, server: PayoutServer, settings_of_service: Settings
) -> None:
    for _, moment in zip(range(KILLS), itertools.cycle(Moment), strict=False):
        await approve(settings_of_service)
        server.stopped.clear()
        server.stop_at = moment
        worker = service.start("worker", "default")
        async with asyncio.timeout(60):
            await server.stopped.wait()
        # The worker waits for the answer, or has it and has not written it down.
        await asyncio.to_thread(worker.kill)
    total = KILLS * PAYOUTS_A_KILL
    assert (await counts()).keys() <= {PayoutStatus.APPROVED, PayoutStatus.SENT}

    server.becomes = "paid"
    server.finish("paid")
    service.start("worker", "default")
    async with asyncio.timeout(120):
        while await counts() != {PayoutStatus.PAID: total}:
            await asyncio.sleep(0.1)

    async with transaction() as session:
        payouts = (await session.scalars(select(Payout))).all()
        assert sorted(server.books) == sorted(payout_key(payout.id) for payout in payouts)
        assert Counter(made.content["reference"] for made in server.books.values()) == Counter(list(server.books))
        paid = select(func.sum(Wallet.paid_minor), func.sum(Wallet.available_minor), func.sum(Wallet.in_payout_minor))
        assert (await session.execute(paid)).one() == (total * 60_000, 0, 0)
        assert await violations(session) == []
    # Those that were lost were asked about, and each order that was repeated was the same to the byte.
    assert server.asked("GET")
    by_key: dict[str, set[bytes]] = {}
    for request in server.asked("POST"):
        by_key.setdefault(request.headers["idempotency-key"], set()).add(request.body)
    assert [key for key, bodies in by_key.items() if len(bodies) > 1] == []
    assert all(orjson.loads(*bodies)["reference"] == key for key, bodies in by_key.items())


async def test_two_workers_of_which_one_is_killed_again_and_again_pay_each_once(
    service: Service, server: PayoutServer, settings_of_service: Settings
) -> None:
    server.becomes = "paid"
    service.start("worker", "default")
    for moment in Moment:
        await approve(settings_of_service)
        victim = service.start("worker", "default")
        server.stopped.clear()
        server.stop_at = moment
        await approve(settings_of_service)
        async with asyncio.timeout(60):
            await server.stopped.wait()
        await asyncio.to_thread(victim.kill)
    total = len(Moment) * 2 * PAYOUTS_A_KILL
    async with asyncio.timeout(120):
        while await counts() != {PayoutStatus.PAID: total}:
            await asyncio.sleep(0.1)
    async with transaction() as session:
        assert len(server.books) == total
        assert await violations(session) == []
