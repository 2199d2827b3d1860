"""Rate limits: how often one caller may do one kind of thing, counted in Redis for all processes together.

The algorithm is GCRA (ITU-T I.371, "virtual scheduling"): per key one time, the theoretical arrival of the next call;
a call is refused when that lies further ahead than a whole window. Without Redis, what must never be unlimited (signing
in, moving money) is counted in this process instead, and everything else is let through.
"""

import asyncio
import hashlib
import logging
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from time import monotonic
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import metrics
from app.errors import AppError
from app.services.origin import subscriber

logger = logging.getLogger(__name__)

# Redis answers in well under a millisecond; a caller shall not notice when it does not.
_REDIS_TIMEOUT_SECONDS = 0.05
# After a failure Redis is not asked again for so long, so that an outage costs one call and not every call its wait.
_REDIS_PAUSE_SECONDS = 1.0
_MOST_LOCAL_KEYS = 50_000

# All keys must have room, else none is charged. Times in microseconds: below 2^53, so exact in Lua's doubles.
_SCRIPT = """
local now = redis.call('TIME')
now = now[1] * 1000000 + now[2]
local worst, refused = 0, false
local tats = {}
for i, key in ipairs(KEYS) do
  local interval, window = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local tat = math.max(tonumber(redis.call('GET', key) or 0), now) + interval
  tats[i] = tat
  if tat - now > window then refused = true end
end
local answer = {refused and 0 or 1}
for i, key in ipairs(KEYS) do
  local interval, window = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local ahead = tats[i] - now
  if refused then
    ahead = ahead - interval
  else
    redis.call('SET', key, string.format('%.0f', tats[i]), 'PX', math.ceil(ahead / 1000))
  end
  answer[i + 1] = string.format('%.0f', ahead)
end
return answer
"""


