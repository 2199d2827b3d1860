"""Workers that are killed again and again, events that nobody can process, and schedules that were missed."""

import asyncio
import time

import httpx
import pytest
from sqlalchemy import select, text

from app.config import Settings
from app.db import transaction
from app.models import StaffRole, WebhookEvent, WebhookStatus
from tests.factories import staff_headers
from tests.faults.report import Note
from tests.faults.traffic import Books, Traffic, books, processed, scaled, until_processed
from tests.service import Service
from tests.webhooks.world import make_world

pytestmark = pytest.mark.fault

KILLS = scaled(3, 20)
CREDITS = scaled(600, 10_000)
TRIES = 5


async def test_kill_9_of_the_worker_again_and_again_credits_each_once(
    service: Service, settings_of_service: Settings, note: Note
) -> None:
    service.environment["SWEEP_INTERVAL_SECONDS"] = "1"
    service.start_api()
    async with httpx.AsyncClient(base_url=service.url, timeout=10) as client:
        traffic = Traffic(await make_world(settings_of_service, client), rate=0)
        for _ in range(KILLS):
            await traffic.send_many(CREDITS // KILLS)
            before = await processed()
            worker = service.start("worker", "default")
            async with asyncio.timeout(60):
                # In the middle of it: some are done and others are not.
                while await processed() == before:
                    await asyncio.sleep(0.002)
            await asyncio.to_thread(worker.kill)
        began = time.monotonic()
        service.start("worker", "default")
        await until_processed(traffic.sent, seconds=120)
    found = await books(traffic.sent)
    note(
        6,
        f"kill -9 of the worker, {KILLS} times",
        f"{traffic.sent} credits",
        lost=found.lost,
        doubled=found.doubled,
        recovered=time.monotonic() - began,
    )
    assert found == Books(0, 0)


async def test_a_poison_event_dies_with_its_reason_and_a_replay_mends_it(
    service: Service, settings_of_service: Settings, note: Note
) -> None:
    service.environment["SWEEP_INTERVAL_SECONDS"] = "1"
    service.environment["WEBHOOK_MAX_TRIES"] = str(TRIES)
    service.start_api()
    service.start("worker", "default")
    async with httpx.AsyncClient(base_url=service.url, timeout=10) as client:
        world = await make_world(settings_of_service, client)
        async with transaction() as session:
            headers = await staff_headers(session, StaffRole.OPERATOR)
            for statement in (
                "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'poison'; END $$",
                """CREATE TRIGGER poison BEFORE INSERT ON orders FOR EACH ROW
                WHEN (NEW.external_id = 'poison') EXECUTE FUNCTION poison()""",
            ):
                await session.execute(text(statement))
        poisoned = await world.post("created", "poison", amount=1_000, commission=100)
        for number in range(20):
            assert (await world.post("created", f"good-{number}", amount=1_000, commission=100)).status_code == 202
        await until_processed(20, seconds=60)
        async with asyncio.timeout(90):
            while (event := await world.event(poisoned.json()["event_id"])).status is not WebhookStatus.DEAD:
                async with transaction() as session:
                    # The waits between its tries double; the test has no time for them.
                    await session.execute(
                        text("UPDATE webhook_events SET next_attempt_at = now() WHERE status = 'received'")
                    )
                await asyncio.sleep(0.1)
        assert event.tries == TRIES
        assert event.reason
        metrics = (await client.get("/metrics")).text
        assert 'webhook_inbox_events{status="dead"} 1.0' in metrics

        async with transaction() as session:
            await session.execute(text("DROP TRIGGER poison ON orders"))
        began = time.monotonic()
        replayed = await client.post(f"/v1/admin/webhook-events/{event.id}/replay", headers=headers)
        assert replayed.status_code == 202
        await until_processed(21, seconds=60)
    found = await books(21)
    note(
        9,
        f"poison event, {TRIES} tries, then replay",
        "20 good events",
        lost=found.lost,
        doubled=found.doubled,
        recovered=time.monotonic() - began,
    )
    assert found == Books(0, 0)


async def test_of_two_workers_one_catches_a_missed_schedule_up_once(
    service: Service, settings_of_service: Settings, note: Note
) -> None:
    async with transaction() as session:
        for statement in (
            "INSERT INTO cron_runs (name, last_run_at) VALUES ('expire_orders', now() - interval '3 hours')",
            "CREATE TABLE claims_of_runs (name text)",
            """CREATE FUNCTION count_run() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO claims_of_runs VALUES (NEW.name); RETURN NEW; END $$""",
            "CREATE TRIGGER count_run AFTER INSERT OR UPDATE ON cron_runs FOR EACH ROW EXECUTE FUNCTION count_run()",
        ):
            await session.execute(text(statement))

    async def counts() -> dict[str, int]:
        async with transaction() as session:
            rows = await session.execute(text("SELECT name, count(*) FROM claims_of_runs GROUP BY name"))
            return {name: count for name, count in rows}  # noqa: C416 - rows are no pairs to mypy

    service.environment["SWEEP_INTERVAL_SECONDS"] = "1"
    workers = [service.start("worker", "default") for _ in range(2)]
    async with asyncio.timeout(60):
        # Both have looked several times by then.
        while (await counts()).get("sweep_webhooks", 0) < 4 or not all(worker.log_lines() for worker in workers):
            await asyncio.sleep(0.1)
    found = await counts()
    hourly = {name: found[name] for name in ("expire_orders", "keep_retention", "write_off_due")}
    note(10, "2 workers, schedule missed for 3 h", "hourly tasks", doubled=sum(hourly.values()) - len(hourly))
    assert hourly == dict.fromkeys(hourly, 1)
    async with transaction() as session:
        assert (await session.scalars(select(WebhookEvent))).all() == []
