"""The doorbell: tells the job workers to look now, through ARQ on Redis, and never makes a request wait for it.

All of ARQ's enqueueing is behind this module. A ring that cannot be delivered is logged and dropped: the row it
speaks of is in PostgreSQL, and the sweep of `app/workers` finds it.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import orjson
from arq.connections import ArqRedis
from redis.asyncio import ConnectionPool
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.exceptions import RedisError

from app import metrics
from app.db import Ring

logger = logging.getLogger(__name__)

DEFAULT_QUEUE = "cashback:default"
SYNC_QUEUE = "cashback:sync"
_QUEUES = {"sync_merchant": SYNC_QUEUE, "poll_source": SYNC_QUEUE}

_ENQUEUE_TIMEOUT_SECONDS = 0.5
_SENTINEL_PORT = 26_379
_SENTINEL_SECONDS = 0.2
# Equal rings within such a slot of time are one job, whichever process rings: 500 webhooks a second are 20 drain jobs.
# A job's id names its slot and it starts when the slot is over: so it sees what every ring of its slot spoke of, and a
# ring that comes while it runs is a job of its own.
_SLOT_SECONDS = 0.05


def serialize(job: dict[str, Any]) -> bytes:
    """Encode a job as JSON (ARQ's default is pickle, which a foreign writer to Redis could abuse)."""
    return orjson.dumps(job, default=str)


def deserialize(data: bytes) -> dict[str, Any]:
    """Decode a job from JSON."""
    job: dict[str, Any] = orjson.loads(data)
    return job


def create_redis_pool(url: str, **options: Any) -> ConnectionPool:  # noqa: ANN401 - the Redis client's own
    """Return a pool of connections to a Redis, or to whichever one the Sentinels call the master by then."""
    if not url.startswith("redis+sentinel://"):
        return ConnectionPool.from_url(url, **options)
    parts = urlsplit(url)
    hosts = [host.rpartition(":") for host in parts.netloc.rpartition("@")[2].split(",")]
    name, _, number = parts.path.removeprefix("/").partition("/")
    password = unquote(parts.password) if parts.password else None
    sentinels = Sentinel(  # type: ignore[no-untyped-call]  # the client types it not
        [(host or port, int(port) if host else _SENTINEL_PORT) for host, _, port in hosts],
        sentinel_kwargs={
            "socket_connect_timeout": _SENTINEL_SECONDS,
            "socket_timeout": _SENTINEL_SECONDS,
            "password": dict(parse_qsl(parts.query)).get("sentinel_password"),
        },
    )
    pool: ConnectionPool = SentinelConnectionPool(  # type: ignore[no-untyped-call]  # as above
        name,
        sentinels,
        db=int(number or 0),
        username=unquote(parts.username) if parts.username else None,
        password=password,
        **options,
    )
    return pool


def create_arq_pool(url: str) -> ArqRedis:
    """Build a Redis client that can enqueue jobs. It connects when first used, so a start needs no Redis."""
    pool = create_redis_pool(url, socket_connect_timeout=1, socket_timeout=1, health_check_interval=15)
    client = ArqRedis(pool, job_serializer=serialize, job_deserializer=deserialize, default_queue_name=DEFAULT_QUEUE)
    # Otherwise the client leaves the connections of a pool that it was given open when it is closed.
    client.auto_close_connection_pool = True
    return client


class Doorbell:
    """Delivers rings in the background of one process."""

    def __init__(self, pool: ArqRedis) -> None:
        self._pool = pool
        self._waiting: dict[Ring, None] = {}
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to deliver, in the running event loop."""
        self._stopping.clear()
        self._task = asyncio.create_task(self._deliver_until_stopped(), name="doorbell")

    async def stop(self) -> None:
        """Deliver what is waiting, once, and end; a Redis that does not answer delays it by one enqueue's deadline."""
        if self._task is None:
            return
        # Asked, not cancelled: the Redis client swallows a cancellation that comes in the middle of a command.
        self._stopping.set()
        self._wake.set()
        await self._task
        self._task = None

    def ring(self, rings: Sequence[Ring]) -> None:
        """Take rings to deliver; equal ones that wait together are one."""
        for ring in rings:
            self._waiting[ring] = None
        self._wake.set()

    async def _deliver_until_stopped(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            stopping = self._stopping.is_set()
            await self._deliver_waiting()
            if stopping:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(_SLOT_SECONDS):
                    await self._stopping.wait()

    async def _deliver_waiting(self) -> None:
        rings = deque(self._waiting)
        self._waiting = {}
        slot = int(time.time() / _SLOT_SECONDS)
        try:
            while rings:
                ring = rings[0]
                async with asyncio.timeout(_ENQUEUE_TIMEOUT_SECONDS):
                    await self._pool.enqueue_job(
                        ring.task,
                        *ring.args,
                        _job_id=":".join((ring.task, *ring.args, str(slot))),
                        _defer_until=datetime.fromtimestamp((slot + 1) * _SLOT_SECONDS, UTC),
                        _queue_name=_QUEUES.get(ring.task, DEFAULT_QUEUE),
                    )
                metrics.RINGS.labels(ring.task, "delivered").inc()
                rings.popleft()
        except (RedisError, OSError, TimeoutError) as error:
            # The others would wait as long, as much in vain.
            for ring in rings:
                metrics.RINGS.labels(ring.task, "failed").inc()
            logger.warning(
                "doorbell not answered; the sweep will find the work",
                extra={"rings": len(rings), "task": rings[0].task, "error": type(error).__name__},
            )
