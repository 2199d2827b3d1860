"""The schedule runs each task once, whoever looks, and catches up what was missed."""

import asyncio
import logging
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from app.config import Settings
from app.db import transaction
from app.models import CronRun
from app.workers.schedule import Scheduled, run_if_due, run_schedule


class Counted:
    """A task that counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    async def __call__(self) -> None:
        self.runs += 1


@pytest.mark.usefixtures("committed_db")
async def test_of_many_workers_one_runs_a_due_task() -> None:
    counted = Counted()
    task = Scheduled("test_task", 3600, counted)
    outcomes = await asyncio.gather(*(run_if_due(task) for _ in range(10)))
    assert sorted(outcomes) == [False] * 9 + [True]
    assert counted.runs == 1


@pytest.mark.usefixtures("committed_db")
async def test_a_schedule_missed_for_hours_is_caught_up_once() -> None:
    counted = Counted()
    task = Scheduled("test_task", 60, counted)
    await run_if_due(task)
    async with transaction() as session:
        await session.execute(update(CronRun).values(last_run_at=CronRun.last_run_at - timedelta(hours=5)))
    assert [await run_if_due(task) for _ in range(3)] == [True, False, False]
    assert counted.runs == 2


@pytest.mark.usefixtures("committed_db")
async def test_a_failing_task_delays_no_other_and_is_tried_at_its_next_time() -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    counted = Counted()
    stop = asyncio.Event()
    tasks = [Scheduled("broken", 60, broken), Scheduled("counted", 60, counted)]
    running = asyncio.create_task(run_schedule(tasks, stop))
    async with asyncio.timeout(10):
        while True:
            async with transaction() as session:
                claimed = (await session.scalars(select(func.count()).select_from(CronRun))).one()
            if claimed == 2 and counted.runs == 1:
                break
            await asyncio.sleep(0.01)
    stop.set()
    await running


async def test_without_postgres_the_schedule_goes_on_looking(
    committed_db: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    from app import db  # noqa: PLC0415 - replaced for this test alone

    away = committed_db.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/nothing"})
    stop = asyncio.Event()
    await db.close_database()
    away.__dict__.pop("sqlalchemy_url", None)
    await db.open_database(away, application_name="tests", pool_size=1, max_overflow=0)
    caplog.set_level(logging.WARNING, logger="app.workers.schedule")
    running = asyncio.create_task(run_schedule([Scheduled("counted", 60, Counted())], stop))
    async with asyncio.timeout(10):
        while "schedule cannot reach PostgreSQL" not in caplog.messages:
            await asyncio.sleep(0.01)
    assert not running.done()
    stop.set()
    await running
    await db.close_database()
    await db.open_database(committed_db, application_name="tests", pool_size=1, max_overflow=0)
