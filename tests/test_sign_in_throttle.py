"""Guessing gets slow, for the guesser: an owner signs in where they did before, whatever others try elsewhere."""

from collections.abc import AsyncIterator

import httpx
import pytest
from redis.asyncio import Redis

from app.config import Settings
from app.services.rate_limits import SIGN_IN_ACCOUNT, RateLimitedError, RateLimiter
from app.services.sign_in_throttle import LONGEST_DELAY_SECONDS, SignInThrottle

EMAIL = "ayesha@example.com"
HOME, ELSEWHERE = "address:203.0.113.7", "address:198.51.100.9"


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    client = Redis.from_url(settings.redis_url)
    await client.flushdb()
    yield client
    await client.aclose()


@pytest.fixture
async def no_redis() -> AsyncIterator[Redis]:
    client = Redis.from_url("redis://127.0.0.1:1/0", socket_connect_timeout=0.2)
    yield client
    await client.aclose()


async def wait_of(throttle: SignInThrottle, caller: str = HOME, email: str = EMAIL) -> int:
    """How long a try is told to wait; 0 when it is admitted."""
    try:
        await throttle.admit(email=email, caller=caller)
    except RateLimitedError as refused:
        return int((refused.headers or {})["Retry-After"])
    return 0


async def test_after_free_tries_each_next_waits_twice_as_long_up_to_a_bound(redis: Redis) -> None:
    throttle = SignInThrottle(RateLimiter(redis, deadline_seconds=5))
    assert [await wait_of(throttle) for _ in range(5)] == [0] * 5
    assert await wait_of(throttle) == 1
    (key,) = await redis.keys("cashback:tries:*")
    the_wait_is_over = redis.register_script("return redis.call('HSET', KEYS[1], 'at', 0)")
    waits = []
    for _ in range(12):
        await the_wait_is_over([key])
        assert await wait_of(throttle) == 0
        waits.append(await wait_of(throttle))
    assert waits[:8] == [2, 4, 8, 16, 32, 64, 128, 256]
    assert set(waits[8:]) == {LONGEST_DELAY_SECONDS}
    assert 0 < await redis.ttl(key) <= 86_400
    assert b"ayesha" not in key


async def test_others_tries_and_other_accounts_do_not_wait(redis: Redis) -> None:
    throttle = SignInThrottle(RateLimiter(redis, deadline_seconds=5))
    while not await wait_of(throttle, ELSEWHERE):
        pass
    assert await wait_of(throttle, HOME) == 0
    assert await wait_of(throttle, ELSEWHERE, "other@example.com") == 0
    # Another spelling is the same account.
    assert await wait_of(throttle, ELSEWHERE, "AYESHA@example.com") > 0


async def test_guesses_from_everywhere_meet_the_accounts_limit_and_its_owner_does_not(redis: Redis) -> None:
    throttle = SignInThrottle(RateLimiter(redis, deadline_seconds=5))
    await throttle.welcome(email=EMAIL, caller=HOME)
    waits = [await wait_of(throttle, f"address:192.0.2.{number}") for number in range(SIGN_IN_ACCOUNT.quota + 20)]
    assert [wait > 0 for wait in waits] == [False] * SIGN_IN_ACCOUNT.quota + [True] * 20
    assert await wait_of(throttle, HOME) == 0


async def test_signing_in_forgets_the_wrong_passwords_before_it(redis: Redis) -> None:
    throttle = SignInThrottle(RateLimiter(redis, deadline_seconds=5))
    for _ in range(3):
        assert [await wait_of(throttle) for _ in range(4)] == [0] * 4
        await throttle.welcome(email=EMAIL, caller=HOME)


async def test_without_redis_this_process_counts_alone(no_redis: Redis) -> None:
    now = 1000.0
    throttle = SignInThrottle(RateLimiter(no_redis), clock=lambda: now)
    assert [await wait_of(throttle) for _ in range(6)] == [0] * 5 + [1]
    now += 1
    assert [await wait_of(throttle) for _ in range(2)] == [0, 2]
    now += 2
    assert [await wait_of(throttle) for _ in range(2)] == [0, 4]
    await throttle.welcome(email=EMAIL, caller=HOME)
    assert [await wait_of(throttle) for _ in range(5)] == [0] * 5


async def test_tokens_are_asked_for_as_slowly_whether_the_account_exists_or_not(client: httpx.AsyncClient) -> None:
    async def attempt(email: str, password: str) -> httpx.Response:
        return await client.post(
            "/v1/auth/token", data={"grant_type": "password", "username": email, "password": password}
        )

    await client.post("/v1/customers", json={"email": EMAIL, "password": "correct horse battery staple"})
    assert (await attempt(EMAIL, "correct horse battery staple")).status_code == 200
    for email in (EMAIL, "nobody@example.com"):
        answers = [await attempt(email, "wrong password") for _ in range(7)]
        statuses = [answer.status_code for answer in answers]
        assert statuses[:5] == [401] * 5
        assert 429 in statuses[5:]
        refused = answers[statuses.index(429)]
        assert refused.json()["code"] == "rate_limited"
        assert int(refused.headers["Retry-After"]) >= 1
