"""Redis stopped or frozen: what must never be unlimited is limited here, the rest is open, and nobody waits for it."""

import time

import httpx
import pytest

from app.config import Settings
from app.embedded import EmbeddedRedis
from tests.service import Service, frozen
from tests.webhooks.world import World, make_world

pytestmark = pytest.mark.fault


async def sign_in(client: httpx.AsyncClient, number: int, email: str) -> int:
    form = {"grant_type": "password", "username": email, "password": "wrong password"}
    # Another address each time, as far as whoever asks may say so.
    headers = {"X-Forwarded-For": f"203.0.113.{number}"}
    return (await client.post("/v1/auth/token", data=form, headers=headers)).status_code


async def check(client: httpx.AsyncClient, world: World, name: str) -> None:
    tries = [await sign_in(client, number, f"{name}@example.com") for number in range(8)]
    assert tries[:5] == [401] * 5
    assert 429 in tries[5:]
    for number in range(10):
        assert (await client.get("/v1/merchants")).status_code == 200
        sent = await world.post("created", f"{name}-{number}", amount=1_000, commission=100)
        assert sent.status_code == 202


async def test_without_redis_signing_in_stays_limited_and_reads_and_webhooks_stay_open(
    service: Service, redis: EmbeddedRedis, settings_of_service: Settings
) -> None:
    service.environment["FORWARDED_ALLOW_IPS"] = "192.0.2.1"
    service.start_api()
    async with httpx.AsyncClient(base_url=service.url, timeout=10) as client:
        world = await make_world(settings_of_service, client)
        await check(client, world, "with")
        assert redis.pid is not None
        with frozen(redis.pid):
            await check(client, world, "frozen")
            # After the first call of a pause nobody waits.
            spent = []
            for number in range(20):
                started = time.perf_counter()
                await client.post("/v1/customers", json={"email": f"c{number}@example.com", "password": "x" * 12})
                spent.append(time.perf_counter() - started)
            assert sorted(spent)[10] < 0.5
        redis.stop()
        await check(client, world, "stopped")
