"""What happened is told to those who asked, until they took it, and never what was rolled back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from app.config import Settings
from app.db import transaction
from app.ids import new_id
from app.models import (
    DeliveryStatus,
    EndpointStatus,
    Notification,
    NotificationDelivery,
    NotificationEndpoint,
    StaffRole,
)
from app.services.notifications import Topic, deliver, publish
from app.services.notifications.deliver import KEPT_DAYS, RETRY_SECONDS, claim_due, forget_old
from app.workers.notifications import notification_delivery
from tests.factories import staff_headers
from tests.notifications.receiver import Receiver, serving
from tests.webhooks.world import make_world


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with serving() as receiver:
        yield receiver


@pytest.fixture
def settings(committed_db: Settings) -> Settings:
    return committed_db.model_copy(update={"allow_private_endpoints": True})


async def subscribe(client: httpx.AsyncClient, receiver: Receiver, *topics: str) -> str:
    async with transaction() as session:
        headers = await staff_headers(session, StaffRole.ADMIN)
    answer = await client.post(
        "/v1/admin/notification-endpoints", json={"url": receiver.url, "topics": topics}, headers=headers
    )
    assert answer.status_code == 201, answer.text
    receiver.secret = answer.json()["secret"]
    return str(answer.json()["id"])


async def tell(event: str = "approved", **data: Any) -> None:
    async with transaction() as session:
        await publish(session, Topic.ORDER, event, data)


async def delivery() -> NotificationDelivery:
    async with transaction() as session:
        return (await session.scalars(select(NotificationDelivery))).one()


async def make_due() -> None:
    async with transaction() as session:
        await session.execute(
            update(NotificationDelivery)
            .where(NotificationDelivery.status == DeliveryStatus.PENDING)
            .values(next_attempt_at=datetime.now(UTC))
        )


async def test_a_sale_is_told_to_those_who_asked_for_orders_and_wallets(
    settings: Settings, committed_client: httpx.AsyncClient, receiver: Receiver
) -> None:
    await subscribe(committed_client, receiver, "order", "wallet")
    world = await make_world(settings, committed_client)
    await world.post("created", amount=100_000, commission=8_000)
    await world.drain()
    assert await notification_delivery(settings)() == 2
    told = {message["type"]: message["data"] for message in receiver.received}
    assert set(told) == {"order.pending", "wallet.changed"}
    assert told["order.pending"]["cashback"] == {"amount_minor": 5_000, "currency": "PKR"}
    assert told["order.pending"]["customer_id"] == str(world.customer.id)
    assert told["wallet.changed"]["pending_minor"] == 5_000
    assert (await notification_delivery(settings)(), receiver.refused) == (0, 0)


async def test_nobody_is_told_of_other_topics_or_of_what_was_rolled_back(
    settings: Settings, committed_client: httpx.AsyncClient, receiver: Receiver
) -> None:
    await subscribe(committed_client, receiver, "payout")
    await tell()

    async def undone() -> None:
        async with transaction() as session:
            await publish(session, Topic.PAYOUT, "paid", {})
            raise RuntimeError("undone")

    with pytest.raises(RuntimeError, match="undone"):
        await undone()
    assert await notification_delivery(settings)() == 0
    async with transaction() as session:
        assert (await session.scalars(select(Notification))).all() == []


@pytest.mark.parametrize("status", [500, 302, 404, None], ids=["error", "redirect", "not-found", "hangs-up"])
async def test_what_is_not_taken_is_tried_again_with_the_same_id(
    settings: Settings, committed_client: httpx.AsyncClient, receiver: Receiver, status: int | None
) -> None:
    await subscribe(committed_client, receiver, "order")
    receiver.statuses = [status, 204]
    await tell(n=1)
    assert await notification_delivery(settings)() == 1
    failed = await delivery()
    assert (failed.status, failed.tries, failed.last_status_code) == (DeliveryStatus.PENDING, 1, status)
    assert failed.last_error
    assert failed.next_attempt_at is not None
    wait = failed.next_attempt_at - datetime.now(UTC)
    assert timedelta(0) < wait <= timedelta(seconds=RETRY_SECONDS[0] * 1.1)
    await make_due()
    assert await notification_delivery(settings)() == 1
    done = await delivery()
    assert (done.status, done.tries, done.last_error) == (DeliveryStatus.DELIVERED, 2, None)
    assert receiver.ids == [str(done.notification_id)] * 2


async def test_after_the_whole_schedule_it_is_given_up_and_can_be_sent_again(
    settings: Settings, committed_client: httpx.AsyncClient, receiver: Receiver
) -> None:
    await subscribe(committed_client, receiver, "order")
    receiver.statuses = [503]
    await tell()
    deliver = notification_delivery(settings)
    for _ in range(len(RETRY_SECONDS) + 1):
        assert await deliver() == 1
        await make_due()
    given_up = await delivery()
    assert (given_up.status, given_up.next_attempt_at) == (DeliveryStatus.FAILED, None)
    assert await deliver() == 0
    async with transaction() as session:
        headers = await staff_headers(session, StaffRole.OPERATOR)
    receiver.statuses = [200]
    url = f"/v1/admin/notification-deliveries/{given_up.id}/retry"
    answer = await committed_client.post(url, headers=headers)
    assert (answer.status_code, answer.json()["status"], answer.json()["tries"]) == (202, "pending", 0)
    assert await deliver() == 1
    assert (await delivery()).status is DeliveryStatus.DELIVERED


async def test_gone_disables_the_endpoint_until_staff_activate_and_replay(
    settings: Settings, committed_client: httpx.AsyncClient, receiver: Receiver
) -> None:
    endpoint_id = await subscribe(committed_client, receiver, "order")
    receiver.statuses = [410, 200]
    since = datetime.now(UTC) - timedelta(minutes=1)
    await tell(n=1)
    deliver = notification_delivery(settings)
    assert await deliver() == 1
    await tell(n=2)
    assert await deliver() == 0
    async with transaction() as session:
        endpoint = await session.get_one(NotificationEndpoint, endpoint_id)
        assert endpoint.status is EndpointStatus.DISABLED
        assert endpoint.disabled_reason is not None
        assert "410" in endpoint.disabled_reason
        headers = await staff_headers(session, StaffRole.ADMIN)
    url = f"/v1/admin/notification-endpoints/{endpoint_id}"
    refused = await committed_client.post(f"{url}/replay", json={"since": since.isoformat()}, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (409, "notification_endpoint_disabled")
    changed = await committed_client.patch(url, json={"status": "active"}, headers=headers)
    assert (changed.json()["status"], changed.json()["disabled_reason"]) == ("active", None)
    replayed = await committed_client.post(f"{url}/replay", json={"since": since.isoformat()}, headers=headers)
    # What nobody listened to was not kept.
    assert (replayed.status_code, replayed.json()["queued"], replayed.json()["complete"]) == (202, 1, True)
    assert await deliver() == 1
    assert [message["data"] for message in receiver.received] == [{"n": 1}, {"n": 1}]


async def test_during_a_rotation_both_secrets_sign(
    settings: Settings, committed_client: httpx.AsyncClient, receiver: Receiver
) -> None:
    endpoint_id = await subscribe(committed_client, receiver, "order")
    old = receiver.secret
    async with transaction() as session:
        headers = await staff_headers(session, StaffRole.ADMIN)
    url = f"/v1/admin/notification-endpoints/{endpoint_id}/rotate-secret"
    new = (await committed_client.post(url, headers=headers)).json()["secret"]
    assert new != old
    for secret in (old, new):
        receiver.secret = secret
        await tell()
        assert await notification_delivery(settings)() == 1
    assert (len(receiver.received), receiver.refused) == (2, 0)
    receiver.secret = old
    await committed_client.post(url, headers=headers)
    await tell()
    await notification_delivery(settings)()
    assert receiver.refused == 1


async def test_an_inner_address_is_not_called(
    committed_db: Settings, committed_client: httpx.AsyncClient, receiver: Receiver
) -> None:
    await subscribe(committed_client, receiver, "order")
    await tell()
    assert await notification_delivery(committed_db)() == 1
    refused = await delivery()
    assert refused.last_error is not None
    assert "not on the public internet" in refused.last_error
    assert receiver.received == []


async def test_a_claimed_delivery_is_nobody_elses_until_its_lease_ends(
    settings: Settings, committed_client: httpx.AsyncClient, receiver: Receiver
) -> None:
    await subscribe(committed_client, receiver, "order")
    await tell()
    async with transaction() as session:
        assert len(await claim_due(session, settings)) == 1
    # Its worker dies here. While the lease lasts nobody else takes it.
    assert await notification_delivery(settings)() == 0
    await make_due()
    assert await notification_delivery(settings)() == 1
    assert (await delivery()).tries == 2


async def test_old_notifications_go_with_their_deliveries(
    settings: Settings, committed_client: httpx.AsyncClient, receiver: Receiver
) -> None:
    await subscribe(committed_client, receiver, "order")
    await tell(n="old")
    async with transaction() as session:
        await session.execute(update(Notification).values(created_at=datetime.now(UTC) - timedelta(days=KEPT_DAYS + 1)))
    await tell(n="new")
    async with transaction() as session:
        assert await forget_old(session, limit=10) == 1
        assert [row.data for row in await session.scalars(select(Notification))] == [{"n": "new"}]
        assert len((await session.scalars(select(NotificationDelivery))).all()) == 1


async def test_an_answer_that_drips_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliver, "_MOST_SECONDS", 0.3)

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while not writer.is_closing():
                writer.write(b"H")
                await writer.drain()
                await asyncio.sleep(0.05)

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    outgoing = deliver.Outgoing(
        delivery_id=new_id(),
        endpoint_id=new_id(),
        url=f"http://127.0.0.1:{port}/",
        message_id="msg_1",
        body=b"{}",
        secrets=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw1234567890ab"],
        tries=1,
    )
    async with httpx.AsyncClient(timeout=5) as client:
        outcome = await deliver.send(client, outgoing)
    server.close()
    assert not outcome.delivered
    assert outcome.error is not None
