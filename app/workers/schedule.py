"""The schedule: tasks that are due by PostgreSQL's clock, each run by one worker however many there are.

A task is claimed by moving its last-run time forward in one conditional statement. A schedule that was missed is
caught up once, by whoever comes first.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import sqlalchemy.exc
from sqlalchemy import func, literal
from sqlalchemy.dialects.postgresql import insert

from app.db import transaction
from app.models import CronRun
from app.workers.tasks import observed

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A task and how often it is due."""

    name: str
    interval_seconds: int
    run: Callable[[], Awaitable[object]]


async def run_schedule(tasks: Sequence[Scheduled], stop: asyncio.Event) -> None:
    """Run each task when it is due, until `stop`. One task that fails or lasts never delays another."""
    await asyncio.gather(*(_repeat(task, stop) for task in tasks))


async def run_if_due(task: Scheduled) -> bool:
    """Claim and run a task; False when it is not due or another worker has claimed it."""
    if not await _claim(task):
        return False
    await observed(task.name, task.run)
    return True


async def _repeat(task: Scheduled, stop: asyncio.Event) -> None:
    while not stop.is_set():
        try:
            await run_if_due(task)
        except (sqlalchemy.exc.SQLAlchemyError, OSError, TimeoutError) as error:
            logger.warning("schedule cannot reach PostgreSQL", extra={"task": task.name, "error": type(error).__name__})
        with suppress(TimeoutError):
            async with asyncio.timeout(min(_LOOK_SECONDS, task.interval_seconds)):
                await stop.wait()


async def _claim(task: Scheduled) -> bool:
    now = func.clock_timestamp()
    statement = (
        insert(CronRun)
        .values(name=task.name, last_run_at=now)
        .on_conflict_do_update(
            index_elements=[CronRun.name],
            set_={"last_run_at": now},
            where=CronRun.last_run_at <= now - func.make_interval(0, 0, 0, 0, 0, 0, literal(task.interval_seconds)),
        )
        .returning(CronRun.name)
    )
    async with transaction() as session:
        return (await session.execute(statement)).scalar() is not None