class Fallback(StrEnum):
    """What holds while Redis does not answer."""

    OPEN = "open"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Policy:
    """`quota` calls in any `window_seconds`, in a burst or spread."""

    name: str
    quota: int
    window_seconds: int
    fallback: Fallback = Fallback.OPEN

    @property
    def interval_us(self) -> int:
        """Microseconds between two calls of somebody who spreads them."""
        return max(1, self.window_seconds * 1_000_000 // self.quota)

    @property
    def window_us(self) -> int:
        """The window in microseconds."""
        return self.window_seconds * 1_000_000


@dataclass(frozen=True, slots=True)
class Charge:
    """One call to be counted: by a policy, for a caller."""

    policy: Policy
    # Who calls, as `address:203.0.113.7`; kept in Redis as a hash.
    caller: str

    @property
    def key(self) -> str:
        """The key in Redis; no address or e-mail can be read from it."""
        digest = hashlib.blake2b(self.caller.encode(), digest_size=16).hexdigest()
        return f"cashback:limit:{self.policy.name}:{digest}"


@dataclass(frozen=True, slots=True)
class State:
    """What a caller has left of the policy that is nearest to its end."""

    policy: Policy
    remaining: int
    # Until the whole quota is there again.
    reset_seconds: int

    def headers(self) -> dict[str, str]:
        """Return the fields of draft-ietf-httpapi-ratelimit-headers-10."""
        name = self.policy.name
        return {
            "RateLimit-Policy": f'"{name}";q={self.policy.quota};w={self.policy.window_seconds}',
            "RateLimit": f'"{name}";r={self.remaining};t={self.reset_seconds}',
        }


class RateLimitedError(AppError):
    """Too many calls of one kind by one caller; `Retry-After` says when there is room again."""

    status_code = 429
    code = "rate_limited"
    title = "Too many requests"

    def __init__(self, state: State, *, retry_after_seconds: int) -> None:
        policy = state.policy
        super().__init__(
            f"At most {policy.quota} requests of this kind in {policy.window_seconds} s;"
            f" try again in {retry_after_seconds} s.",
            headers={**state.headers(), "Retry-After": str(retry_after_seconds)},
        )


class LocalLimiter:
    """Counts the calls that reach one process, in this process alone: no call waits, and no more keys are kept than
    fit a bounded memory, the newest.
    """

    def __init__(self, *, clock: Callable[[], float] = monotonic, most_keys: int = _MOST_LOCAL_KEYS) -> None:
        self._clock = clock
        self._most_keys = most_keys
        self._tats: OrderedDict[tuple[str, str], int] = OrderedDict()

    def charge(self, charges: Sequence[Charge]) -> State | None:
        """Count a call against all its limits, or against none when one is used up; as RateLimiter does."""
        return _judge(charges, *self.count(charges))

    def count(self, charges: Sequence[Charge]) -> tuple[bool, list[int]]:
        """Do what the script does: return whether the call is allowed and how far ahead each key's time is."""
        now_us = int(self._clock() * 1_000_000)
        # No hash, as in Redis: what is here is gone with the process.
        keys = [(charge.policy.name, charge.caller) for charge in charges]
        before = [max(0, self._tats.get(key, 0) - now_us) for key in keys]
        after = [ahead + charge.policy.interval_us for ahead, charge in zip(before, charges, strict=True)]
        if any(ahead > charge.policy.window_us for ahead, charge in zip(after, charges, strict=True)):
            return False, before
        for key, ahead in zip(keys, after, strict=True):
            self._tats[key] = now_us + ahead
            self._tats.move_to_end(key)
        while len(self._tats) > self._most_keys:
            self._tats.popitem(last=False)
        return True, after


class RequestClasses:
    """The limits that every request counts for, in this process; `factor` widens them all, and 0 lifts them."""

    def __init__(self, *, factor: float = 1.0, clock: Callable[[], float] = monotonic) -> None:
        self._factor = factor
        self._limiter = LocalLimiter(clock=clock)
        self._widened: dict[str, Policy] = {}

    def charge(self, policy: Policy, caller: str) -> State | None:
        """Count a request. Raises RateLimitedError."""
        if not self._factor:
            return None
        widened = self._widened.get(policy.name)
        if widened is None:
            widened = replace(policy, quota=max(1, round(policy.quota * self._factor)))
            self._widened[policy.name] = widened
        return self._limiter.charge([Charge(widened, caller)])


class Breaker:
    """Keeps callers from a Redis that does not answer: after a failure one call in each pause finds out, alone."""

    def __init__(
        self, *, clock: Callable[[], float] = monotonic, deadline_seconds: float = _REDIS_TIMEOUT_SECONDS
    ) -> None:
        self._clock = clock
        self._deadline_seconds = deadline_seconds
        self._asked_again_at: float | None = None

    async def ask(self, question: Callable[[], Awaitable[Any]]) -> Any | None:  # noqa: ANN401 - what Redis answers
        """Return Redis's answer; None when there was none in time, or when it is not asked now."""
        now = self._clock()
        if self._asked_again_at is not None:
            if now < self._asked_again_at:
                return None
            self._asked_again_at = now + _REDIS_PAUSE_SECONDS
        try:
            async with asyncio.timeout(self._deadline_seconds):
                answer = await question()
        except (RedisError, OSError, TimeoutError) as error:
            self._asked_again_at = self._clock() + _REDIS_PAUSE_SECONDS
            logger.warning("rate limits without Redis", extra={"error": type(error).__name__})
            return None
        self._asked_again_at = None
        return answer


class RateLimiter:
    """Counts the calls that reach all processes, in Redis; in this process what may not be unlimited without it."""

    def __init__(
        self,
        redis: Redis,
        *,
        clock: Callable[[], float] = monotonic,
        deadline_seconds: float = _REDIS_TIMEOUT_SECONDS,
    ) -> None:
        self.redis = redis
        self.breaker = Breaker(clock=clock, deadline_seconds=deadline_seconds)
        self._script = redis.register_script(_SCRIPT)
        self._local = LocalLimiter(clock=clock)

    async def charge(self, charges: Sequence[Charge]) -> State | None:
        """Count a call against all its limits, or against none when one is used up; returns the tightest one's state.

        Raises RateLimitedError.
        """
        keys = [charge.key for charge in charges]
        arguments = [value for charge in charges for value in (charge.policy.interval_us, charge.policy.window_us)]
        answer = await self.breaker.ask(lambda: self._script(keys=keys, args=arguments))
        if answer is None:
            charges = [charge for charge in charges if charge.policy.fallback is Fallback.LOCAL]
            return self._local.charge(charges)
        allowed, *ahead = answer
        return _judge(charges, bool(int(allowed)), [int(value) for value in ahead])


def _judge(charges: Sequence[Charge], allowed: bool, ahead_us: Sequence[int]) -> State | None:  # noqa: FBT001 - the script's answer
    if not charges:
        return None
    # The limit with the least room is the one worth telling.
    charge, used_us = min(zip(charges, ahead_us, strict=True), key=lambda pair: pair[0].policy.window_us - pair[1])
    policy = charge.policy
    room_us = max(0, policy.window_us - used_us)
    state = State(policy, room_us // policy.interval_us, math.ceil(used_us / 1_000_000))
    if not allowed:
        metrics.RATE_LIMITED.labels(policy.name).inc()
        wait_us = used_us + policy.interval_us - policy.window_us
        raise RateLimitedError(state, retry_after_seconds=max(1, math.ceil(wait_us / 1_000_000)))
    return state


# To parse an address took 10 us of each request.
@lru_cache(maxsize=10_000)
def address_caller(address: str | None) -> str:
    """Return what names a caller by its address; of IPv6 the /64, of which one subscriber has all addresses."""
    return f"address:{subscriber(address) or 'unknown'}"


# The whole table: name, quota, window in seconds, what holds without Redis; then its caller. The narrow ones
# are counted in Redis, for all processes together.
# Addresses are shared: behind one of a mobile carrier's are thousands of customers. So limits by address are wide, and
# the narrow ones go by account.
SIGN_IN_ADDRESS = Policy("sign-in-address", 120, 60, Fallback.LOCAL)  # address
SIGN_IN_ACCOUNT = Policy("sign-in-account", 100, 3600, Fallback.LOCAL)  # e-mail, from where it never signed in
REGISTER = Policy("register", 60, 3600, Fallback.LOCAL)  # address
STEP_UP = Policy("step-up", 20, 300, Fallback.LOCAL)  # customer
PAYOUT = Policy("payout", 300, 3600, Fallback.LOCAL)  # customer
EXPORT = Policy("export", 5, 86_400, Fallback.LOCAL)  # customer
CLICK = Policy("click", 120, 60)  # customer
# Whoever files and withdraws all day is looking for other people's orders.
CLAIM = Policy("claim", 60, 3600)  # customer
# Nobody's mailbox is to be filled through us, and a gateway bills each text message.
MAIL_ADDRESS = Policy("mail-address", 60, 3600, Fallback.LOCAL)  # address
MAIL_ACCOUNT = Policy("mail-account", 5, 3600, Fallback.LOCAL)  # e-mail
ONE_TIME_TOKEN = Policy("one-time-token", 60, 600, Fallback.LOCAL)  # address
NONCE = Policy("nonce", 600, 600, Fallback.LOCAL)  # address
SMS_ACCOUNT = Policy("sms-account", 5, 3600, Fallback.LOCAL)  # customer, and phone
SYNC = Policy("sync", 60, 3600)  # merchant

# Every request counts for one of these, in its own process alone: they stop a client that runs wild, at the price of a
# look into a dictionary, also when Redis is down. So the service as a whole allows as many times as it has processes.
READS_ADDRESS = Policy("reads-address", 6_000, 60)  # address
WRITES_ADDRESS = Policy("writes-address", 1_200, 60)  # address
WEBHOOKS_SOURCE = Policy("webhooks-source", 120_000, 60)  # source key
READS_CUSTOMER = Policy("reads-customer", 600, 60)  # customer
WRITES_CUSTOMER = Policy("writes-customer", 300, 60)  # customer
READS_STAFF = Policy("reads-staff", 3_000, 60)  # staff key
WRITES_STAFF = Policy("writes-staff", 1_200, 60)  # staff key
