"""Every refusal is a problem document: one shape, a stable code, our headers, and nothing of what was sent."""

import asyncio
import importlib
import pkgutil
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from pydantic import Field
from sqlalchemy import text

import app as package
from app import db
from app.config import Settings
from app.dependencies import SessionDep
from app.errors import AppError, NotFoundError
from app.main import create_app
from app.schemas.common import RequestModel, SafeText
from tests.conftest import make_settings
from tests.service import free_port

ORIGIN = "https://shop.example"
MEMBERS = {"type", "title", "status", "detail", "instance", "code", "request_id"}


class Echo(RequestModel):
    amount: int
    name: SafeText = Field(max_length=5)


def tree(root: type[AppError] = AppError) -> Iterator[type[AppError]]:
    """Every error class of the service."""
    yield root
    for child in root.__subclasses__():
        if child.__module__.startswith("app."):
            yield from tree(child)


@pytest.fixture
async def unreachable() -> AsyncIterator[Settings]:
    """Settings whose PostgreSQL refuses connections, opened as a process would."""
    settings = make_settings(
        database_url=f"postgresql://nobody:secret@127.0.0.1:{free_port()}/nothing", redis_url="redis://127.0.0.1:1/0"
    )
    await db.open_database(settings, application_name="tests", pool_size=1, max_overflow=0)
    yield settings
    await db.close_database()
    db.AsyncSessionLocal.configure(bind=None)


@pytest.fixture
def application(settings: Settings) -> FastAPI:
    """The application with routes that fail, each in its way."""
    app = create_app(settings)

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("the cat ate the ledger")

    @app.get("/missing")
    async def missing() -> None:
        raise NotFoundError("There is no such cat.")

    @app.post("/echo")
    async def echo(body: Echo) -> str:
        return f"{body.amount} {body.name}"

    @app.post("/v1/webhooks/{source_key}/stream")
    async def stream(request: Request) -> int:
        return sum([len(chunk) async for chunk in request.stream()])

    @app.get("/database")
    async def database(session: SessionDep) -> int:
        one: int = (await session.execute(text("SELECT 1"))).scalar_one()
        return one

    return app


@pytest.fixture
async def http(application: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers={"Origin": ORIGIN}) as client:
        yield client


