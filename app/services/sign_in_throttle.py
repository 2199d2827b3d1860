"""Guessing passwords gets slower with every wrong one, and nobody can keep an account's owner out by guessing.

Wrong passwords are counted by the account together with the address they come from: after some free tries each next
one has to wait twice as long, up to a bound. Guesses that come from many addresses meet one limit of the account; from
an address where its owner signed in before, that one does not hold. Whether the account exists plays no part.
"""

import hashlib
import unicodedata
from collections import OrderedDict
from collections.abc import Callable
from math import ceil
from time import monotonic
from typing import Any

from app import metrics
from app.services.rate_limits import (
    SIGN_IN_ACCOUNT,
    SIGN_IN_ADDRESS,
    Charge,
    RateLimitedError,
    RateLimiter,
    State,
)

FREE_TRIES = 5
LONGEST_DELAY_SECONDS = 300
# Wrong passwords are forgotten after so long without another.
_FORGOTTEN_AFTER_SECONDS = 86_400
_KNOWN_SECONDS = 30 * 86_400
_MOST_LOCAL_KEYS = 20_000

# A try is counted before its password is looked at, so that a hundred at once are not one. Times in milliseconds.
_SCRIPT = """
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local known = redis.call('EXISTS', KEYS[2])
local tries, at = unpack(redis.call('HMGET', KEYS[1], 'tries', 'at'))
tries, at = tonumber(tries or 0), tonumber(at or 0)
if at > now then return {at - now, known} end
tries = tries + 1
local delay = 0
if tries >= tonumber(ARGV[1]) then delay = math.min(2 ^ math.min(tries - ARGV[1], 20), ARGV[2]) * 1000 end
redis.call('HSET', KEYS[1], 'tries', tries, 'at', string.format('%.0f', now + delay))
redis.call('EXPIRE', KEYS[1], ARGV[3])
return {0, known}
"""


class SignInThrottle:
    """Admits tries of passwords, in Redis for all processes together; without it in this process."""

    def __init__(self, limiter: RateLimiter, *, clock: Callable[[], float] = monotonic) -> None:
        self._limiter = limiter
        self._script = limiter.redis.register_script(_SCRIPT)
        self._clock = clock
        self._local: OrderedDict[str, tuple[int, float]] = OrderedDict()

    async def admit(self, *, email: str, caller: str) -> None:
        """Count a try that is about to be made. Raises RateLimitedError when it comes too soon."""
        tries, known = _keys(email, caller)
        arguments = [FREE_TRIES, LONGEST_DELAY_SECONDS, _FORGOTTEN_AFTER_SECONDS]
        answer: Any = await self._limiter.breaker.ask(lambda: self._script(keys=[tries, known], args=arguments))
        wait_seconds, is_known = (self._admit_here(tries), False) if answer is None else (answer[0] / 1000, answer[1])
        if wait_seconds > 0:
            metrics.RATE_LIMITED.labels(SIGN_IN_ACCOUNT.name).inc()
            wait = ceil(wait_seconds)
            raise RateLimitedError(State(SIGN_IN_ACCOUNT, 0, wait), retry_after_seconds=wait)
        charges = [Charge(SIGN_IN_ADDRESS, caller)]
        if not is_known:
            charges.append(Charge(SIGN_IN_ACCOUNT, f"account:{_normalized(email)}"))
        await self._limiter.charge(charges)

    async def welcome(self, *, email: str, caller: str) -> None:
        """Forget the wrong passwords of whoever signed in, and remember where that was."""
        tries, known = _keys(email, caller)
        self._local.pop(tries, None)

        async def remember() -> bool:
            async with self._limiter.redis.pipeline(transaction=False) as pipe:
                pipe.delete(tries)
                pipe.set(known, 1, ex=_KNOWN_SECONDS)
                await pipe.execute()
            return True

        await self._limiter.breaker.ask(remember)

    def _admit_here(self, key: str) -> float:
        now = self._clock()
        tries, at = self._local.get(key, (0, 0.0))
        if at > now:
            return at - now
        tries += 1
        delay = 0 if tries < FREE_TRIES else min(2 ** min(tries - FREE_TRIES, 20), LONGEST_DELAY_SECONDS)
        self._local[key] = (tries, now + delay)
        self._local.move_to_end(key)
        while len(self._local) > _MOST_LOCAL_KEYS:
            self._local.popitem(last=False)
        return 0


def _normalized(email: str) -> str:
    return unicodedata.normalize("NFC", email).strip().lower()


def _keys(email: str, caller: str) -> tuple[str, str]:
    digest = hashlib.blake2b(f"{_normalized(email)} {caller}".encode(), digest_size=16).hexdigest()
    return f"cashback:tries:{digest}", f"cashback:known:{digest}"
