"""A dry run shows what would happen, down to the postings, and leaves nothing behind."""

from typing import Any

import pytest
from sqlalchemy import func, select

from app.db import transaction
from app.models import Base, StaffRole
from tests.factories import make_click, make_customer, make_merchant, make_source, staff_headers
from tests.webhooks.batches import batches
from tests.webhooks.sender import order_payload, signed_headers
from tests.webhooks.world import World


async def row_counts() -> dict[str, int]:
    """How many rows every table has, but for the one that notes who asked for a dry run."""
    async with transaction() as session:
        return {
            table.name: await session.scalar(select(func.count()).select_from(table)) or 0
            for table in Base.metadata.tables.values()
            if table.name != "audit_log"
        }


async def run(world: World, body: dict[str, Any], *, source_id: int | None = None, status: int = 200) -> dict[str, Any]:
    """Ask for a dry run; nothing may have changed after it."""
    async with transaction() as session:
        headers = await staff_headers(session, StaffRole.OPERATOR)
    before = await row_counts()
    answer = await world.client.post(
        f"/v1/admin/sources/{source_id or world.source.id}/dry-run", json=body, headers=headers
    )
    assert answer.status_code == status, answer.text
    assert await row_counts() == before
    found: dict[str, Any] = answer.json()
    return found


def sale(world: World, order_id: str = "A-1", **changes: Any) -> dict[str, Any]:
    return {**order_payload("created", order_id, world.click.id, amount=100_000, commission=8_000), **changes}


async def test_a_sale_is_shown_with_its_order_and_its_postings(world: World) -> None:
    found = await run(world, {"json": sale(world)})
    assert (found["authentication"], found["status"], found["problems"]) == ("fails", "processed", [])
    (event,) = found["events"]
    assert event["mapped"] == {
        "kind": "created",
        "order_reference": "A-1",
        "click_reference": str(world.click.id),
        "amount_minor": 100_000,
        "commission_minor": 8_000,
        "currency": "PKR",
        "occurred_at": event["mapped"]["occurred_at"],
        "is_dated": True,
        "ordered_at": None,
        "part": None,
        "network_merchant_ref": None,
        "is_delta": False,
    }
    assert event["attribution"] == {
        "click_id": str(world.click.id),
        "customer_id": str(world.customer.id),
        "merchant_id": world.merchant.id,
        "merchant": world.merchant.name,
    }
    assert event["order"]["status"] == "pending"
    assert event["order"]["is_new"] is True
    assert event["order"]["cashback"] == {"amount_minor": 5_000, "currency": "PKR"}
    assert sum(step["amount_minor"] for step in event["order"]["explanation"]) == 5_000
    assert {line["account"]: line["amount_minor"] for line in event["ledger"]} == {
        "network_receivable": 8_000,
        "customer_pending": -5_000,
        "margin_pending": -3_000,
    }
    assert await world.wallet() == (0, 0)
    # It can come for real all the same.
    assert (await world.post("created", amount=100_000, commission=8_000)).json()["status"] == "accepted"


async def test_a_change_shows_only_the_difference(world: World) -> None:
    await world.post("created", amount=100_000, commission=8_000)
    await world.drain()
    found = await run(world, {"json": order_payload("declined", "A-1")})
    (event,) = found["events"]
    assert (event["order"]["status"], event["order"]["is_new"]) == ("declined", False)
    assert {line["account"]: line["amount_minor"] for line in event["ledger"]} == {
        "network_receivable": -8_000,
        "customer_pending": 5_000,
        "margin_pending": 3_000,
    }
    assert (await world.order()).status.value == "pending"
    assert await world.wallet() == (5_000, 0)


async def test_every_problem_is_shown_with_its_path(world: World) -> None:
    body = sale(world, type="order.eaten", amount="12,50", commission=5, currency="PKR", occurred_at="soon")
    del body["order_id"]
    found = await run(world, {"json": body})
    assert found["status"] == "rejected"
    assert found["events"][0]["mapped"] is None
    problems = {problem["field"]: problem for problem in found["events"][0]["problems"]}
    assert {name: problem["path"] for name, problem in problems.items()} == {
        "order_reference": "order_id",
        "status": "type",
        "amount": "amount",
        "commission": "commission",
        "occurred_at": "occurred_at",
    }
    assert "bare number" in problems["commission"]["message"]


