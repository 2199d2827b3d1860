"""A worker stops when it is told to, whatever its tasks do with a cancellation."""

import asyncio

from app.workers.runner import _cancel


async def test_a_task_that_swallows_cancellations_is_cancelled_again() -> None:
    swallowed = 0
    started = asyncio.Event()

    async def stubborn() -> None:
        nonlocal swallowed
        started.set()
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                # As redis-py does when it is interrupted while it reads an answer.
                if swallowed == 2:
                    raise
                swallowed += 1

    task = asyncio.create_task(stubborn())
    await started.wait()
    await _cancel({task})
    assert task.cancelled()
    assert swallowed == 2


async def test_a_failed_task_does_not_hinder_the_others() -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    async def waiting() -> None:
        await asyncio.sleep(3600)

    tasks = {asyncio.create_task(broken()), asyncio.create_task(waiting())}
    await asyncio.sleep(0)
    await _cancel(set(tasks))
    assert all(task.done() for task in tasks)
    for task in tasks:
        if not task.cancelled():
            assert isinstance(task.exception(), ZeroDivisionError)
