"""A secret is rotated while webhooks come in: old and new hold, then only the new; none is refused wrongly."""

import asyncio
from typing import Any

import httpx
import orjson

from app.config import Settings
from app.db import transaction
from app.models import StaffRole
from app.services.secrets import seal
from tests.factories import make_source, staff_headers
from tests.webhooks.sender import SECRET, signed_headers

SENDERS = 8


async def test_no_webhook_is_refused_wrongly_while_a_secret_is_rotated(
    committed_db: Settings, committed_client: httpx.AsyncClient
) -> None:
    async with transaction() as session:
        source = await make_source(session, secrets_encrypted=seal(committed_db, [SECRET]))
        admin = await staff_headers(session, StaffRole.ADMIN)
    path, url = f"/v1/admin/sources/{source.id}", f"/v1/webhooks/{source.source_key}"
    # What the senders sign with; they are told in their own time.
    secrets = [SECRET] * SENDERS
    answers: list[int] = []
    over = asyncio.Event()

    async def send(number: int) -> None:
        sent = 0
        while not over.is_set():
            body = orjson.dumps({"type": "order.approved", "order_id": f"{number}-{sent}"})
            answer = await committed_client.post(
                url, content=body, headers=signed_headers(body, secret=secrets[number])
            )
            answers.append(answer.status_code)
            sent += 1

    async def staff(action: str) -> dict[str, Any]:
        answer = await committed_client.post(f"{path}/{action}", headers=admin)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def some_more() -> None:
        wanted = len(answers) + 5 * SENDERS
        while len(answers) < wanted:
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        for number in range(SENDERS):
            group.create_task(send(number))
        await some_more()
        for _ in range(3):
            new = (await staff("rotate-secret"))["secret"]
            await some_more()
            for number in range(SENDERS):
                secrets[number] = new
                await asyncio.sleep(0.005)
            # Whoever was just signing with the old one is through.
            await some_more()
            assert (await staff("retire-old"))["live_secrets"] == 1
            await some_more()
        over.set()
    assert set(answers) == {202}
    assert len(answers) > 50 * SENDERS
    for secret, status in ((SECRET, 401), (secrets[0], 202)):
        body = b'{"type": "order.approved", "order_id": "last"}'
        answer = await committed_client.post(url, content=body, headers=signed_headers(body, secret=secret))
        assert answer.status_code == status
