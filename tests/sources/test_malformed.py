"""Definitions and payloads that nobody thought of: refused, or kept with a reason. Never a 500, never a stuck event."""

import json
from time import perf_counter
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from app.config import Settings
from app.db import transaction
from app.models import StaffRole, WebhookEvent, WebhookStatus
from app.schemas.source_definitions import SourceDefinition
from app.workers.webhooks import webhook_drain
from tests.factories import make_click, make_customer, make_merchant, make_source, staff_headers
from tests.test_expressions import EXPLOSIONS

NAMES = ("id", "sub", "sum", "fee", "cur", "state", "at", "rows")
PATHS = (
    *NAMES,
    *("rows[0].id", "rows[*].sum", "rows[?sum > `5`].id | [0]", "id || sub", "join('-', [id, sub])", "to_string(@)"),
    *("keys(@)", "rows[].id", "sort_by(rows, &id)[0].id", "&id", "max_by(rows, &sum).id", '`{"a": 1}`', "'x'", "@"),
    *("rows[::0]", "a < b", "id < `5`", "not_null(sub, id)", "values(@)[0]", "rows | [@, @] | [@, @] | to_string(@)"),
)
BROKEN_PATHS = ("", "rows[", "sum(rows)", "a" * 501, "`a`", "\x00", "id = id")
SOUND_TRANSFORMS = (
    *("upper", "lower", "strip"),
    {"kind": "split", "separator": "-", "index": -2},
    {"kind": "default", "value": "USD"},
    {"kind": "constant", "value": "created"},
    {"kind": "strip", "characters": "xyz"},
)
BROKEN_TRANSFORMS = ({"kind": "split", "separator": "", "index": 0}, {"kind": "magic"}, "eval")
AMOUNTS = ("decimal", "minor_units", {"kind": "decimal", "mark": ",", "numbers": True, "rounding": "floor"})
TIMES = ("iso8601", "unix", "unix_ms", {"kind": "text", "formats": ["%Y", "%d %b"], "zone": "UTC"})
FORMATS = ("json", "form", "query", {"kind": "form_json", "field": "id"})


def rules(*forms: Any, wild: bool) -> st.SearchStrategy[Any]:
    """A field's rules; `wild` ones may be none."""
    paths = st.sampled_from(PATHS + BROKEN_PATHS if wild else PATHS)
    members: dict[str, st.SearchStrategy[Any]] = {
        "transforms": st.lists(
            st.sampled_from(SOUND_TRANSFORMS + BROKEN_TRANSFORMS if wild else SOUND_TRANSFORMS), max_size=2
        ),
        "of": st.sampled_from(["item", "item", "delivery"]),
        "required": st.booleans(),
    }
    if forms:
        members["as"] = st.sampled_from((*forms, "x") if wild else forms)
    rule = st.fixed_dictionaries({"path": paths}, optional=members)
    return paths | rule | st.lists(rule, min_size=0 if wild else 1, max_size=3)


def definitions(*, wild: bool) -> st.SearchStrategy[dict[str, Any]]:
    """A definition that is sound, or one that may be anything."""
    text, amount, time = (rules(*forms, wild=wild) for forms in ((), AMOUNTS, TIMES))
    mapping = {
        "click_reference": text,
        "amount": amount,
        "commission": amount,
        "currency": text,
        "amount_currency": text,
        "occurred_at": time,
        "ordered_at": time,
        "network_merchant_ref": text,
    }
    only_wild = {"status": text, "part": text, "event_id": text} if wild else {"event_id": text}
    accepts = st.lists(st.sampled_from(FORMATS), min_size=1, max_size=4, unique_by=str)
    more: dict[str, st.SearchStrategy[Any]] = {
        "unknown_status": st.sampled_from(["reject", "ignore"]),
        "undated": st.sampled_from(["arrival", "by_status"]),
    }
    if wild:
        more["statuses"] = st.dictionaries(st.sampled_from(["created", "1"]), st.sampled_from(["created", "ignore"]))
        more["sign_rule"] = st.sampled_from(["status", "delta"])
    return st.fixed_dictionaries(
        {
            "authentication": st.just("none"),
            "transport": st.fixed_dictionaries({"accepts": accepts}, optional={"events": st.sampled_from(PATHS)}),
            "reading": st.fixed_dictionaries(
                {
                    "mapping": st.fixed_dictionaries({"order_reference": text}, optional={**mapping, **only_wild}),
                },
                optional=more,
            ),
            "subid_parameter": st.just("sub"),
        }
    )


