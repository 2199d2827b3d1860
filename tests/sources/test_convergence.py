"""An order is the same whatever order a network's reports of it arrive in: 1,000 histories each, and some for real."""

import json
import random
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from sqlalchemy import select

from app.config import Settings
from app.db import transaction
from app.ids import new_id
from app.models import Order, WebhookEvent, WebhookStatus
from app.services.orders.fold import Folded, Report, fold
from app.services.secrets import seal
from app.services.sources import get_preset
from app.services.webhooks.delivery import read_json
from app.services.webhooks.mapping import Reader
from app.workers.webhooks import webhook_drain
from tests.factories import make_click, make_customer, make_merchant, make_source
from tests.sources.histories import HISTORIES, START, UNDATED, Payload, Story
from tests.sources.postbacks import SIGNERS, secret_of
from tests.sources.test_presets import PUSHING

COUNT = 1_000


def folded(reader: Reader, payloads: list[Payload]) -> Folded:
    """What the payloads add up to when they arrive in this order."""
    reports = []
    for number, payload in enumerate(payloads):
        item, request = (
            (payload["body"], {"query": {"event": payload["event"]}}) if "body" in payload else (payload, {})
        )
        said = reader.read(json_numbers(item), request, received_at=START + timedelta(days=90, seconds=number))
        reports.append(
            Report(
                new_id(),
                said.kind,
                said.occurred_at,
                said.sale_minor,
                said.commission_minor,
                said.part,
                said.ordered_at,
                said.is_dated,
                said.is_delta,
            )
        )
    return fold(reports)


def json_numbers(item: Any) -> Any:
    """The item as it is read from JSON."""
    return read_json(json.dumps(item).encode())


def shown(state: Folded, preset: str) -> tuple[Any, ...]:
    """What may not depend on the order of arrival. When an undated approval happened is when it arrived."""
    amounts = (state.status, state.sale_minor, state.commission_minor)
    return amounts if preset in UNDATED else (*amounts, state.ordered_at, state.approved_at)


@pytest.mark.parametrize("preset", PUSHING)
def test_a_thousand_shuffled_histories_converge(preset: str) -> None:
    reader = Reader(get_preset(preset).definition.reading)
    chance = random.Random(preset)  # noqa: S311 - repeatable
    outcomes = set()
    for seed in range(COUNT):
        payloads = HISTORIES[preset](Story(seed, f"O-{seed}", "click"))
        expected = folded(reader, payloads)
        outcomes.add(expected.status)
        shuffled = payloads.copy()
        chance.shuffle(shuffled)
        assert shown(folded(reader, shuffled), preset) == shown(expected, preset), (seed, payloads)
    # The histories are worth something: they end in different ways, where the network can tell of more than a sale.
    assert len(outcomes) == (1 if preset in {"awin", "shareasale"} else 2 if preset == "rakuten" else 3)


@pytest.mark.parametrize("preset", PUSHING)
async def test_shuffled_histories_converge_in_the_database(
    committed_db: Settings, committed_client: httpx.AsyncClient, preset: str
) -> None:
    secret, chance = secret_of(preset), random.Random(preset)  # noqa: S311 - repeatable
    async with transaction() as session:
        source = await make_source(
            session, preset=preset, secrets_encrypted=seal(committed_db, [secret]) if secret else None
        )
        merchant = await make_merchant(session, source_id=source.id, currency="USD", network_merchant_ref="m")
        clicks = [
            await make_click(
                session,
                await make_customer(session),
                merchant,
                created_at=START - timedelta(days=1),
                expires_at=START + timedelta(days=10_000),
            )
            for _ in range(9)
        ]
    # Three histories, each told three times: as it happened, backwards, and shuffled.
    for number, click in enumerate(clicks):
        payloads = HISTORIES[preset](Story(number // 3, f"O-{number}", str(click.id)))
        if number % 3 == 1:
            payloads.reverse()
        elif number % 3 == 2:
            chance.shuffle(payloads)
        for payload in payloads:
            await send(committed_client, preset, source.source_key, payload)
            await webhook_drain(committed_db)()
    async with transaction() as session:
        waiting = await session.scalars(
            select(WebhookEvent.reason).where(WebhookEvent.status != WebhookStatus.PROCESSED)
        )
        assert waiting.all() == []
        orders = {order.external_id: order for order in await session.scalars(select(Order))}
    states = [
        (order.status, order.sale_minor, order.commission_minor, order.cashback_minor)
        for order in (orders[f"O-{number}"] for number in range(9))
    ]
    for first in (0, 3, 6):
        assert states[first] == states[first + 1] == states[first + 2]


async def send(client: httpx.AsyncClient, preset: str, source_key: str, payload: Payload) -> None:
    """Send a payload as the network does."""
    path = f"/v1/webhooks/{source_key}"
    is_query = "query" in get_preset(preset).definition.transport.kinds and preset != "awin"
    if "body" in payload:
        path, payload = f"{path}?event={payload['event']}", payload["body"]
    body = b"" if is_query else json.dumps(payload).encode()
    if is_query:
        path = f"{path}?{urlencode(payload)}"
    sign = SIGNERS.get(preset)
    headers = {"content-type": "application/json"} if body else {}
    headers |= sign(body, f"http://cashback.test{path}") if sign else {}
    answer = await client.request("GET" if is_query else "POST", path, content=body, headers=headers)
    assert answer.status_code == 202, answer.text
