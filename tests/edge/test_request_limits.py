"""What is too large, too slow or ambiguous is refused as a problem, and nothing past a limit is read."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Form, Request
from pydantic import BaseModel

from app.config import Settings
from app.edge.request_limits import MAX_HEADER_BYTES, MAX_HEADERS, MAX_TARGET_BYTES
from app.edge.strict_json import MAX_DEPTH
from app.main import create_app
from app.schemas.common import RequestModel


class Anything(RequestModel):
    value: Any


class Ticket(BaseModel):
    seat: str


@pytest.fixture(scope="module")
def application(settings: Settings) -> FastAPI:
    app = create_app(settings.model_copy(update={"body_timeout_seconds": 0.2}))

    @app.post("/json")
    async def json(body: Anything) -> None:
        pass

    @app.post("/form")
    async def form(body: Ticket = Form()) -> str:  # noqa: B008 - FastAPI's way
        return body.seat

    @app.post("/v1/webhooks/{key}/raw")
    async def raw(key: str, request: Request) -> int:
        return len(await request.body())

    return app


@pytest.fixture
async def http(application: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    return problem


async def test_a_target_that_is_too_long_is_414(http: httpx.AsyncClient) -> None:
    room = MAX_TARGET_BYTES - len("/healthzq=")
    assert (await http.get(f"/healthz?q={'x' * room}")).status_code == 200
    await refused(await http.get(f"/healthz?q={'x' * (room + 1)}"), 414, "uri_too_long")
    await refused(await http.get(f"/healthz/{'x' * MAX_TARGET_BYTES}"), 414, "uri_too_long")


async def test_too_many_or_too_large_headers_are_431(http: httpx.AsyncClient) -> None:
    many = {f"X-Header-{number}": "x" for number in range(MAX_HEADERS)}
    await refused(await http.get("/healthz", headers=many), 431, "headers_too_large")
    large = {"X-Large": "x" * MAX_HEADER_BYTES}
    answer = await http.get("/healthz", headers=large)
    await refused(answer, 431, "headers_too_large")
    assert answer.headers["Connection"] == "close"
    assert (await http.get("/healthz", headers={"X-Large": "x" * (MAX_HEADER_BYTES - 1000)})).status_code == 200


JSON, FORM = "application/json", "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("path", "content_type", "wanted"),
    [
        ("/json", "text/plain", JSON),
        ("/json", "", JSON),
        ("/json", FORM, JSON),
        ("/json", "text/json", JSON),
        ("/json", "application/jsonp", JSON),
        ("/form", JSON, FORM),
        ("/form", "", FORM),
        ("/form", "text/plain", FORM),
    ],
)
async def test_a_body_of_a_type_the_route_does_not_read_is_415(
    http: httpx.AsyncClient, path: str, content_type: str, wanted: str
) -> None:
    content = b'{"value": 1}' if path == "/json" else b"seat=1"
    answer = await http.post(path, content=content, headers={"Content-Type": content_type})
    await refused(answer, 415, "unsupported_media_type")
    assert answer.headers["Accept"] == wanted


@pytest.mark.parametrize(
    "content_type", [JSON, "application/json; charset=utf-8", "APPLICATION/JSON", "application/merge-patch+json"]
)
async def test_json_is_known_by_any_of_its_names(http: httpx.AsyncClient, content_type: str) -> None:
    answer = await http.post("/json", content=b'{"value": 1}', headers={"Content-Type": content_type})
    assert answer.status_code == 200


async def test_a_form_may_be_of_either_kind_and_a_missing_body_is_said_to_be_missing(http: httpx.AsyncClient) -> None:
    assert (await http.post("/form", data={"seat": "1A"})).json() == "1A"
    assert (await http.post("/form", files={"seat": (None, "1A")})).json() == "1A"
    for path in ("/json", "/form"):
        await refused(await http.post(path), 422, "invalid_request")


async def test_a_compressed_body_is_415_and_a_webhooks_too(http: httpx.AsyncClient) -> None:
    for path in ("/json", "/v1/webhooks/key/raw"):
        answer = await http.post(path, content=b"\x1f\x8b", headers={"Content-Type": JSON, "Content-Encoding": "gzip"})
        await refused(answer, 415, "unsupported_media_type")
        assert answer.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"value": 1, "value": 2}', "two members of one name"),
        (b'{"value": {"a": {"x": 1, "\\u0078": 2}}}', "two members of one name"),
        (b'{"value": NaN}', "NaN is no number"),
        (b'{"value": [-Infinity]}', "-Infinity is no number"),
        (b'{"value": 1e999}', "beyond the range"),
        (b'{"value": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "levels may be nested"),
        (b'{"value": ' + b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH + b"}", "levels may be nested"),
        (b"[" * 500_000, "levels may be nested"),
        (b'{"value": "\\uD83D"}', "surrogate"),
        (b'{"\\ude00\\ud83d": 1}', "surrogate"),
        (b'{"value": "\xed\xa0\x80"}', "surrogate"),
    ],
)
async def test_json_that_readers_disagree_on_is_422(http: httpx.AsyncClient, content: bytes, reason: str) -> None:
    answer = await http.post("/json", content=content, headers={"Content-Type": JSON})
    problem = await refused(answer, 422, "invalid_request")
    assert problem["errors"][0]["loc"][0] == "body"
    assert reason in problem["errors"][0]["msg"]


@pytest.mark.parametrize(
    "content",
    [
        b'{"value": ' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}",
        b'{"value": "' + b"[{" * 1000 + b'\\"[["}',
        b'{"value": [' + b'{"a": 1}, ' * 1000 + b"{}]}",
        b'{"value": [{"a": 1}, {"a": 2}, 1e300, -0.5]}',
        b'{"value": "\\uD83D\\ude00 \\ud7ff \xed\x9f\xbf \xf0\x9f\x98\x80"}',
    ],
)
async def test_json_within_its_bounds_is_taken(http: httpx.AsyncClient, content: bytes) -> None:
    answer = await http.post("/json", content=content, headers={"Content-Type": JSON})
    assert answer.status_code == 200


async def test_raw_bodies_are_their_routes_own_business(http: httpx.AsyncClient) -> None:
    body = b'{"a": NaN, "a": NaN}'
    answer = await http.post("/v1/webhooks/key/raw?x=%00", content=body, headers={"Content-Type": JSON})
    assert answer.json() == len(body)


async def test_a_body_that_trickles_is_408(http: httpx.AsyncClient) -> None:
    async def trickle() -> AsyncIterator[bytes]:
        yield b'{"value": '
        await asyncio.Event().wait()

    # httpx's transport awaits the generator itself, so the deadline ends it as a real server's socket would be.
    for path in ("/json", "/v1/webhooks/key/raw"):
        answer = await http.post(path, content=trickle(), headers={"Content-Type": JSON})
        await refused(answer, 408, "request_timeout")
        assert answer.headers["Connection"] == "close"


@pytest.mark.parametrize("target", ["/v1/merchants/a%00b", "/v1/merchants?q=%00", "/%00", "/v1/offers?q=a&sort=%00"])
async def test_nul_in_a_target_is_422(http: httpx.AsyncClient, target: str) -> None:
    problem = await refused(await http.get(target), 422, "invalid_request")
    assert problem["errors"][0]["loc"] in (["path"], ["query"])