def problem_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem in an answer, after the checks that hold for all of them."""
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert answer.headers["Server-Timing"].startswith("app;dur=")
    problem: dict[str, Any] = answer.json()
    assert set(problem) - {"errors"} == MEMBERS
    assert problem["type"] == f"urn:cashback:problem:{code}"
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["instance"] == answer.request.url.path
    assert problem["request_id"] == answer.headers["X-Request-ID"]
    assert problem["title"]
    assert problem["detail"]
    return problem


def test_every_error_has_a_code_of_its_own_and_a_sensible_status() -> None:
    for module in pkgutil.walk_packages(package.__path__, "app."):
        importlib.import_module(module.name)
    classes = list(dict.fromkeys(tree()))
    assert len(classes) > 15
    for error in classes:
        assert "code" in vars(error), f"{error.__qualname__} has no code of its own"
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", error.code)
        assert 400 <= error.status_code < 500 or error.status_code in {500, 503}, error
        assert error.title[0].isupper()
        assert not error.title.endswith(".")
        assert error.__doc__
        assert error.__name__.endswith("Error")
    codes = [error.code for error in classes]
    assert sorted(codes) == sorted(set(codes))


async def test_expected_failure_is_its_own_problem(http: httpx.AsyncClient) -> None:
    assert problem_of(await http.get("/missing"), 404, "not_found")["detail"] == "There is no such cat."


async def test_unexpected_exception_is_500_with_our_headers_and_without_its_text(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    logging_root_takes(caplog)
    answer = await http.get("/boom")
    problem = problem_of(answer, 500, "internal_error")
    assert "cat" not in answer.text
    assert "Traceback" not in answer.text
    assert problem["detail"].startswith("Something went wrong on our side")
    [record] = [record for record in caplog.records if record.message == "request failed"]
    assert record.exc_info
    assert str(record.exc_info[1]) == "the cat ate the ledger"


def logging_root_takes(caplog: pytest.LogCaptureFixture) -> None:
    """create_app() has put its own handler in place of pytest's; put pytest's beside it."""
    import logging  # noqa: PLC0415 - only here

    logging.getLogger().addHandler(caplog.handler)


async def test_unknown_path_and_wrong_method_are_problems(http: httpx.AsyncClient) -> None:
    problem_of(await http.get("/nothing/here"), 404, "not_found")
    answer = await http.delete("/healthz")
    problem_of(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET"


@pytest.mark.parametrize(
    ("content", "content_type", "loc"),
    [
        (b'{"amount": 1, "name": "xyz"', "application/json", ["body", 27]),
        (b"\xff\xfe\x00", "application/json", None),
        (b"[" * 100_000, "application/json", ["body"]),
        (b'{"amount": ' + b"9" * 5000 + b', "name": "xyz"}', "application/json", None),
        (b"", "application/json", ["body"]),
        (b"null", "application/json", ["body"]),
        (b"[]", "application/json", ["body"]),
        (b'{"amount": 1, "name": "xyz", "role": "admin"}', "application/json", ["body", "role"]),
        (b'{"name": "xyz"}', "application/json", ["body", "amount"]),
        (b'{"amount": NaN, "name": "xyz"}', "application/json", ["body"]),
        (b'{"amount": "hunter2", "name": "xyz"}', "application/json", ["body", "amount"]),
        (b'{"amount": 1, "name": "hunter2"}', "application/json", ["body", "name"]),
        (b'{"amount": 1, "name": "\\ud800"}', "application/json", ["body", "name"]),
    ],
)
async def test_body_that_cannot_be_taken_is_a_problem_without_its_content(
    http: httpx.AsyncClient, content: bytes, content_type: str, loc: list[str | int] | None
) -> None:
    answer = await http.post("/echo", content=content, headers={"Content-Type": content_type})
    if loc is None:  # not JSON at all, in a way that has no position
        problem = problem_of(answer, 400, "bad_request")
        assert "errors" not in problem
    else:
        problem = problem_of(answer, 422, "invalid_request")
        assert loc in [error["loc"] for error in problem["errors"]]
        assert all(set(error) == {"loc", "msg", "type"} for error in problem["errors"])
    assert "hunter2" not in answer.text
    assert "xyz" not in answer.text


async def test_body_over_its_limit_is_refused_unread(http: httpx.AsyncClient, settings: Settings) -> None:
    read = 0

    async def body(size: int) -> AsyncIterator[bytes]:
        nonlocal read
        for start in range(0, size, 1000):
            chunk = b"x" * min(1000, size - start)
            read += len(chunk)
            yield chunk

    for path, limit in (
        ("/echo", settings.max_body_bytes),
        ("/healthz", settings.max_body_bytes),
        ("/nothing", settings.max_body_bytes),
        ("/v1/webhooks/key/stream", settings.max_webhook_body_bytes),
    ):
        read = 0
        answer = await http.request("POST", path, content=body(limit + 1), headers={"Content-Length": str(limit + 1)})
        problem_of(answer, 413, "body_too_large")
        assert answer.headers["Connection"] == "close"
        assert str(limit) in answer.json()["detail"]
        assert read == 0

    for path, limit in (("/echo", settings.max_body_bytes), ("/v1/webhooks/k/stream", settings.max_webhook_body_bytes)):
        read = 0
        answer = await http.post(path, content=body(100 * limit), headers={"Content-Type": "application/json"})
        problem_of(answer, 413, "body_too_large")
        assert limit < read <= limit + 1000


async def test_body_of_just_its_limit_is_taken(http: httpx.AsyncClient, settings: Settings) -> None:
    limit = settings.max_webhook_body_bytes
    answer = await http.post("/v1/webhooks/key/stream", content=b"x" * limit)
    assert (answer.status_code, answer.json()) == (200, limit)
    padding = settings.max_body_bytes - len(b'{"amount": 1, "name": "xyz"}')
    answer = await http.post(
        "/echo",
        content=b'{"amount": 1, "name": "xyz"}' + b" " * padding,
        headers={"Content-Type": "application/json"},
    )
    assert answer.json() == "1 xyz"


async def test_real_server_answers_413_before_the_body_is_sent_and_hangs_up(application: FastAPI) -> None:
    config = uvicorn.Config(application, port=free_port(), lifespan="off", ws="none", log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.01)
        for header in ("Content-Length: 1000000000", "Content-Length: 1000000000\r\nExpect: 100-continue"):
            reader, writer = await asyncio.open_connection("127.0.0.1", config.port)
            writer.write(f"POST /echo HTTP/1.1\r\nHost: test\r\n{header}\r\n\r\n".encode())
            answer = await reader.read()  # to the end: the server closes
            assert answer.startswith(b"HTTP/1.1 413 ")
            assert b"application/problem+json" in answer
            assert b"body_too_large" in answer
            writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", config.port)
        writer.write(b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        writer.writelines([chunk] * 17)  # one more than a mebibyte, and no end
        assert (await reader.read()).startswith(b"HTTP/1.1 413 ")
        writer.close()
        server.should_exit = True
        await serving


async def test_database_that_is_down_is_503_with_retry_after(unreachable: Settings, http: httpx.AsyncClient) -> None:
    answer = await http.get("/database")
    problem_of(answer, 503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    assert "secret" not in answer.text
    assert "127.0.0.1" not in answer.text


async def test_database_socket_that_is_missing_is_503(http: httpx.AsyncClient) -> None:
    settings = make_settings(database_url="postgresql://nobody@/nothing?host=/nonexistent", redis_url="redis://")
    await db.open_database(settings, application_name="tests", pool_size=1, max_overflow=0)
    try:
        problem_of(await http.get("/database"), 503, "unavailable")
    finally:
        await db.close_database()
        db.AsyncSessionLocal.configure(bind=None)


async def test_exhausted_pool_is_503(committed_db: Settings, http: httpx.AsyncClient) -> None:
    small = committed_db.model_copy(update={"db_pool_timeout_seconds": 0.05})
    await db.close_database()
    await db.open_database(small, application_name="tests", pool_size=1, max_overflow=0)
    async with db.transaction() as session:
        await session.connection()
        problem_of(await http.get("/database"), 503, "unavailable")
    assert (await http.get("/database")).status_code == 200


async def test_sqlstate_decides_between_try_again_and_our_fault(
    committed_db: Settings, application: FastAPI, http: httpx.AsyncClient
) -> None:
    @application.get("/refuse/{state}")
    async def refuse(session: SessionDep, state: str) -> None:
        await session.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'secret' USING ERRCODE = '{state}'; END $$"))

    for state in ("40001", "40P01", "53300", "55P03", "57014", "57P01", "25006"):
        answer = await http.get(f"/refuse/{state}")
        problem_of(answer, 503, "unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
        assert "secret" not in answer.text
    for state in ("23505", "42P01", "22P02"):
        answer = await http.get(f"/refuse/{state}")
        problem_of(answer, 500, "internal_error")
        assert "Retry-After" not in answer.headers
        assert "secret" not in answer.text
