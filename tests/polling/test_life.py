"""The life of a poll: refused, slowed down, broken, killed between pages, paused, taken over; and what staff see."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.db import transaction
from app.ids import new_id
from app.models import Poller, StaffRole
from app.services import alerts
from app.services.polling import claims
from app.services.polling.fetch import PageFetcher
from app.services.polling.progress import present_pass, window_end
from app.services.webhooks.polled import hear
from app.workers.polling import ring_due_polls, source_poll
from tests.factories import staff_headers
from tests.feed_server import Reply
from tests.polling.conftest import Make
from tests.polling.networks import Awin, Cj, Impact, Network, Partnerize
from tests.polling.world import World, local_definition


async def poll_pages(world: World, pages: int) -> claims.PollClaim:
    """Do what a worker does until it is killed after so many pages."""
    async with transaction() as session:
        claim = await claims.claim(session, world.settings, source_id=world.source.id)
    assert claim is not None
    polling = claim.version.definition.polling
    assert polling is not None
    fetcher = PageFetcher(
        world.settings,
        polling,
        values=claim.values,
        credentials_encrypted=claim.credentials_encrypted,
        credentials_origin=claim.credentials_origin,
    )
    progress = claim.progress
    for _ in range(pages):
        one = present_pass(polling, progress)
        page = await fetcher.fetch(one, progress.position, start=progress.start, end=window_end(one, progress))
        async with transaction() as session:
            heard = hear(claim.version, page.items)
            step = await claims.keep_page(
                session, world.settings, claim=claim, progress=progress, page=page, heard=heard
            )
        assert step.progress is not None
        progress = step.progress
    return claim


@pytest.mark.parametrize("network", [Cj, Impact, Partnerize], ids=lambda network: network.preset)
async def test_a_poll_killed_between_pages_loses_and_doubles_nothing(make: Make, network: type[Network]) -> None:
    world = await make(network)
    for number in range(1, 9):
        world.sale(number, days_ago=1 + number / 100)
    killed = await poll_pages(world, 4)
    asked = len(world.network.asked)
    assert asked == 4
    # Its claim holds until it has run out; then another goes on where it was.
    await source_poll(world.settings)(str(world.source.id))
    assert len(world.network.asked) == asked
    await world.set(claimed_until=datetime.now(UTC) - timedelta(seconds=1))
    await world.work()
    state = await world.state()
    assert (state["last_error"], state["has_unfinished"], state["is_running"]) == (None, False, False)
    assert len(await world.orders()) == 8
    assert await world.events() == (16 if network is Partnerize else 8)
    whole = await make(network, prefix="/whole")
    whole.network.sales = world.network.sales
    await whole.poll()
    # Nothing was asked twice, and the one that was killed writes nothing more.
    assert len(world.network.asked) == len(whole.network.asked)
    async with transaction() as session:
        with pytest.raises(claims.PollClaimLostError):
            await claims.put_back(session, claim=killed)


async def test_of_two_workers_one_polls(make: Make) -> None:
    world = await make(Awin)
    world.sale(1)
    poll = source_poll(world.settings)
    await asyncio.gather(*(poll(str(world.source.id)) for _ in range(4)))
    # Ninety days by each of two dates, in windows of thirty, and the last day once more.
    assert len(world.network.asked) == 3 + 3 + 1
    assert await world.events() == 1


async def test_what_has_not_changed_adds_no_event_and_what_changes_back_does(make: Make) -> None:
    world = await make(Awin)
    world.sale(1, sale=10_000, days_ago=0.5)
    first = await world.poll()
    # Found by its date and once more by looking back.
    assert (first["fetched"], first["added"]) == (2, 1)
    again = await world.poll(everything=True)
    assert (again["fetched"], again["added"]) == (2, 0)
    for sale in (8_000, 10_000):
        world.network.change(1, "pending", sale=sale)
        await world.poll(everything=True)
        assert await world.orders() == {"1": ("pending", sale, 1_000)}
    assert await world.events() == 3


TROUBLES = [
    (Reply(b"{}", status=403), "answered 403"),
    (Reply(b'[{"id": 1'), "no JSON"),
    (Reply(b'{"items": []}'), "no list of items"),
    (Reply(b"[" + b" " * (33 * 1024**2) + b"]"), "larger than"),
    (Reply(b"", status=429, headers={"Retry-After": "900"}), "come back in 900 s"),
    (Reply(b"", status=302, headers={"Location": "file:///etc/passwd"}), "is not an http"),
]


async def test_a_poll_that_fails_says_why_and_goes_on_later(make: Make) -> None:
    world = await make(Awin)
    world.sale(1)
    for failures, (trouble, error) in enumerate(TROUBLES, start=1):
        world.network.troubles = [trouble]
        await world.set(next_poll_at=datetime.now(UTC) - timedelta(seconds=1))
        before = datetime.now(UTC)
        await world.work()
        state = await world.state()
        assert error in state["last_error"]
        assert (state["failures"], state["has_unfinished"], state["last_success_at"]) == (failures, True, None)
        wait = datetime.fromisoformat(state["next_poll_at"]) - before
        # A minute and then ever longer, but no longer than from one poll to the next, and as long as it asks for.
        least = 900 if "900" in error else min(60 * 2 ** (failures - 1), 1800) * 0.75
        assert timedelta(seconds=least) < wait < timedelta(seconds=1830)
    # Not due yet.
    asked = len(world.network.asked)
    await world.work()
    assert len(world.network.asked) == asked
    state = await world.poll()
    assert (state["failures"], state["last_error"], state["has_unfinished"]) == (0, None, False)
    assert await world.orders() == {"1": ("pending", 10_000, 1_000)}


async def test_a_server_that_is_busy_is_asked_again_within_the_poll(make: Make) -> None:
    world = await make(Impact)
    world.sale(1)
    world.network.troubles = [
        Reply(b"", status=429, headers={"Retry-After": "0"}),
        Reply(b"", status=503),
    ]
    assert (await world.poll())["failures"] == 0
    assert len(await world.orders()) == 1


async def test_an_answer_of_200_that_says_it_failed_is_no_empty_page(make: Make) -> None:
    world = await make(Cj)
    body = {"values": {"publisher_id": "56"}, "interval_seconds": 3600}
    answer = await world.client.put(f"{world.path}/polling", json=body, headers=world.staff)
    assert answer.json()["missing"] == []
    state = await world.poll()
    assert "says that the request failed" in state["last_error"]
    assert state["watermarks"] == {}


async def test_without_its_credentials_a_source_is_not_asked(make: Make) -> None:
    world = await make(Awin)
    body = {"values": world.network.values, "credentials": None}
    answer = await world.client.put(f"{world.path}/polling", json=body, headers=world.staff)
    assert answer.json()["missing"] == ["credentials"]
    state = await world.poll()
    assert "no credentials" in state["last_error"]
    wrong = {"values": world.network.values, "credentials": {"kind": "bearer", "token": "another"}}
    await world.client.put(f"{world.path}/polling", json=wrong, headers=world.staff)
    assert "answered 401" in (await world.poll())["last_error"]
    assert "another" not in str(await world.state())


async def test_credentials_go_to_no_other_host_than_they_were_given_for(make: Make) -> None:
    world = await make(Awin)
    definition = local_definition("awin", world.server).model_dump(mode="json", by_alias=True, exclude_defaults=True)
    definition["polling"]["url"] = definition["polling"]["url"].replace("127.0.0.1", "localhost")
    answer = await world.client.put(f"{world.path}/definition", json=definition, headers=world.staff)
    assert answer.status_code == 200
    assert (await world.state())["missing"] == ["credentials"]
    assert "give them again" in (await world.poll())["last_error"]
    tried = await world.client.post(f"{world.path}/poll/dry-run", json={}, headers=world.staff)
    assert "give them again" in tried.json()["error"]
    assert world.server.requests == []


async def test_a_dry_run_shows_a_page_and_keeps_nothing(make: Make) -> None:
    world = await make(Partnerize)
    world.sale(1, days_ago=0.5, sale=9_900, commission=990)
    body = {"hours": 48, "pass": "look_back"}
    answer = await world.client.post(f"{world.path}/poll/dry-run", json=body, headers=world.staff)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["items"], found["has_next_page"], found["error"]) == (2, False, None)
    mapped = found["events"][0]["mapped"]
    assert (mapped["order_reference"], mapped["amount_minor"], mapped["part"]) == ("1011l1", 4_950, "1-0")
    assert found["events"][0]["problems"] == []
    assert (await world.events(), (await world.state())["last_attempt_at"]) == (0, None)
    definition = local_definition("partnerize", world.server).model_dump(
        mode="json", by_alias=True, exclude_defaults=True
    )
    definition["reading"]["statuses"] = {"nothing-of-this": "created"}
    broken = {**body, "definition": definition}
    tried = await world.client.post(f"{world.path}/poll/dry-run", json=broken, headers=world.staff)
    assert tried.json()["events"][0]["problems"][0]["field"] == "status"
    unknown = await world.client.post(f"{world.path}/poll/dry-run", json={"pass": "x"}, headers=world.staff)
    assert (unknown.status_code, unknown.json()["code"]) == (422, "invalid_polling")


async def test_a_paused_source_is_not_polled_and_keeps_nothing_more(make: Make) -> None:
    world = await make(Impact)
    for number in range(1, 9):
        world.sale(number)
    claim = await poll_pages(world, 4)
    answer = await world.client.patch(f"{world.path}/polling", json={"enabled": False}, headers=world.staff)
    assert (answer.json()["enabled"], answer.json()["is_running"]) == (False, False)
    async with transaction() as session:
        with pytest.raises(claims.PollClaimLostError):
            await claims.put_back(session, claim=claim)
    asked = len(world.network.asked)
    await world.work()
    assert len(world.network.asked) == asked
    refused = await world.client.post(f"{world.path}/poll", headers=world.staff)
    assert (refused.status_code, refused.json()["code"]) == (409, "polling_paused")
    await world.client.patch(f"{world.path}/polling", json={"enabled": True}, headers=world.staff)
    await world.work()
    assert len(await world.orders()) == 8


async def test_polls_that_fail_raise_an_alert_until_one_succeeds(make: Make) -> None:
    world = await make(Awin)
    async with transaction() as session:
        assert await alerts.look(session) == 0
    world.network.troubles = [Reply(b"[", status=200)] * 3
    for _ in range(3):
        await world.poll()
    async with transaction() as session:
        assert await alerts.look(session) == 1
        viewer = await staff_headers(session, StaffRole.VIEWER)
    shown = await world.client.get("/v1/admin/alerts", headers=viewer)
    (alert,) = shown.json()["items"]
    assert (alert["kind"], alert["source_id"]) == ("failing_source", world.source.id)
    assert (alert["details"]["failed_polls"], "no JSON" in alert["details"]["poll_error"]) == (3, True)
    metrics = (await world.client.get("/metrics")).text
    assert "polling_failing_sources 1.0" in metrics
    assert 'polls_total{outcome="failed",preset="own"}' in metrics
    await world.poll()
    async with transaction() as session:
        assert await alerts.look(session) == 0
    # One that nobody polls is as bad.
    await world.set(last_success_at=datetime.now(UTC) - timedelta(days=1))
    async with transaction() as session:
        assert await alerts.look(session) == 1


async def test_the_schedule_rings_for_what_is_due(make: Make) -> None:
    world = await make(Awin)
    assert await ring_due_polls() == 1
    await world.poll()
    assert await ring_due_polls() == 0
    due = datetime.now(UTC) - timedelta(seconds=1)
    lost = {"attempt_id": new_id(), "claimed_until": due}
    await world.set(next_poll_at=due, **lost)
    assert await ring_due_polls() == 1
    await world.set(claimed_until=datetime.now(UTC) + timedelta(minutes=1))
    assert await ring_due_polls() == 0


async def test_who_may_do_what_with_polling(make: Make) -> None:
    world = await make(Awin)
    async with transaction() as session:
        viewer = await staff_headers(session, StaffRole.VIEWER)
        operator = await staff_headers(session, StaffRole.OPERATOR)
    calls: list[tuple[str, str, Any, dict[str, str], int]] = [
        ("GET", "/polling", None, viewer, 200),
        ("POST", "/poll", None, viewer, 403),
        ("POST", "/poll/dry-run", {}, viewer, 403),
        ("PATCH", "/polling", {"enabled": True}, viewer, 403),
        ("PUT", "/polling", {}, operator, 403),
        ("POST", "/poll", None, operator, 202),
        ("POST", "/poll/dry-run", {}, operator, 200),
        ("PATCH", "/polling", {"enabled": True}, operator, 200),
        ("PUT", "/polling", {"values": {"nothing": "x"}}, world.staff, 422),
        ("PUT", "/polling", {"credentials": {"kind": "basic", "username": "a", "password": "b"}}, world.staff, 422),
    ]
    for method, path, body, headers, status in calls:
        answer = await world.client.request(method, f"{world.path}{path}", json=body, headers=headers)
        assert answer.status_code == status, (method, path, answer.text)
    async with transaction() as session:
        poller = await session.get_one(Poller, world.source.id)
        assert b"a-token" not in (poller.credentials_encrypted or b"")
