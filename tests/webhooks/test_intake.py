"""Taking webhooks in: who may, once only, and nothing lost."""

import asyncio
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from sqlalchemy import func, select, text, update

from app.db import transaction
from app.models import Source, SourceStatus, WebhookEvent, WebhookStatus
from app.services.secrets import seal
from tests.factories import make_source
from tests.webhooks.sender import SECRET, order_payload, signed_headers
from tests.webhooks.world import World

OTHER_SECRET = "whsec_AAAA9r8GKYqrTwjUPD8ILPZIo2LaLaSw1234567890ab"


async def count_events() -> int:
    async with transaction() as session:
        return (await session.scalars(select(func.count()).select_from(WebhookEvent))).one()


async def test_a_signed_webhook_is_stored_before_its_answer(world: World) -> None:
    response = await world.post("created", amount=10_000, commission=1_000)
    assert response.status_code == 202
    assert response.json()["status"] == "accepted"
    event = await world.event(response.json()["event_id"])
    assert event.status is WebhookStatus.RECEIVED
    assert orjson.loads(event.body)["order_id"] == "A-1"
    assert event.request_id == response.headers["X-Request-ID"]
    assert "webhook-signature" not in event.headers


async def test_the_same_webhook_again_is_a_duplicate_with_the_same_id(world: World) -> None:
    body = orjson.dumps(order_payload("created", "A-1", world.click.id, amount=10_000, commission=1_000))
    url, headers = f"/v1/webhooks/{world.source.source_key}", signed_headers(body, message_id="once")
    first = await world.client.post(url, content=body, headers=headers)
    second = await world.client.post(url, content=body, headers=headers)
    assert (first.status_code, second.status_code) == (202, 202)
    assert second.json() == {"event_id": first.json()["event_id"], "status": "duplicate"}
    assert await count_events() == 1


async def test_the_same_id_with_another_body_is_a_conflict(world: World) -> None:
    await world.post("created", amount=10_000, commission=1_000, message_id="once")
    response = await world.post("created", amount=99_000, commission=1_000, message_id="once")
    assert response.status_code == 409
    assert response.json()["code"] == "webhook_id_reused"
    assert await count_events() == 1


async def test_the_same_webhook_100_times_at_once_has_one_effect(world: World) -> None:
    body = orjson.dumps(order_payload("created", "A-1", world.click.id, amount=10_000, commission=1_000))
    url, headers = f"/v1/webhooks/{world.source.source_key}", signed_headers(body, message_id="once")
    answers = await asyncio.gather(*(world.client.post(url, content=body, headers=headers) for _ in range(100)))
    assert [answer.status_code for answer in answers] == [202] * 100
    assert sorted({answer.json()["status"] for answer in answers}) == ["accepted", "duplicate"]
    assert len({answer.json()["event_id"] for answer in answers}) == 1
    await asyncio.gather(*(world.drain() for _ in range(5)))
    assert await count_events() == 1
    assert await world.wallet() == (500, 0)


@pytest.mark.parametrize(
    "spoil",
    ["signature", "late", "early", "byte", "truncated", "unsigned", "other secret", "no id", "not base64", "not utf-8"],
)
async def test_what_is_not_proven_is_refused_and_not_stored(world: World, spoil: str) -> None:
    body = orjson.dumps(order_payload("created", "A-1", world.click.id, amount=10_000, commission=1_000))
    now = datetime.now(UTC)
    headers = signed_headers(body)
    match spoil:
        case "signature":
            headers["webhook-signature"] = "v1," + headers["webhook-signature"][3:][::-1]
        case "late":
            headers = signed_headers(body, at=now - timedelta(seconds=301))
        case "early":
            headers = signed_headers(body, at=now + timedelta(seconds=302))
        case "byte":
            body = body.replace(b"10000", b"90000")
        case "truncated":
            body = body[:-1]
        case "unsigned":
            headers = {"content-type": "application/json"}
        case "other secret":
            headers = signed_headers(body, secret="whsec_" + "A" * 44)
        case "no id":
            del headers["webhook-id"]
        case "not base64":
            headers["webhook-signature"] = "v1,%%% v2"
        case "not utf-8":
            body = b"\xff\xfe"
    response = await world.client.post(f"/v1/webhooks/{world.source.source_key}", content=body, headers=headers)
    assert response.status_code == 401
    assert response.json()["code"] == "invalid_signature"
    assert await count_events() == 0


