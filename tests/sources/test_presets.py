"""Every preset against everything its network is known to send, through the real intake and the worker's drain."""

import tomllib
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.models import Order, OrderReport, Source, WebhookEvent
from app.schemas.common import utc
from app.schemas.source_definitions import SourceDefinition
from app.services.secrets import seal
from app.services.sources import get_preset, list_presets
from app.workers.webhooks import webhook_drain
from tests.factories import make_click, make_customer, make_merchant, make_source, staff_headers
from tests.sources.postbacks import CLICK_ID, Postback, all_postbacks, secret_of

# Every network of docs/integrations.md that pushes.
PUSHING = (
    *("admitad", "affise", "awin", "button", "direct", "fidel", "impact", "rakuten", "shareasale", "tradedoubler"),
    "wildfire",
)
# Those that are only polled: `tests/polling`.
POLLED = ("cj", "partnerize")


async def make_network(session: AsyncSession, settings: Settings, postback: Postback) -> Source:
    """A source of the preset, its merchant, and the click that the postbacks name."""
    secret = secret_of(postback.preset)
    source = await make_source(
        session, preset=postback.preset, secrets_encrypted=seal(settings, [secret]) if secret else None
    )
    merchant = await make_merchant(
        session,
        source_id=source.id,
        currency=postback.case["currency"],
        network_merchant_ref=postback.case.get("merchant"),
    )
    await make_click(
        session,
        await make_customer(session),
        merchant,
        id=CLICK_ID,
        created_at=datetime(2025, 11, 1, tzinfo=UTC),
        expires_at=datetime(2099, 1, 1, tzinfo=UTC),
    )
    return source


def shown(report: OrderReport | None, order: Order | None) -> dict[str, Any] | None:
    """A report as the cases write it."""
    if report is None or order is None:
        return None
    return {
        "kind": report.kind.value,
        "order_reference": order.external_id,
        "amount_minor": report.sale_minor,
        "commission_minor": report.commission_minor,
        "currency": order.reported_currency,
        "occurred_at": utc(report.occurred_at) if report.is_dated else None,
        "ordered_at": report.ordered_at and utc(report.ordered_at),
        "part": report.part,
        "is_delta": report.is_delta,
    }


@pytest.mark.parametrize("postback", all_postbacks(), ids=lambda postback: f"{postback.preset}-{postback.name}")
async def test_a_postback_is_taken_in_and_read(
    committed_db: Settings, committed_client: httpx.AsyncClient, postback: Postback
) -> None:
    async with transaction() as session:
        source = await make_network(session, committed_db, postback)
    drain = webhook_drain(committed_db)
    for one in postback.before:
        await one.send(committed_client, source.source_key)
        await drain()
    answer = await postback.send(committed_client, source.source_key)
    assert answer.status_code == 202, answer.text
    await drain()
    async with transaction() as session:
        event = await session.get_one(WebhookEvent, answer.json()["event_id"])
        assert (event.status.value, event.version_id) == (postback.expected["event"], source.version_id), event.reason
        assert postback.expected.get("reason", "") in (event.reason or "")
        report = await session.scalar(select(OrderReport).where(OrderReport.webhook_event_id == event.id))
        order = None if event.order_id is None else await session.get_one(Order, event.order_id)
    expected = postback.expected["report"]
    if expected is not None:
        defaults = {"occurred_at": None, "ordered_at": None, "part": None, "is_delta": False}
        expected = {**defaults, **expected}
        if expected["currency"] is None:
            expected["currency"] = postback.case["currency"]
    assert shown(report, order) == expected
    wanted = postback.expected["order"]
    assert (
        wanted is None
        or {
            "status": order and order.status.value,
            "sale_minor": order and order.reported_sale_minor,
            "commission_minor": order and order.reported_commission_minor,
        }
        == wanted
    )


@pytest.mark.parametrize("preset", PUSHING)
def test_every_status_and_sign_has_a_case(preset: str) -> None:
    covered = {postback.case["covers"] for postback in all_postbacks() if postback.preset == preset}
    reading = get_preset(preset).definition.reading
    wanted = set(reading.statuses) if reading.statuses else {"push"}
    assert covered == ({"+", "-"} if reading.sign_rule == "delta" else wanted)


def test_there_is_a_preset_for_every_network() -> None:
    assert [preset.name for preset in list_presets()] == sorted((*PUSHING, *POLLED))


@pytest.mark.parametrize("preset", list_presets(), ids=lambda preset: preset.name)
def test_a_preset_survives_being_stored_and_read(preset: Any) -> None:
    stored = preset.definition.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    assert SourceDefinition.model_validate(stored) == preset.definition
    assert preset.title
    assert preset.description


async def test_presets_are_listed_for_staff(client: httpx.AsyncClient, session: AsyncSession) -> None:
    answer = await client.get("/v1/admin/source-presets", headers=await staff_headers(session))
    assert [item["name"] for item in answer.json()["items"]] == sorted((*PUSHING, *POLLED))
    awin = next(item for item in answer.json()["items"] if item["name"] == "awin")
    assert awin["definition"]["transport"]["accepts"][0] == {"kind": "form_json", "field": "AwinTransactionPush"}


def test_a_file_that_is_no_definition_is_refused() -> None:
    with pytest.raises(ValueError, match="reading"):
        SourceDefinition.model_validate(tomllib.loads('authentication = "none"\ntransport.accepts = ["json"]'))
