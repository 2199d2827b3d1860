"""What every job has around it: a request id in its logs, its duration in the metrics, and no exception let out.

ARQ's retries are not used. What a failed job leaves undone is a row in PostgreSQL, and the sweep rings for it again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from time import perf_counter
from typing import Any, TypeVar

from arq.worker import Function, func
from sqlalchemy.ext.asyncio import AsyncSession

from app import metrics
from app.db import is_unavailable, transaction
from app.ids import new_id
from app.logs import bound_request_id

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


def job(run: Callable[..., Awaitable[object]], *, timeout_seconds: int) -> Function:
    """Make an ARQ function of `run(*ids)`; its name is the name that is rung."""
    name = run.__name__

    async def task(ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG001 - ARQ's signature
        await observed(name, lambda: run(*args))

    return func(task, name=name, timeout=timeout_seconds, max_tries=1, keep_result=0)


async def observed(name: str, run: Callable[[], Awaitable[object]]) -> None:
    """Run a task, measured and logged. An exception is logged with its traceback and goes no further."""
    started = perf_counter()
    outcome = "cancelled"
    # A task that serves one request binds that request's id itself, once it has loaded the row.
    with bound_request_id(f"job-{new_id()}"):
        try:
            await run()
            outcome = "succeeded"
        except Exception:
            outcome = "failed"
            logger.exception("job failed; its rows stay for the sweep", extra={"task": name})
        finally:
            metrics.JOB_DURATION.labels(name, outcome).observe(perf_counter() - started)


async def one_by_one(
    task: str, items: Iterable[Item], work: Callable[[AsyncSession, Item], Awaitable[Result]]
) -> list[tuple[Item, Result]]:
    """Work on each item in a transaction of its own; returns those that were done, each with what the work returned.

    One that fails is logged, stays undone, and delays no other.
    """
    done = []
    for item in items:
        try:
            async with transaction() as session:
                result = await work(session, item)
            done.append((item, result))
        except Exception as error:
            if is_unavailable(error):
                logger.warning("item postponed", extra={"task": task, "item": str(item), "error": type(error).__name__})
                continue
            logger.exception("item failed; the next run tries it again", extra={"task": task, "item": str(item)})
    return done


async def uninterrupted(step: Coroutine[Any, Any, None]) -> None:
    """Finish a short step although this task is being cancelled, perhaps more than once."""
    task = asyncio.create_task(step)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
