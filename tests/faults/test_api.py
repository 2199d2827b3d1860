"""An API process that is killed, stopped or left by its clients: what was accepted is done, and nobody else suffers."""

import asyncio
import signal
import time
from contextlib import suppress

import httpx
import psutil
import pytest
from sqlalchemy import select, text

from app.config import Settings
from app.db import transaction
from app.models import WebhookEvent
from tests.faults.report import Note
from tests.faults.traffic import Books, Traffic, books, scaled, until_processed
from tests.service import Process, Service, wait_until
from tests.webhooks.sender import order_payload, signed_headers
from tests.webhooks.world import World, make_world

pytestmark = pytest.mark.fault

KILLS = scaled(2, 100)
STOPS = scaled(1, 5)
RATE = scaled(60, 300)
GUESTS = scaled(200, 1_000)


async def test_kill_9_of_the_api_between_commit_and_doorbell_loses_nothing(
    service: Service, settings_of_service: Settings, note: Note
) -> None:
    service.environment["SWEEP_INTERVAL_SECONDS"] = "1"
    api = await asyncio.to_thread(service.start_api)
    async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
        world = await make_world(settings_of_service, client)
        traffic = Traffic(world, rate=0, name="killed")
        for _ in range(KILLS):
            # A ring waits until its slot of time is over: whoever is killed on the last answer has not rung.
            await traffic.send_many(10)
            await asyncio.to_thread(api.kill)
            api = await asyncio.to_thread(service.start_api)
        began = time.monotonic()
        service.start("worker", "default")
        await until_processed(traffic.sent, seconds=60)
    found = await books(traffic.sent)
    note(
        8,
        f"kill -9 of the API after its answer, {KILLS} times",
        f"{traffic.sent} webhooks",
        lost=found.lost,
        doubled=found.doubled,
        errors=traffic.server_errors,
        recovered=time.monotonic() - began,
    )
    assert found == Books(0, 0)


async def test_clients_that_hang_up_leave_no_connection_checked_out(
    service: Service, settings_of_service: Settings, note: Note
) -> None:
    service.environment |= {"DB_POOL_SIZE": "5", "DB_MAX_OVERFLOW": "5"}
    await asyncio.to_thread(service.start_api)
    async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
        world = await make_world(settings_of_service, client)

        async def hang_up(number: int) -> None:
            key = f"left-{number}"
            body = httpx.Request(
                "POST", "http://x", json=order_payload("created", key, world.click.id, amount=1_000, commission=100)
            ).content
            head = "".join(f"{name}: {value}\r\n" for name, value in signed_headers(body, message_id=key).items())
            _, writer = await asyncio.open_connection("127.0.0.1", service.port)
            path = f"/v1/webhooks/{world.source.source_key}"
            writer.write(
                f"POST {path} HTTP/1.1\r\nhost: x\r\n{head}content-length: {len(body)}\r\n\r\n".encode() + body
            )
            with suppress(OSError):
                await writer.drain()
                writer.transport.abort()

        for start in range(0, GUESTS, 100):
            await asyncio.gather(*(hang_up(number) for number in range(start, start + 100)))
        left = time.monotonic()

        async def in_use() -> float:
            lines = (await client.get("/metrics")).text.splitlines()
            (line,) = [line for line in lines if line.startswith("db_pool_connections_in_use ")]
            return float(line.rpartition(" ")[2])

        # The scrape holds one itself, while it counts.
        while await in_use() > 1:
            assert time.monotonic() - left < scaled(10, 2)
            await asyncio.sleep(0.05)
        recovered = time.monotonic() - left
        async with transaction() as session:
            backends = await session.scalar(
                text(
                    "SELECT count(*) FROM pg_stat_activity"
                    " WHERE application_name = 'cashback-api' AND state <> 'idle in transaction'"
                )
            )
        assert backends is not None
        assert backends <= 10
        assert (await client.get("/v1/merchants")).status_code == 200
    note(14, "clients hang up in mid-request", f"{GUESTS} clients, {backends} backends", recovered=recovered)