values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["USD", "12.50", "1e9", "2026-11-22T10:00:00Z", "9" * 30, "\x00", "created", 1_763_805_600]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=8),
    max_leaves=20,
)
documents = st.dictionaries(st.sampled_from(NAMES), values, max_size=8)
bodies = (
    documents.map(lambda value: json.dumps(value).encode())
    | documents.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-16"))
    | st.binary(max_size=200)
    | st.sampled_from(
        [b"[" * 5000, b'{"rows": [' + b"1," * 5000 + b"1]}", b'{"id": 1e999}', b'"\\ud800"', b"id=%00&sub=%ff"]
    )
)
requests = st.tuples(
    st.sampled_from(["GET", "POST"]),
    st.sampled_from(["application/json", "application/x-www-form-urlencoded", "", "x/\xff"]),
    bodies,
    st.sampled_from(["", "id=1&sum=5", "%00", "id=%ff&id=2", "&&==", "id=" + "9" * 300]),
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    st.lists(definitions(wild=False) | definitions(wild=True), min_size=6, max_size=6),
    st.lists(requests, min_size=10, max_size=10),
)
async def test_whatever_is_defined_and_sent_ends_somewhere_with_a_reason(
    committed_db: Settings,
    committed_client: httpx.AsyncClient,
    wanted: list[dict[str, Any]],
    sent: list[tuple[str, str, bytes, str]],
) -> None:
    async with transaction() as session:
        admin = await staff_headers(session, StaffRole.ADMIN)
        source = await make_source(session, preset="impact")
        merchant = await make_merchant(session, source_id=source.id, currency="USD")
        click = await make_click(session, await make_customer(session), merchant)
    for definition in wanted:
        answer = await committed_client.put(
            f"/v1/admin/sources/{source.id}/definition",
            content=json.dumps(definition),
            headers={**admin, "Content-Type": "application/json"},
        )
        assert answer.status_code in (200, 422), answer.text
        for method, content_type, body, query in sent:
            headers = [(b"content-type", content_type.encode("latin-1"))]
            content = body.replace(b'"sub": ""', b'"sub": "' + str(click.id).encode() + b'"')
            answer = await committed_client.request(
                method,
                f"/v1/webhooks/{source.source_key}?{query}",
                content=content if method == "POST" else b"",
                headers=headers,
            )
            assert answer.status_code in (202, 409), answer.text
        await webhook_drain(committed_db)()
    async with transaction() as session:
        events = (await session.execute(select(WebhookEvent.status, WebhookEvent.reason))).all()
        # For the next example: everything again, read by other definitions.
        await session.execute(update(WebhookEvent).values(status=WebhookStatus.DISCARDED))
    quiet = {WebhookStatus.PROCESSED, WebhookStatus.SPLIT, WebhookStatus.DISCARDED}
    assert not [event for event in events if event.status in (WebhookStatus.RECEIVED, WebhookStatus.DEAD)]
    assert not [event for event in events if event.status not in quiet and not event.reason]


def exploding(path: str) -> SourceDefinition:
    return SourceDefinition.model_validate(
        {
            "authentication": "none",
            "transport": {"accepts": ["json"]},
            "reading": {"mapping": {"order_reference": path, "event_id": path}},
            "subid_parameter": "s",
        }
    )


@pytest.mark.parametrize("path", EXPLOSIONS.values(), ids=EXPLOSIONS.keys())
async def test_a_mapping_that_explodes_gives_a_stored_reason_in_no_time(
    committed_db: Settings, committed_client: httpx.AsyncClient, path: str
) -> None:
    async with transaction() as session:
        source = await make_source(session, definition=exploding(f"rows | {path}"))
    document = {"rows": [["x" * 50] * 20 for _ in range(200)]}
    started = perf_counter()
    answer = await committed_client.post(f"/v1/webhooks/{source.source_key}", json=document)
    assert answer.status_code == 202
    await webhook_drain(committed_db)()
    # What is not bounded takes minutes, or all memory.
    assert perf_counter() - started < 10
    async with transaction() as session:
        event = (await session.scalars(select(WebhookEvent))).one()
    assert event.status is WebhookStatus.REJECTED
    assert "it takes too many steps for this payload" in (event.reason or "")
