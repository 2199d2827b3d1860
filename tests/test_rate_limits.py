"""Rate limits: exact in Redis for all processes together, local where it matters when Redis is down."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.main import create_app
from app.models import StaffRole
from app.services.rate_limits import (
    Breaker,
    Charge,
    Fallback,
    LocalLimiter,
    Policy,
    RateLimitedError,
    RateLimiter,
    RequestClasses,
    address_caller,
)
from tests.factories import customer_headers, make_customer, make_merchant, staff_headers

BURST = Policy("burst", quota=5, window_seconds=100)


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    client = Redis.from_url(settings.redis_url)
    await client.flushdb()
    yield client
    await client.aclose()


@pytest.fixture
async def no_redis() -> AsyncIterator[Redis]:
    # Nothing listens on port 1.
    client = Redis.from_url("redis://127.0.0.1:1/0", socket_connect_timeout=0.2)
    yield client
    await client.aclose()


async def allowed(limiter: RateLimiter, policy: Policy, caller: str, calls: int) -> int:
    count = 0
    for _ in range(calls):
        try:
            await limiter.charge([Charge(policy, caller)])
        except RateLimitedError:
            continue
        count += 1
    return count


async def test_a_burst_of_the_quota_passes_and_the_next_is_told_when_to_come_back(redis: Redis) -> None:
    limiter = RateLimiter(redis, deadline_seconds=5)
    left = [await limiter.charge([Charge(BURST, "a")]) for _ in range(5)]
    assert [state and state.remaining for state in left] == [4, 3, 2, 1, 0]
    with pytest.raises(RateLimitedError) as refused:
        await limiter.charge([Charge(BURST, "a")])
    headers = refused.value.headers or {}
    assert headers["RateLimit-Policy"] == '"burst";q=5;w=100'
    assert headers["RateLimit"].startswith('"burst";r=0;t=')
    # The first of the five has left the window after a fifth of it.
    assert 19 <= int(headers["Retry-After"]) <= 20
    assert await allowed(limiter, BURST, "b", 1) == 1


async def test_two_processes_count_together(redis: Redis) -> None:
    one, other = RateLimiter(redis, deadline_seconds=5), RateLimiter(redis, deadline_seconds=5)
    results = await asyncio.gather(*(allowed(limiter, BURST, "a", 10) for limiter in (one, other)))
    assert sum(results) == 5


async def test_room_comes_back_with_time(redis: Redis) -> None:
    quick = Policy("quick", quota=2, window_seconds=1)
    limiter = RateLimiter(redis, deadline_seconds=5)
    assert await allowed(limiter, quick, "a", 3) == 2
    async with asyncio.timeout(5):
        while not await allowed(limiter, quick, "a", 1):
            await asyncio.sleep(0.05)


async def test_a_refused_call_is_charged_to_none_of_its_limits(redis: Redis) -> None:
    limiter = RateLimiter(redis, deadline_seconds=5)
    wide = Policy("wide", quota=100, window_seconds=100)
    both = [Charge(BURST, "a"), Charge(wide, "a")]
    for _ in range(5):
        await limiter.charge(both)
    for _ in range(3):
        with pytest.raises(RateLimitedError):
            await limiter.charge(both)
    state = await limiter.charge([Charge(wide, "a")])
    assert state is not None
    assert state.remaining == 94


async def test_nobody_can_read_callers_from_redis(redis: Redis) -> None:
    await RateLimiter(redis, deadline_seconds=5).charge([Charge(BURST, "account:ayesha@example.com")])
    (key,) = await redis.keys("*")
    assert b"ayesha" not in key
    assert 0 < await redis.ttl(key) <= 100


async def test_a_flushed_redis_knows_the_script_again(redis: Redis) -> None:
    limiter = RateLimiter(redis, deadline_seconds=5)
    assert await allowed(limiter, BURST, "a", 1) == 1
    await redis.script_flush()
    assert await allowed(limiter, BURST, "a", 9) == 4


async def test_without_redis_signing_in_is_limited_here_and_reading_is_open(no_redis: Redis) -> None:
    limiter = RateLimiter(no_redis)
    strict = Policy("strict", quota=5, window_seconds=100, fallback=Fallback.LOCAL)
    assert await allowed(limiter, strict, "a", 20) == 5
    assert await allowed(limiter, strict, "b", 20) == 5
    assert await allowed(limiter, BURST, "a", 20) == 20
    assert await limiter.charge([Charge(BURST, "a")]) is None


async def test_a_redis_that_hangs_is_waited_for_once_and_then_asked_by_one_call_at_a_time() -> None:
    now, asked = 100.0, 0

    async def hang() -> None:
        nonlocal asked
        asked += 1
        await asyncio.Event().wait()

    breaker = Breaker(clock=lambda: now, deadline_seconds=0.01)
    assert await breaker.ask(hang) is None
    assert [await breaker.ask(hang) for _ in range(100)] == [None] * 100
    assert asked == 1
    now += 1.1
    await asyncio.gather(*(breaker.ask(hang) for _ in range(100)))
    assert asked == 2
    now += 1.1

    async def answer() -> str:
        return "PONG"

    assert await breaker.ask(answer) == "PONG"
    assert await asyncio.gather(*(breaker.ask(answer) for _ in range(3))) == ["PONG"] * 3


def test_memory_of_the_local_limiter_is_bounded() -> None:
    limiter = LocalLimiter(most_keys=100)
    for number in range(1000):
        limiter.charge([Charge(BURST, f"caller-{number}")])
    assert len(limiter._tats) == 100
    for _ in range(4):
        limiter.charge([Charge(BURST, "caller-999")])
    with pytest.raises(RateLimitedError):
        limiter.charge([Charge(BURST, "caller-999")])


@given(gaps=st.lists(st.floats(0, 60), min_size=1, max_size=60))
async def test_no_window_ever_sees_more_than_twice_the_quota_nor_a_patient_caller_a_refusal(gaps: list[float]) -> None:
    now = 0.0
    limiter = RateLimiter(Redis(), clock=lambda: now)
    # Redis is never asked: the pause after a failure has no end.
    limiter.breaker._asked_again_at = float("inf")
    policy = Policy("property", quota=5, window_seconds=100, fallback=Fallback.LOCAL)
    passed: list[float] = []
    for gap in gaps:
        now += gap
        try:
            await limiter.charge([Charge(policy, "a")])
        except RateLimitedError as refused:
            # Whoever waits as long as told is let in.
            now += int((refused.headers or {})["Retry-After"])
            await limiter.charge([Charge(policy, "a")])
        passed.append(now)
    for start in passed:
        # A full burst, and what the rate lets through meanwhile.
        assert sum(start <= at < start + policy.window_seconds for at in passed) <= 2 * policy.quota


@pytest.mark.parametrize(
    ("address", "caller"),
    [
        ("203.0.113.7", "address:203.0.113.7"),
        ("::ffff:203.0.113.7", "address:203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "address:2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "address:2001:db8:1:2::/64"),
        (None, "address:unknown"),
        ("testclient", "address:unknown"),
    ],
)
def test_an_ipv6_subscriber_is_one_caller(address: str | None, caller: str) -> None:
    assert address_caller(address) == caller


async def test_an_address_is_what_the_server_saw_and_not_what_a_header_says(client: httpx.AsyncClient) -> None:
    seen = [
        (await client.post("/v1/customers", json={}, headers={"X-Forwarded-For": f"203.0.113.{number}"})).headers
        for number in range(3)
    ]
    assert [headers["RateLimit"].split(";")[1] for headers in seen] == ["r=59", "r=58", "r=57"]


async def test_a_customer_is_told_what_is_left_also_by_answers_of_idempotent_routes(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    merchant = await make_merchant(session)
    headers = customer_headers(settings, await make_customer(session))
    answer = await client.post("/v1/clicks", json={"merchant_id": merchant.id}, headers=headers)
    assert (answer.status_code, answer.headers["RateLimit-Policy"]) == (201, '"click";q=120;w=60')
    other = customer_headers(settings, await make_customer(session))
    again = await client.post("/v1/clicks", json={"merchant_id": merchant.id}, headers=other)
    assert again.headers["RateLimit"] == answer.headers["RateLimit"]


async def test_every_request_counts_for_a_class_and_its_caller(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    headers = customer_headers(settings, await make_customer(session))
    of_staff = await staff_headers(session, StaffRole.FINANCE)
    for method, path, credential, policy in (
        ("GET", "/v1/categories", {}, "reads-address"),
        ("HEAD", "/v1/categories", {}, "reads-address"),
        ("POST", "/v1/auth/revoke", {}, "writes-address"),
        ("GET", "/v1/webhooks/unknown", {}, "webhooks-source"),
        ("POST", "/v1/webhooks/unknown", {}, "webhooks-source"),
        ("GET", "/v1/me/wallet", headers, "reads-customer"),
        ("PATCH", "/v1/me", headers, "writes-customer"),
        ("GET", "/v1/admin/alerts", of_staff, "reads-staff"),
        ("POST", "/v1/admin/exchange-rates", of_staff, "writes-staff"),
    ):
        answer = await client.request(method, path, headers=credential)
        assert answer.headers["RateLimit"].startswith(f'"{policy}";r='), path
    for path in ("/livez", "/metrics"):
        assert "RateLimit" not in (await client.get(path)).headers


async def test_a_client_that_runs_wild_is_stopped_and_sources_and_probes_are_not(
    session: AsyncSession, client: httpx.AsyncClient, settings: Settings
) -> None:
    app = create_app(settings.model_copy(update={"rate_limit_factor": 0.001}))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        answers = [await http.get("/v1/categories") for _ in range(8)]
        assert [answer.status_code for answer in answers] == [200] * 6 + [429] * 2
        assert answers[-1].json()["code"] == "rate_limited"
        assert int(answers[-1].headers["Retry-After"]) == 10
        assert answers[-1].headers["RateLimit-Policy"] == '"reads-address";q=6;w=60'
        assert (await http.get("/livez")).status_code == 200
        sources = [(await http.get(f"/v1/webhooks/key-{number}")).status_code for number in range(20)]
        assert set(sources) == {404}


def test_a_large_factor_leaves_hardly_a_limit() -> None:
    classes = RequestClasses(factor=1e9)
    states = [classes.charge(BURST, "a") for _ in range(1000)]
    assert all(state and state.remaining > 1_000_000 for state in states)


def test_a_factor_of_nothing_lifts_the_limits() -> None:
    classes = RequestClasses(factor=0)
    assert classes.charge(BURST, "a") is None


async def test_a_merchants_feed_is_synced_so_often(client: httpx.AsyncClient, session: AsyncSession) -> None:
    headers = await staff_headers(session, StaffRole.OPERATOR)
    seen = [await client.post(f"/sync/{number}", headers=headers) for number in ("999", "0999", "999")]
    assert [answer.headers["RateLimit"].split(";")[1] for answer in seen] == ["r=59", "r=58", "r=57"]
    # Without a credential nobody uses another's limit up.
    assert "RateLimit" in (refused := await client.post("/sync/999")).headers
    assert refused.headers["RateLimit-Policy"].startswith('"writes-address"')