async def test_sigterm_of_the_api_fails_no_request_that_it_has_read(
    service: Service, settings_of_service: Settings, note: Note
) -> None:
    """What it has read is answered. What comes on a connection that is just being closed is sent again elsewhere."""
    api = await asyncio.to_thread(service.start_api)
    async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
        world = await make_world(settings_of_service, client)
        total, failed, slowest = 0, 0, 0.0
        for stop in range(STOPS):
            outcome = await _stopped_under_load(api, world, f"stop-{stop}")
            total, failed, slowest = total + outcome[0], failed + outcome[1], max(slowest, outcome[2])
            api = await asyncio.to_thread(service.start_api)
        service.start("worker", "default")
        await until_processed(total, seconds=60)
    found = await books(total)
    note(
        16,
        f"SIGTERM of the API, {STOPS} times",
        f"{RATE} webhooks/s",
        lost=found.lost,
        doubled=found.doubled,
        errors=failed,
        recovered=slowest,
    )
    assert failed == 0
    assert found.doubled == 0
    assert found.lost == 0


async def _stopped_under_load(api: Process, world: World, name: str) -> tuple[int, int, float]:
    """Stop it in the middle of traffic; returns what was answered 202, what failed after it was read, and the time.

    A request that crosses the closing of its connection ends as one that was read and not answered. The API's own log
    and what it has stored tell them apart.
    """
    answered, failed = 0, 0
    unanswered: list[str] = []
    stopping = asyncio.Event()

    async def send(number: int) -> None:
        nonlocal answered, failed
        key = f"{name}-{number}"
        try:
            answer = await world.post("created", key, message_id=key, amount=1_000, commission=100)
        except httpx.ConnectError:
            # Nobody listens any more: an ingress sends it elsewhere.
            return
        except httpx.HTTPError:
            unanswered.append(key)
            return
        answered += answer.status_code == 202
        failed += answer.status_code >= 500

    async def flow() -> None:
        async with asyncio.TaskGroup() as group:
            number = 0
            while not stopping.is_set():
                group.create_task(send(number))
                number += 1
                await asyncio.sleep(1 / RATE)

    flowing = asyncio.create_task(flow())
    await asyncio.sleep(1)
    began = time.monotonic()
    api.signal(signal.SIGTERM)
    await asyncio.sleep(0.2)
    stopping.set()
    await flowing
    assert await asyncio.to_thread(api.popen.wait, 30) == 0
    ended = time.monotonic() - began
    failed += sum(line["message"] == "request" and line["status"] == 499 for line in api.log_lines())
    async with transaction() as session:
        stored = WebhookEvent.dedupe_key.in_(unanswered)
        failed += len((await session.scalars(select(WebhookEvent.id).where(stored))).all())
    return answered, failed, ended


def test_a_worker_waits_for_its_database_and_gives_up_at_its_deadline(service: Service) -> None:
    service.environment |= {"DATABASE_URL": "postgresql://nobody:x@127.0.0.1:1/none", "STARTUP_WAIT_SECONDS": "1"}
    worker = service.start("worker", "default")
    assert worker.popen.wait(60) == 1
    assert "waiting for the database" in [line["message"] for line in worker.log_lines()]


async def test_neither_api_nor_worker_serves_a_schema_older_than_its_code(
    service: Service, settings_of_service: Settings
) -> None:
    async def move(version: str) -> None:
        async with transaction() as session:
            await session.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})

    async with transaction() as session:
        newest = await session.scalar(text("SELECT version_num FROM alembic_version"))
    await move("c32ef2aada13")
    service.start("serve")
    worker = service.start("worker", "sync")
    async with httpx.AsyncClient(base_url=service.url, timeout=5) as client:
        answer = await asyncio.to_thread(
            lambda: wait_until(lambda: httpx.get(f"{service.url}/readyz"), seconds=60, what="the API answers")
        )
        assert answer.status_code == 503
        assert answer.json()["detail"] == (
            f"postgres: the schema is at c32ef2aada13, this version needs {newest}: run `cashback migrate`"
        )
        await asyncio.to_thread(
            lambda: wait_until(worker.log_lines, seconds=60, what="the worker says what it waits for")
        )
        assert "worker started" not in [line["message"] for line in worker.log_lines()]
        # A newer one, of the version that is being rolled out, is served.
        await move("f" * 12)
        assert (await client.get("/readyz")).status_code == 200
    await asyncio.to_thread(
        lambda: wait_until(
            lambda: "worker started" in [line["message"] for line in worker.log_lines()], seconds=20, what="it starts"
        )
    )
    assert psutil.pid_exists(worker.popen.pid)
