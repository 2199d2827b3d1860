"""No request sets what it was not asked for: every object of every JSON body refuses members it does not know."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.models import StaffRole
from app.services.rate_limits import RequestClasses
from tests.access.matrix import OPERATIONS, Operation
from tests.edge.bodies import UUID_TEXT, example, target
from tests.factories import customer_headers, make_customer, staff_headers

COVETED = ("balance", "available_minor", "role", "scopes", "merchant_id", "customer_id", "status", "email_verified_at")
Place = tuple[str | int, ...]


def json_schema(document: dict[str, Any], operation: Operation) -> dict[str, Any] | None:
    """The schema of an operation's JSON body; None where it has none, or reads raw bytes that a partner signed."""
    content = document["paths"][operation.path][operation.method.lower()].get("requestBody", {}).get("content", {})
    if operation.kind == "signed" or "application/json" not in content:
        return None
    schema: dict[str, Any] = content["application/json"]["schema"]
    return schema


def objects(
    schema: dict[str, Any], value: Any, schemas: dict[str, Any], at: Place = ()
) -> Iterator[tuple[Place, set[str]]]:
    """Where in a body there are objects with known members, and which those are."""
    if "$ref" in schema:
        yield from objects(schemas[schema["$ref"].rsplit("/", 1)[1]], value, schemas, at)
    for kind in ("anyOf", "oneOf", "allOf"):
        for one in schema.get(kind, [])[:1]:
            yield from objects(one, value, schemas, at)
    if isinstance(value, dict) and "properties" in schema:
        yield at, set(schema["properties"])
        for name, one in schema["properties"].items():
            if name in value:
                yield from objects(one, value[name], schemas, (*at, name))
    if isinstance(value, list) and value and "items" in schema:
        yield from objects(schema["items"], value[0], schemas, (*at, 0))


def schemas_of(schema: dict[str, Any], schemas: dict[str, Any], seen: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """All named schemas that a body is made of."""
    for node in _nodes(schema):
        name = node.rsplit("/", 1)[1]
        if name not in seen:
            seen.add(name)
            yield name, schemas[name]
            yield from schemas_of(schemas[name], schemas, seen)


def _nodes(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _nodes(value)


def test_every_object_of_a_request_is_closed(application: FastAPI) -> None:
    document = application.openapi()
    schemas, seen, count = document["components"]["schemas"], set[str](), 0
    for operation in OPERATIONS:
        for name, schema in schemas_of(json_schema(document, operation) or {}, schemas, seen):
            if "properties" in schema:
                count += 1
                assert schema.get("additionalProperties") is False, name
    assert count > 80


async def test_members_that_nobody_asked_for_are_refused_by_name(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, application: FastAPI
) -> None:
    application.state.request_classes = RequestClasses(factor=0)
    document = application.openapi()
    schemas = document["components"]["schemas"]
    staff, customer = await staff_headers(session, StaffRole.ADMIN), await make_customer(session)
    headers = {"staff": staff, "customer": customer_headers(settings, customer), "public": {}}
    tried, taken = 0, []
    for operation in OPERATIONS:
        if (schema := json_schema(document, operation)) is None:
            continue
        await application.state.arq_pool.flushdb()
        url = target(operation.path, "42" if "{merchant_id}" in operation.path else UUID_TEXT)
        body = example(schema, schemas)
        for place, known in objects(schema, body, schemas):
            extra = [name for name in COVETED if name not in known]
            changed = deepcopy(body)
            inside = changed
            for step in place:
                inside = inside[step]
            inside |= dict.fromkeys(extra, 1)
            answer = await client.request(operation.method, url, json=changed, headers=headers[operation.kind])
            refused = {
                error["loc"][-1] for error in answer.json().get("errors", []) if error["type"] == "extra_forbidden"
            }
            tried += 1
            if answer.status_code != 422 or refused != set(extra):
                taken.append(
                    (operation.name, place, answer.status_code, sorted(set(extra) - refused), answer.text[:200])
                )
    assert taken == []
    assert tried > 80


async def test_an_account_has_what_it_begins_with_whatever_else_is_sent(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    body = {"email": "new@example.com", "password": "correct horse battery"}
    assert (await client.post("/v1/customers", json={**body, "status": "frozen", "id": UUID_TEXT})).status_code == 422
    form = {"grant_type": "password", "username": body["email"], "password": body["password"]}
    # OAuth 2 has unknown parameters of a form ignored (RFC 6749, section 3.2): they do nothing.
    assert (await client.post("/v1/auth/token", data={**form, "role": "admin", "sub": UUID_TEXT})).status_code == 401
