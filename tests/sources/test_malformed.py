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
transforms = st.sampled_from(
    [
        *("upper", "lower", "strip"),
        {"kind": "split", "separator": "-", "index": -2},
        {"kind": "default", "value": "USD"},
        {"kind": "constant", "value": "created"},
        {"kind": "strip", "characters": "xyz"},
        *({"kind": "split", "separator": "", "index": 0}, {"kind": "magic"}, "eval"),
    ]
)


def rules(*forms: Any) -> st.SearchStrategy[Any]:
    """A rule, or something that is none."""
    rule: dict[str, st.SearchStrategy[Any]] = {
        "path": st.sampled_from(PATHS) | st.sampled_from(BROKEN_PATHS),
        "transforms": st.lists(transforms, max_size=2),
        "of": st.sampled_from(["item", "item", "delivery"]),
        "required": st.booleans(),
    }
    if forms:
        rule["as"] = st.sampled_from(forms)
    usual = st.fixed_dictionaries(
        {"path": st.sampled_from(PATHS)}, optional={k: v for k, v in rule.items() if k != "path"}
    )
    return st.sampled_from(PATHS) | usual | st.fixed_dictionaries({}, optional=rule) | st.lists(usual, max_size=3)


amounts = rules("decimal", "minor_units", {"kind": "decimal", "mark": ",", "numbers": True, "rounding": "floor"}, "x")
times = rules(
    "iso8601", "unix", "unix_ms", {"kind": "text", "formats": ["%Y", "%d %b"], "zone": "UTC"}, {"kind": "text"}
)
texts = rules()
definitions = st.fixed_dictionaries(
    {
        "authentication": st.just("none"),
        "transport": st.fixed_dictionaries(
            {
                "accepts": st.lists(
                    st.sampled_from(["json", "form", "query", {"kind": "form_json", "field": "id"}]), min_size=1
                )
            },
            optional={"events": st.sampled_from(PATHS)},
        ),
        "reading": st.fixed_dictionaries(
            {
                "mapping": st.fixed_dictionaries(
                    {"order_reference": texts},
                    optional={
                        "click_reference": texts,
                        "status": texts,
                        "amount": amounts,
                        "commission": amounts,
                        "currency": texts,
                        "amount_currency": texts,
                        "occurred_at": times,
                        "ordered_at": times,
                        "part": texts,
                        "network_merchant_ref": texts,
                        "event_id": texts,
                    },
                )
            },
            optional={
                "statuses": st.dictionaries(
                    st.sampled_from(["created", "1", ""]), st.sampled_from(["created", "ignore"])
                ),
                "unknown_status": st.sampled_from(["reject", "ignore"]),
                "sign_rule": st.sampled_from(["status", "delta"]),
                "undated": st.sampled_from(["arrival", "by_status"]),
            },
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
@given(st.lists(definitions, min_size=5, max_size=5), st.lists(requests, min_size=10, max_size=10))
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
            f"/v1/admin/sources/{source.id}/definition", content=json.dumps(definition), headers=admin
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