async def test_two_secrets_are_live_during_a_rotation(world: World) -> None:
    new = "whsec_" + "B" * 44
    async with transaction() as session:
        source = await session.merge(world.source)
        source.secrets_encrypted = seal(world.settings, [new, SECRET])
    body = orjson.dumps(order_payload("created", "A-1", world.click.id, amount=1, commission=1))
    for secret in (SECRET, new):
        response = await world.client.post(
            f"/v1/webhooks/{world.source.source_key}", content=body, headers=signed_headers(body, secret=secret)
        )
        assert response.status_code == 202


async def test_an_unknown_or_disabled_source_does_not_exist(world: World) -> None:
    async with transaction() as session:
        source = await session.merge(world.source)
        source.status = SourceStatus.DISABLED
    assert (await world.post("created", amount=1, commission=1)).json()["code"] == "unknown_source"
    assert (await world.client.post("/v1/webhooks/nobody", content=b"{}")).status_code == 404
    assert await count_events() == 0


async def test_a_body_over_the_limit_is_refused(world: World) -> None:
    response = await world.client.post(f"/v1/webhooks/{world.source.source_key}", content=b"x" * 262_145)
    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"
    assert await count_events() == 0


@pytest.mark.parametrize("shape", ["form", "json", "query"])
async def test_an_awin_push_is_taken_in_every_shape(world: World, shape: str, awin_push: bytes) -> None:
    async with transaction() as session:
        source = await make_source(session, preset="awin")
    url = f"/v1/webhooks/{source.source_key}"
    match shape:
        case "form":
            response = await world.client.post(url, data={"AwinTransactionPush": awin_push.decode()})
        case "json":
            response = await world.client.post(url, content=awin_push, headers={"content-type": "application/json"})
        case _:
            scalars = {name: value for name, value in orjson.loads(awin_push).items() if isinstance(value, str)}
            response = await world.client.get(url, params=scalars)
    assert response.status_code == 202
    await world.drain()
    event = await world.event(response.json()["event_id"])
    assert (event.dedupe_key, event.external_order_id) == ("105956531", "105956531")
    assert event.status is WebhookStatus.ORPHANED
    assert event.reason == "no click has the reference 'LINKCMP2013-06'"


async def test_requests_that_are_stored_together_have_outcomes_of_their_own(world: World) -> None:
    await world.post("created", "A-0", amount=10_000, commission=1_000, message_id="first")
    async with transaction() as session:
        # The database refuses it, so that all that is written with it fails.
        await session.execute(text("ALTER TABLE webhook_events ADD CONSTRAINT poison CHECK (dedupe_key <> 'poison')"))

    async def post(message_id: str, amount: int = 10_000) -> int:
        answer = await world.post("created", "A-1", amount=amount, commission=1_000, message_id=message_id)
        return answer.status_code

    wanted = [(f"new-{number}", 10_000) for number in range(20)] + [("first", 99_000), ("poison", 1)]
    answers = await asyncio.gather(*(post(*one) for one in wanted))
    assert answers == [202] * 20 + [409, 500]
    assert await count_events() == 21


async def test_what_is_remembered_of_a_source_holds_until_it_is_changed(world: World) -> None:
    assert (await world.post("created", "A-1", amount=10_000, commission=1_000)).status_code == 202
    # By another process: nothing tells this one.
    async with transaction() as session:
        await session.execute(update(Source).values(secrets_encrypted=seal(world.settings, [OTHER_SECRET])))
    answers = await asyncio.gather(
        *(world.post("created", f"B-{number}", amount=10_000, commission=1_000) for number in range(5))
    )
    assert [answer.status_code for answer in answers] == [401] * 5
    body = orjson.dumps(order_payload("created", "C-1", world.click.id, amount=10_000, commission=1_000))
    url = f"/v1/webhooks/{world.source.source_key}"
    accepted = await world.client.post(url, content=body, headers=signed_headers(body, secret=OTHER_SECRET))
    assert accepted.status_code == 202
    async with transaction() as session:
        await session.execute(update(Source).values(status=SourceStatus.DISABLED))
    gone = await world.client.post(url, content=body, headers=signed_headers(body, secret=OTHER_SECRET))
    assert gone.status_code == 404
    assert await count_events() == 2
