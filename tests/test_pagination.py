"""Cursors: what a list gave continues it exactly, and whatever else comes is refused, never a failure."""

import base64
import itertools
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.ids import new_id
from app.main import create_app
from app.services.pagination import InvalidCursorError, cut_page, decode_cursor, encode_cursor
from tests.factories import customer_headers, make_customer, make_merchant, staff_headers

plain = settings(max_examples=300, deadline=None)

TYPES = (str, int, UUID, datetime)
whole = st.integers(-(2**63), 2**63 - 1)
moments = st.datetimes(timezones=st.just(UTC))
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=60)
keys = st.lists(
    st.one_of(
        texts.map(lambda value: (str, value)),
        whole.map(lambda value: (int, value)),
        st.uuids().map(lambda value: (UUID, value)),
        moments.map(lambda value: (datetime, value)),
    ),
    min_size=1,
    max_size=4,
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.uuids().map(str) | moments.map(str),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def forged(key: object) -> str:
    """A cursor that holds any JSON, as somebody might make who has looked into one."""
    return base64.urlsafe_b64encode(json.dumps(key).encode("utf-8", "surrogatepass")).decode().rstrip("=")


@plain
@given(keys)
def test_key_survives_its_cursor(key: list[tuple[type, Any]]) -> None:
    types, values = zip(*key, strict=True)
    cursor = encode_cursor(*values)
    assert decode_cursor(cursor, *types) == list(values)
    assert cursor.isascii()
    assert "=" not in cursor


def test_time_keeps_its_microseconds_and_comes_back_in_utc() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=5)))
    [restored] = decode_cursor(encode_cursor(moment), datetime)
    assert restored == moment
    assert restored.utcoffset() == timedelta(0)


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=200), st.lists(st.sampled_from(TYPES), min_size=1, max_size=3))
@example("é", [str])
@example("====", [str])
@example("A", [str])
@example("", [int])
def test_garbage_is_an_invalid_cursor(cursor: str, types: list[type]) -> None:
    with pytest.raises(InvalidCursorError):
        decode_cursor(cursor, *types)


@settings(max_examples=500, deadline=None)
@given(json_values, st.lists(st.sampled_from(TYPES), min_size=1, max_size=3))
@example(["0001-01-01T00:00:00+14:00"], [datetime])
@example(["9999-12-31T23:59:59-14:00"], [datetime])
@example(["2026-01-01T00:00:00"], [datetime])
@example([2**63], [int])
@example([True], [int])
@example([1.0], [int])
@example(["a\x00b"], [str])
@example(["\ud800"], [str])
def test_forged_cursor_gives_values_the_database_takes_or_is_refused(forgery: object, types: list[type]) -> None:
    try:
        values = decode_cursor(forged(forgery), *types)
    except InvalidCursorError:
        return
    assert len(values) == len(types)
    for value, kind in zip(values, types, strict=True):
        match value:
            case bool():
                raise AssertionError("a truth value is no key")
            case int():
                assert kind is int
                assert -(2**63) <= value < 2**63
            case str():
                assert kind is str
                assert "\x00" not in value
                value.encode()
            case datetime():
                assert kind is datetime
                assert value.tzinfo is UTC
            case _:
                assert isinstance(value, UUID)
                assert kind is UUID


def test_refusal_is_422_and_does_not_repeat_the_cursor() -> None:
    with pytest.raises(InvalidCursorError) as refused:
        decode_cursor("hunter2", str)
    assert refused.value.status_code == 422
    assert "hunter2" not in refused.value.detail


@given(st.lists(st.integers(), max_size=30), st.integers(1, 20))
def test_page_is_cut_at_its_limit(rows: list[int], limit: int) -> None:
    fetched = rows[: limit + 1]
    page, more = cut_page(fetched, limit)
    assert page == rows[:limit]
    assert more == (len(rows) > limit)


def lists_of(app: FastAPI) -> list[str]:
    """Every path that pages."""
    return [
        path
        for path, item in app.openapi()["paths"].items()
        if any(one["name"] == "cursor" for one in item.get("get", {}).get("parameters", []))
    ]


@pytest.fixture
async def headers(session: AsyncSession, settings: Settings) -> dict[str, str]:
    """A customer's and a staff member's credentials together: each list takes its own."""
    customer = await make_customer(session)
    return {**customer_headers(settings, customer), **await staff_headers(session)}


async def test_no_list_fails_over_a_cursor(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, headers: dict[str, str]
) -> None:
    merchant = await make_merchant(session)
    statement = {
        "merchant_id": merchant.id,
        "reference": "2026-11",
        "currency": "PKR",
        "paid_on": "2026-11-20",
        "total_minor": 1,
        "lines": [{"order_reference": "A-1", "amount_minor": 1}],
    }
    settlement = (await client.post("/v1/admin/settlements", json=statement, headers=headers)).json()
    ids = {
        "merchant_id": merchant.id,
        "settlement_id": settlement["id"],
        "source_id": merchant.source_id,
        "account": "cash",
        "customer_id": (await make_customer(session)).id,
    }
    largest, beyond, name, some_id = 2**63 - 1, 2**31, "newest", str(new_id())
    first, last = "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z"
    keys: list[tuple[object, ...]] = [(value,) for value in (largest, -largest, beyond, name, some_id, first, last)]
    keys += itertools.product((largest, beyond, name, first, last), (largest, beyond, some_id))
    keys += [(name, beyond), (name, largest, largest), (name, name, largest), (name, last, some_id)]
    cursors = ["hunter2", "é", "=", "x" * 512, forged(None), forged([]), forged([None]), *map(forged, keys)]
    made = await client.post(f"/v1/admin/merchants/{merchant.id}/keys", json={"name": "ERP"}, headers=headers)
    merchants_own = {"X-API-Key": made.json()["key"]}
    paths = lists_of(create_app(settings))
    assert len(paths) >= 5
    for path in paths:
        url = path.format_map(ids)
        taken = 0
        for cursor in cursors:
            credentials = merchants_own if path.startswith("/v1/merchant/") else headers
            answer = await client.get(url, params={"cursor": cursor}, headers=credentials)
            assert answer.status_code in {200, 422}, (path, cursor, answer.text)
            taken += answer.status_code == 200
            assert "hunter2" not in answer.text
        assert taken < len(cursors) / 2, path


@pytest.mark.parametrize("limit", ["0", "-1", "101", "1.5", "x", "", "9" * 30])
async def test_limit_out_of_range_is_refused(
    client: httpx.AsyncClient, settings: Settings, headers: dict[str, str], limit: str
) -> None:
    for path in lists_of(create_app(settings)):
        if "{" not in path and not path.startswith("/v1/merchant/"):
            assert (await client.get(path, params={"limit": limit}, headers=headers)).status_code == 422, path
