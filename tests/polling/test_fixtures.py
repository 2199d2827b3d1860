"""What each network's API answers, as files: `tests/data/polls/<preset>/<case>.json`, one for each status it knows.

A case has an answer, what it `covers`, and what is `expected` of each item in it.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.models import Order, OrderReport, WebhookEvent
from app.services.polling.pages import PageReader
from app.services.polling.progress import Position
from app.services.sources import get_preset, list_presets
from app.services.sources.versions import load_version
from app.services.webhooks.polled import hear, take_polled
from app.services.webhooks.process import process_event
from tests.factories import make_click, make_customer, make_merchant, make_source
from tests.sources.postbacks import CLICK_ID
from tests.sources.test_presets import shown

FOLDER = Path(__file__).resolve().parent.parent / "data" / "polls"
CASES = sorted(FOLDER.glob("*/*.json"))
POLLED = sorted(preset.name for preset in list_presets() if preset.definition.polling is not None)
# CJ tells a correction apart by its reason, beside its status.
BESIDE = {"cj": {"correctionReason"}}


def load(file: Path) -> dict[str, Any]:
    case: dict[str, Any] = json.loads(file.read_text())
    return case


@pytest.mark.parametrize("file", CASES, ids=lambda file: f"{file.parent.name}-{file.stem}")
async def test_an_answer_becomes_reports(session: AsyncSession, settings: Settings, file: Path) -> None:
    case = load(file)
    source = await make_source(session, preset=file.parent.name)
    merchant = await make_merchant(
        session, source_id=source.id, currency=case["currency"], network_merchant_ref=case["merchant"]
    )
    await make_click(
        session,
        await make_customer(session),
        merchant,
        id=CLICK_ID,
        created_at=datetime(2025, 11, 1, tzinfo=UTC),
        expires_at=datetime(2099, 1, 1, tzinfo=UTC),
    )
    polling = get_preset(file.parent.name).definition.polling
    assert polling is not None
    content = json.dumps(case["answer"]).encode()
    page = PageReader(polling).read(content, url=polling.url, link=None, position=Position())
    assert page.following is None
    ids = await take_polled(session, source, hear(await load_version(session, source.version_id), page.items))
    for event_id in ids:
        await process_event(session, settings, event_id)
    assert [await outcome(session, event_id) for event_id in ids] == [
        {**one, "report": {"occurred_at": None, "part": None, "is_delta": False, **one["report"]}}
        for one in case["expected"]
    ]
    if (wanted := case.get("order")) is not None:
        order = (await session.scalars(select(Order).where(Order.source_id == source.id))).one()
        assert wanted == {
            "status": order.status.value,
            "sale_minor": order.reported_sale_minor,
            "commission_minor": order.reported_commission_minor,
        }


async def outcome(session: AsyncSession, event_id: UUID) -> dict[str, Any]:
    event = await session.get_one(WebhookEvent, event_id)
    report = await session.scalar(select(OrderReport).where(OrderReport.webhook_event_id == event_id))
    order = None if event.order_id is None else await session.get_one(Order, event.order_id)
    return {"event": event.status.value, "report": shown(report, order)}


@pytest.mark.parametrize("preset", POLLED)
def test_every_status_has_a_case(preset: str) -> None:
    definition = get_preset(preset).definition
    covered = {load(file)["covers"] for file in CASES if file.parent.name == preset}
    assert covered == set((definition.polled or definition.reading).statuses) | BESIDE.get(preset, set())


def test_four_networks_are_polled() -> None:
    assert POLLED == ["awin", "cj", "impact", "partnerize"]