async def test_what_would_wait_says_why(world: World) -> None:
    orphan = await run(world, {"json": {**sale(world), "click_id": "nobody"}})
    assert (orphan["events"][0]["status"], orphan["events"][0]["order"]) == ("orphaned", None)
    assert "no click has the reference" in orphan["events"][0]["reason"]
    async with transaction() as session:
        stranger = await make_click(session, await make_customer(session), await make_merchant(session))
    found = await run(world, {"json": {**sale(world), "click_id": str(stranger.id)}})
    assert (found["events"][0]["status"], found["events"][0]["ledger"]) == ("quarantined", [])


async def test_the_signature_and_a_repeat_are_noticed(world: World) -> None:
    first = await world.post("created", amount=100_000, commission=8_000, message_id="once")
    body = b'{"type": "order.approved"}'
    headers = signed_headers(body, message_id="once")
    found = await run(world, {"body": body.decode(), "headers": headers})
    assert (found["authentication"], found["duplicate_of"]) == ("holds", first.json()["event_id"])


async def test_a_definition_is_tried_before_the_source_gets_it(world: World) -> None:
    definition = {
        "authentication": "none",
        "transport": {"accepts": ["query"], "events": "[@]"},
        "reading": {
            "mapping": {
                "order_reference": "ref",
                "click_reference": "sub",
                "amount": {"path": "sum", "as": {"kind": "decimal", "mark": ","}},
                "commission": {"path": "sum", "as": {"kind": "decimal", "mark": ","}, "share_basis_points": 800},
                "currency": {"transforms": [{"kind": "constant", "value": "PKR"}]},
            }
        },
        "subid_parameter": "sub",
    }
    sample = {"method": "GET", "query": {"ref": "Q-1", "sub": str(world.click.id), "sum": "1000,00"}}
    found = await run(world, {**sample, "definition": definition})
    assert (found["authentication"], found["status"]) == ("holds", "split")
    assert found["events"][0]["order"]["commission"] == {"amount_minor": 8_000, "currency": "PKR"}
    # The source is what it was.
    assert (await run(world, sample))["events"][0]["problems"][0]["message"].startswith("GET with no body")


async def test_a_request_with_several_events_shows_each(world: World) -> None:
    async with transaction() as session:
        source = await make_source(session, definition=batches())
        merchant = await make_merchant(session, source_id=source.id)
        click = await make_click(session, world.customer, merchant)
    rows = [{"id": f"B-{number}", "click": str(click.id), "sum": "10.00", "fee": "1.00"} for number in range(3)]
    rows[1]["sum"] = "much"
    found = await run(world, {"json": {"rows": rows}}, source_id=source.id)
    assert found["status"] == "split"
    assert [event["status"] for event in found["events"]] == ["processed", "rejected", "processed"]
    assert found["events"][1]["problems"][0]["path"] == "sum"
    broken = await run(world, {"json": {"rows": 5}}, source_id=source.id)
    assert broken["problems"] == [{"field": "events", "path": "rows", "message": "there is no list"}]


async def test_only_operators_may_try(world: World) -> None:
    async with transaction() as session:
        viewer = await staff_headers(session, StaffRole.VIEWER)
        operator = await staff_headers(session, StaffRole.OPERATOR)
    url = f"/v1/admin/sources/{world.source.id}/dry-run"
    assert (await world.client.post(url, json={}, headers=viewer)).status_code == 403
    assert (await world.client.post(url, json={})).status_code == 401
    missing = await world.client.post("/v1/admin/sources/2147483647/dry-run", json={}, headers=operator)
    assert (missing.status_code, missing.json()["code"]) == (404, "source_not_found")


@pytest.mark.parametrize(
    "body",
    [
        {"body": "x", "json": {}},
        {"body_base64": "%"},
        {"method": "DELETE"},
        {"query": {"a": 1}},
        {"definition": {"authentication": "none"}},
        {"unknown": 1},
    ],
)
async def test_requests_that_do_not_fit_are_refused(world: World, body: dict[str, Any]) -> None:
    await run(world, body, status=422)
