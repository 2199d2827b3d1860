"""Every operation against every kind of caller, and every object against everybody who does not own it."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from sqlalchemy.ext.asyncio import AsyncEngine

from app import db
from app.cli import ROOT
from app.config import Settings
from app.dependencies import StaffWithRole, get_access_token, get_merchant_key, get_staff_key
from app.routers import ROUTERS
from app.services.rate_limits import RequestClasses
from tests.access.matrix import FURTHER, OPERATIONS, PAIRS, Answer, Caller, Operation
from tests.access.table import access_table
from tests.access.world import World, make_world
from tests.conftest import in_process

SECURITY = ROOT / "docs" / "security.md"
BY_NAME = {operation.name: operation for operation in OPERATIONS}
# What lists nobody's own things, though it is about oneself.
WITHOUT_MARKS = {"GET /v1/me/wallet", "GET /v1/merchant/delivery"}


def routes() -> Iterator[tuple[str, APIRoute]]:
    """Every route of the application with its name, such as `GET /v1/me`."""
    for router in ROUTERS:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            for method in route.methods or ():
                yield f"{method} {route.path}", route


@pytest.fixture(scope="module")
async def world(shared_engine: AsyncEngine, application: FastAPI, settings: Settings) -> AsyncIterator[World]:
    """Rows that all tests of this file share, in one transaction that is never committed."""
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(shared_engine.connect())
        outer = await connection.begin()
        db.AsyncSessionLocal.configure(bind=connection, join_transaction_mode="create_savepoint")
        try:
            client = await stack.enter_async_context(in_process(application, settings))
            application.state.request_classes = RequestClasses(factor=0)
            async with db.AsyncSessionLocal() as session:
                made = await make_world(session, settings)
                await session.commit()
            made.connection, made.client = connection, client
            yield made
        finally:
            db.AsyncSessionLocal.configure(bind=None, join_transaction_mode="conditional_savepoint")
            await outer.rollback()


def test_every_route_is_in_the_matrix_once(application: FastAPI) -> None:
    documented = {
        f"{method.upper()} {path}" for path, item in application.openapi()["paths"].items() for method in item
    }
    assert {name for name, _ in routes()} == documented
    assert set(BY_NAME) == documented, "declare who may call it in tests/access/matrix.py"
    assert len(BY_NAME) == len(OPERATIONS)


def test_the_matrix_says_what_the_routes_ask_for() -> None:
    for name, route in routes():
        operation = BY_NAME[name]
        asked = [dependency.call for dependency in _flat(route.dependant)]
        by_role = [call for call in asked if isinstance(call, StaffWithRole)]
        kinds = {"customer": get_access_token, "merchant": get_merchant_key}
        if by_role:
            assert [f"{one.role} {one.scope}" for one in by_role] == [operation.access], name
        else:
            found = [kind for kind, call in kinds.items() if call in asked]
            assert found == [operation.kind] * (operation.kind in kinds), name
            assert get_staff_key not in asked, name


def _flat(dependant: Any) -> Iterator[Any]:
    for one in dependant.dependencies:
        yield one
        yield from _flat(one)


def test_whatever_names_an_object_of_one_owner_says_so() -> None:
    for operation in OPERATIONS:
        if operation.kind in PAIRS:
            assert operation.is_of_objects or "{" not in operation.path, operation.name


def _code(answer: httpx.Response) -> str | None:
    return answer.json()["code"] if answer.headers.get("Content-Type") == "application/problem+json" else None


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
async def test_each_caller_gets_what_is_declared(world: World, operation: Operation) -> None:
    await world.client._transport.app.state.arq_pool.flushdb()  # type: ignore[attr-defined]  # limits are another test's
    url = world.url(operation)
    wrong: dict[str, str] = {}
    content: dict[str, Any] = {} if operation.method in {"GET", "DELETE"} else {"json": {}}
    for caller in Caller:
        answer = await world.call(operation.method, url, world.headers(operation, caller), **content)
        expected = operation.expected(caller)
        if expected is Answer.ALLOWED and _code(answer) in FURTHER.get(operation.name, set()):
            continue
        if not expected.fits(answer.status_code) or answer.status_code == 429:
            wrong[caller.value] = f"{answer.status_code} instead of {expected.value}: {answer.text[:300]}"
    assert wrong == {}


@pytest.mark.parametrize(
    "operation",
    [operation for operation in OPERATIONS if operation.method == "GET" and operation.kind in PAIRS],
    ids=lambda operation: operation.name,
)
async def test_owners_see_their_own_and_nobody_else_does(world: World, operation: Operation) -> None:
    owner, other = PAIRS[operation.kind]
    marks = world.marks[operation.kind]

    async def seen_by(caller: Caller) -> set[str]:
        answer = await world.call("GET", world.url(operation), world.headers(operation, caller))
        # An error may repeat the path that it was asked for.
        body = answer.text if answer.is_success else ""
        return {mark for mark in marks if mark in body}

    if operation.name not in WITHOUT_MARKS:
        assert await seen_by(owner)
    assert await seen_by(other) == set()


async def test_what_a_body_names_is_ones_own(world: World, application: FastAPI) -> None:
    document = application.openapi()
    named = {
        (operation.name, field)
        for operation in OPERATIONS
        if operation.kind == "customer"
        for field in _fields_of_ids(document, operation)
    }
    # The catalogue is everybody's.
    public = {
        ("POST /v1/clicks", "merchant_id"),
        ("POST /v1/clicks", "offer_id"),
        ("POST /v1/me/claims", "merchant_id"),
    }
    assert named - public == {("POST /v1/me/payouts", "method_id")}
    body = {"amount_minor": 60_000, "currency": "PKR", "method_id": world.names["method_id"]}
    answer = await world.call("POST", "/v1/me/payouts", world.credentials[Caller.OTHER_CUSTOMER], json=body)
    assert (answer.status_code, _code(answer)) == (404, "payout_method_not_found")


def _fields_of_ids(document: dict[str, Any], operation: Operation) -> Iterator[str]:
    content = document["paths"][operation.path][operation.method.lower()].get("requestBody", {}).get("content", {})
    waiting = [media["schema"] for media in content.values()]
    while waiting:
        schema = waiting.pop()
        if "$ref" in schema:
            waiting.append(document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]])
        waiting += [one for kind in ("anyOf", "oneOf", "allOf") for one in schema.get(kind, [])]
        yield from (name for name in schema.get("properties", {}) if name.endswith("_id") or name == "id")


async def test_a_merchants_key_is_found_below_that_merchant_only(world: World) -> None:
    admin, key_id = world.credentials[Caller.ADMIN], world.names["key_id"]
    other = await world.call("GET", "/v1/admin/merchants", admin)
    ids = {str(one["id"]) for one in other.json()["items"]} - {world.names["merchant_id"]}
    for merchant_id in ids:
        path = f"/v1/admin/merchants/{merchant_id}/keys/{key_id}/revoke"
        assert (await world.call("POST", path, admin)).status_code == 404
    assert ids


async def test_methods_that_no_operation_has_are_refused(world: World) -> None:
    methods = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE"}
    paths: dict[str, set[str]] = {}
    for operation in OPERATIONS:
        paths.setdefault(world.url(operation), set()).add(operation.method)
    for path, known in paths.items():
        for method in sorted(methods - known):
            answer = await world.client.request(method, path)
            # 401: the path fits the pattern of another one.
            assert answer.status_code in {401, 405}, (method, path)
            if answer.status_code == 405:
                assert known <= set(answer.headers["Allow"].split(", ")), path


def test_the_table_in_the_documents_is_the_matrix() -> None:
    found = re.search(r"<!-- access -->\n(.*?)<!-- /access -->", SECURITY.read_text(), re.DOTALL)
    assert found is not None
    assert found[1].strip() == access_table(), "put the output of `python -m tests.access.table` between the markers"
