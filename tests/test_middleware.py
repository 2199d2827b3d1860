"""What surrounds every request: its id, its access line, CORS, and silence about secrets."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app import metrics
from app.config import Settings
from app.main import create_app
from app.middleware import RequestContextMiddleware
from tests.conftest import make_settings
from tests.logs import captured_logs, lines_of

logger = logging.getLogger("tests.middleware")

ORIGIN = "https://shop.example"
KEY = "k3y-that-nobody-may-read"


@pytest.fixture
def application(settings: Settings) -> FastAPI:
    app = create_app(settings)

    @app.get("/speak/{name}")
    async def speak(name: str) -> str:
        logger.info("before")
        await asyncio.sleep(0)
        await asyncio.to_thread(logger.info, "in a thread")
        return name

    @app.get("/broken")
    async def broken() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError("the other half is lost")

        return StreamingResponse(parts())

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("boom")

    @app.get("/v1/webhooks/{source_key}/boom")
    async def boom_with_key(source_key: str) -> None:
        raise RuntimeError("boom")

    return app


@pytest.fixture
async def http(application: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_access_line_has_what_an_operator_needs_and_no_query(http: httpx.AsyncClient) -> None:
    with captured_logs("INFO") as output:
        answer = await http.get("/speak/cat?token=secret", headers={"X-Request-ID": "abc-123"})
    access = [line for line in lines_of(output) if line["logger"] == "app.access"]
    assert len(access) == 1
    [line] = access
    assert line.pop("duration_ms") >= 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00", line.pop("time"))
    assert line == {
        "level": "INFO",
        "logger": "app.access",
        "message": "request",
        "process": "test",
        "method": "GET",
        "route": "/speak/{name}",
        "path": "/speak/cat",
        "status": 200,
        "client": "127.0.0.0/24",
        "request_id": answer.headers["X-Request-ID"],
    }
    assert "secret" not in output.getvalue()


async def test_every_line_carries_the_id_of_its_own_request(http: httpx.AsyncClient) -> None:
    ids = [f"request-{number}" for number in range(10)]
    with captured_logs("INFO") as output:
        await asyncio.gather(*(http.get("/speak/cat", headers={"X-Request-ID": one}) for one in ids))
        logger.info("outside")
    lines = lines_of(output)
    assert lines.pop()["request_id"] is None
    assert len(lines) == 30
    for one in ids:
        said = [line["message"] for line in lines if line["request_id"] == one]
        assert said == ["before", "in a thread", "request"]


async def test_failure_is_logged_once_with_its_traceback_and_request(http: httpx.AsyncClient) -> None:
    with captured_logs("INFO") as output:
        answer = await http.get("/boom")
    failure, access = lines_of(output)
    assert failure["level"] == "ERROR"
    assert "RuntimeError: boom" in failure["exc_info"]
    assert access["status"] == 500
    assert failure["request_id"] == access["request_id"] == answer.headers["X-Request-ID"]


async def test_source_key_is_in_no_log(session: AsyncSession, settings: Settings, http: httpx.AsyncClient) -> None:
    with captured_logs() as output:
        for method, path in (
            ("POST", f"/v1/webhooks/{KEY}"),
            ("GET", f"/v1/webhooks/{KEY}?orderId={KEY}"),
            ("DELETE", f"/v1/webhooks/{KEY}"),
            ("OPTIONS", f"/v1/webhooks/{KEY}"),
            ("POST", f"/v1/webhooks/{KEY}/"),
            ("POST", f"/v1/webhooks/{KEY}/more"),
            ("POST", f"//v1/webhooks/{KEY}"),
            ("POST", f"/v1/Webhooks/{KEY}"),
            ("GET", f"/v1/webhooks/{KEY}/boom"),
        ):
            await http.request(method, path, headers={"Referer": f"http://test/{KEY}"})
        await http.post(f"/v1/webhooks/{KEY}", content=b"x" * (settings.max_webhook_body_bytes + 1))
    assert len(lines_of(output)) >= 10
    assert KEY not in output.getvalue()


async def test_answer_that_breaks_off_is_logged_and_closes_the_connection(application: FastAPI) -> None:
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        with captured_logs("INFO") as output, pytest.raises(RuntimeError, match="the other half is lost"):
            await client.get("/broken")
    broken, access = lines_of(output)
    assert broken["message"] == "answer broken off"
    assert "the other half is lost" in broken["exc_info"]
    assert access["status"] == 200


async def test_request_that_nobody_waits_for_is_499(settings: Settings) -> None:
    create_app(settings)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    async def answer(request: Request, error: Exception) -> Response:
        raise AssertionError("a cancelled request is answered")

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError("a cancelled request is answered")

    middleware = RequestContextMiddleware(application, on_error=answer)
    scope: Scope = {"type": "http", "method": "GET", "path": "/gone", "headers": [], "client": None}
    with captured_logs("INFO") as output, pytest.raises(asyncio.CancelledError):
        await middleware(scope, receive, send)
    [line] = lines_of(output)
    assert (line["status"], line["route"], line["client"]) == (499, "unmatched", None)


async def test_paths_nobody_serves_do_not_grow_the_metrics(http: httpx.AsyncClient) -> None:
    for number in range(20):
        assert (await http.get(f"/nothing/{number}")).status_code == 404
    text = metrics.exposition().decode()
    assert "/nothing" not in text
    assert 'route="unmatched",status="404"' in text


async def test_lifespan_and_other_scopes_pass_through_untouched() -> None:
    seen: list[Scope] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    async def answer(request: Request, error: Exception) -> Response:
        raise AssertionError

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError

    scope = {"type": "lifespan"}
    await RequestContextMiddleware(application, on_error=answer)(scope, receive, send)
    assert seen == [{"type": "lifespan"}]


@pytest.mark.parametrize("path", ["/healthz", "/nothing", "/boom", "/v1/me"])
async def test_only_our_frontends_may_read_answers_and_errors(http: httpx.AsyncClient, path: str) -> None:
    ours = await http.get(path, headers={"Origin": ORIGIN})
    assert ours.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "Origin" in ours.headers["Vary"]
    exposed = {name.strip() for name in ours.headers["Access-Control-Expose-Headers"].split(",")}
    assert {"X-Request-ID", "Retry-After", "Idempotency-Replayed", "ETag"} <= exposed
    for origin in ("https://evil.example", "http://shop.example", f"{ORIGIN}.evil.example", "null"):
        other = await http.get(path, headers={"Origin": origin})
        assert "Access-Control-Allow-Origin" not in other.headers
        assert other.status_code == ours.status_code
    assert "Access-Control-Allow-Credentials" not in ours.headers


async def test_preflight_is_answered_for_our_frontends_only(http: httpx.AsyncClient) -> None:
    asked = {
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization,idempotency-key",
    }
    ours = await http.options("/v1/me", headers={"Origin": ORIGIN, **asked})
    assert ours.status_code == 200
    assert ours.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "PATCH" in ours.headers["Access-Control-Allow-Methods"]
    assert "idempotency-key" in ours.headers["Access-Control-Allow-Headers"].lower()
    other = await http.options("/v1/me", headers={"Origin": "https://evil.example", **asked})
    assert other.status_code == 400
    assert "Access-Control-Allow-Origin" not in other.headers


async def test_without_frontend_origins_no_browser_may_read_anything() -> None:
    settings = make_settings(database_url="postgresql://", redis_url="redis://", frontend_origins=[])
    transport = httpx.ASGITransport(create_app(settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/healthz", headers={"Origin": ORIGIN})
    assert answer.status_code == 200
    assert "Access-Control-Allow-Origin" not in answer.headers
