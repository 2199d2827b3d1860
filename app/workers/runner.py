"""Runs one job worker process: ARQ for what is rung, a schedule for what is due, and a clean stop.

ARQ's own worker exits when Redis stays away, and its cron needs Redis. Here the schedule runs on PostgreSQL alone and
ARQ is started again when Redis is back, so that an outage of Redis only makes work wait for the sweep.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from arq.connections import ArqRedis
from arq.worker import Function, Worker
from prometheus_client import start_http_server
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError

from app import db, metrics
from app.config import Settings
from app.doorbell import Doorbell, create_arq_pool, create_redis_pool, deserialize, serialize
from app.garbage import spare_what_is_loaded
from app.schema_version import wait_for_schema
from app.workers.schedule import Scheduled, run_schedule

logger = logging.getLogger(__name__)

# A ring waits at most this long for its worker; each poll is one round trip to Redis.
_POLL_SECONDS = 0.1
_RESTART_SECONDS = 1.0
_REDIS_RETRIES = 5
_CANCEL_SECONDS = 5.0
_CANCEL_AGAIN_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class WorkerKind:
    """What one kind of worker process does."""

    name: str
    queue: str
    functions: Sequence[Function]
    schedule: Sequence[Scheduled]
    max_jobs: int


async def run_worker(settings: Settings, kind: WorkerKind, *, stop: asyncio.Event | None = None) -> None:
    """Run until SIGTERM, SIGINT or `stop`; then give running jobs `shutdown_grace_seconds` and end."""
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if settings.worker_metrics_port is not None:
        start_http_server(settings.worker_metrics_port)
    engine = await db.open_database(
        settings,
        application_name=f"cashback-worker-{kind.name}",
        pool_size=settings.db_worker_pool_size,
        max_overflow=settings.db_worker_pool_size,
    )
    try:
        await wait_for_schema(engine, seconds=settings.startup_wait_seconds, stop=stop)
    except BaseException:
        await db.close_database()
        raise
    pool = create_arq_pool(settings.redis_url)
    doorbell = Doorbell(pool)
    doorbell.start()
    db.set_bell(doorbell.ring)
    spare_what_is_loaded()
    logger.info("worker started", extra={"queue": kind.queue, "functions": [f.name for f in kind.functions]})
    schedule = asyncio.create_task(run_schedule(kind.schedule, stop), name="schedule")
    try:
        while not stop.is_set():
            await _serve_queue(settings, kind, stop)
            with suppress(TimeoutError):
                async with asyncio.timeout(_RESTART_SECONDS):
                    await stop.wait()
    finally:
        await _finish(schedule, settings.shutdown_grace_seconds)
        db.set_bell(None)
        await doorbell.stop()
        await pool.aclose()
        await db.close_database()
        metrics.forget_process(os.getpid())
        logger.info("worker stopped")


async def _serve_queue(settings: Settings, kind: WorkerKind, stop: asyncio.Event) -> None:
    """Serve the queue with one ARQ worker until `stop`, or until Redis has stayed away too long."""
    worker = Worker(
        functions=kind.functions,
        queue_name=kind.queue,
        redis_pool=_create_worker_pool(settings.redis_url, kind.queue),
        handle_signals=False,
        max_jobs=kind.max_jobs,
        poll_delay=_POLL_SECONDS,
        # Results live in PostgreSQL; a kept result would also keep its job id taken.
        keep_result=0,
        # The default key is shared by all workers of a queue and would hide a dead one.
        health_check_key=f"{kind.queue}:health:{os.uname().nodename}:{os.getpid()}",
        health_check_interval=30,
        job_serializer=serialize,
        job_deserializer=deserialize,
        log_results=False,
    )
    serving = asyncio.create_task(worker.async_run(), name="arq")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        worker.allow_pick_jobs = False
        if running := list(worker.tasks.values()):
            await asyncio.wait(running, timeout=settings.shutdown_grace_seconds)
    except (RedisError, OSError, TimeoutError) as error:
        logger.warning("Redis does not answer; the schedule goes on without it", extra={"error": type(error).__name__})
    finally:
        stopping.cancel()
        await _close(worker, serving)


async def _close(worker: Worker, serving: asyncio.Task[None]) -> None:
    """Cancel what still runs (its rows are found by the sweep) and let go of Redis, which may not answer."""
    await _cancel({serving, *worker.tasks.values(), *worker.job_tasks.values()})
    with suppress(RedisError, OSError, TimeoutError, asyncio.CancelledError):
        async with asyncio.timeout(1):
            await worker.pool.delete(worker.health_check_key)
    with suppress(RedisError, OSError, TimeoutError):
        async with asyncio.timeout(1):
            await worker.pool.aclose(close_connection_pool=True)


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they end: the Redis client swallows a cancellation that comes in the middle of a command."""
    deadline = time.monotonic() + _CANCEL_SECONDS
    while tasks and time.monotonic() < deadline:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=_CANCEL_AGAIN_SECONDS)
    if tasks:
        logger.warning("tasks do not end", extra={"tasks": [task.get_name() for task in tasks]})


async def _finish(task: asyncio.Task[None], grace_seconds: int) -> None:
    _, unfinished = await asyncio.wait({task}, timeout=grace_seconds)
    if unfinished:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _create_worker_pool(url: str, queue: str) -> ArqRedis:
    pool = create_redis_pool(
        url,
        socket_connect_timeout=1,
        socket_timeout=2,
        retry=Retry(ExponentialBackoff(cap=1, base=0.05), _REDIS_RETRIES),
        retry_on_error=[ConnectionError, TimeoutError, RedisError],
    )
    return ArqRedis(pool, job_serializer=serialize, job_deserializer=deserialize, default_queue_name=queue)
