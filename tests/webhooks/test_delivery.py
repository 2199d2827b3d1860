"""What is in a request: its format, its numbers, its events, and what is refused before anything looks into it."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.expressions import Expression
from app.schemas.source_definitions import Transport
from app.services.webhooks.delivery import Delivery, decode, events_in, read_json, write_json
from app.services.webhooks.payload import PayloadError

FORM = "application/x-www-form-urlencoded"
EVERYTHING = [{"kind": "form_json", "field": "push"}, "form", "json", "query"]


def request(body: bytes = b"", content_type: str = "", query: bytes = b"", method: str = "POST") -> Delivery:
    return Delivery(method, "", query, {"content-type": content_type} if content_type else {}, body)


def decoded(accepts: list[Any], delivery: Delivery) -> Any:
    return decode(Transport.model_validate({"accepts": accepts}), delivery)


@pytest.mark.parametrize(
    ("delivery", "expected"),
    [
        (request(b'{"a": 1}', "application/json"), {"a": 1}),
        (request(b'\xef\xbb\xbf{"a": 1}'), {"a": 1}),
        (request(b"push=%7B%22a%22%3A1%7D&x=2", FORM), {"a": 1}),
        (request(b"a=1&a=2&b=", f"{FORM}; charset=utf-8"), {"a": "1", "b": ""}),
        (request(query=b"a=1&b=%D0%B6", method="GET"), {"a": "1", "b": "ж"}),
        (request(query=b"a=1"), {"a": "1"}),
    ],
)
def test_the_format_is_found(delivery: Delivery, expected: object) -> None:
    assert decoded(EVERYTHING, delivery) == expected


@pytest.mark.parametrize(
    ("accepts", "delivery", "reason"),
    [
        (["json"], request(), "no JSON"),
        (["json"], request(b"a=1", FORM), "POST with application/x-www-form-urlencoded, but the source sends json"),
        (["json"], request(query=b"a=1", method="GET"), "GET with no body, but the source sends json"),
        (["query"], request(b"{}", "application/json"), "but the source sends query"),
        ([{"kind": "form_json", "field": "push"}], request(b"x=1", FORM), "form field push is missing"),
        (["form"], request(b"\xff=1", FORM), "no form"),
        (["json"], request(b"NaN"), "no JSON"),
        (["json"], request(b'"\\ud800"'), "no JSON"),
        (["json"], request(b"\xff"), "no JSON"),
        (["json"], request(b"[" * 33 + b"]" * 33), "nested deeper than 32"),
        (["json"], request(b"[" * 100_000), "no JSON"),
        (["json"], request(b"[" + b"1," * 100_000 + b"1]"), "more than 100000 values"),
        (["json"], request(b"[" + b"9" * 5000 + b"]"), "no JSON: number is infinity"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason(accepts: list[Any], delivery: Delivery, reason: str) -> None:
    with pytest.raises(PayloadError, match=reason):
        decoded(accepts, delivery)


def test_numbers_keep_every_digit() -> None:
    content = b'{"a":12.50,"b":9007199254740993,"c":123456789012345678901234567890,"d":0.1,"e":1}'
    found = read_json(content)
    assert found == {
        "a": Decimal("12.50"),
        "b": 9007199254740993,
        "c": Decimal(123456789012345678901234567890),
        "d": Decimal("0.1"),
        "e": 1,
    }
    assert write_json(found) == content


def test_several_events_in_a_payload() -> None:
    payload = {"data": {"rows": [{"id": 1}, "x"]}}
    assert events_in(payload, Expression("data.rows")) == [{"id": 1}, "x"]
    with pytest.raises(PayloadError, match=r"events \(data\): there is no list"):
        events_in(payload, Expression("data"))


@given(st.binary(max_size=300), st.sampled_from(["", "application/json", FORM]), st.binary(max_size=50))
def test_any_bytes_are_read_or_refused(body: bytes, content_type: str, query: bytes) -> None:
    reason = None
    try:
        decoded(EVERYTHING, request(body, content_type, query))
    except PayloadError as error:
        reason = str(error)
    assert reason != ""
