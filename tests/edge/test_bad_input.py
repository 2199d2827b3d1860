"""Whatever comes in a header, a query, a path or a body: an answer of ours, and never a failure of ours."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.models import StaffRole
from app.services.rate_limits import RequestClasses
from tests.edge.bodies import UUID_TEXT, example, target
from tests.factories import customer_headers, make_customer, make_merchant, staff_headers

# PostgreSQL's text cannot hold it.
UNFIT = "a\x00b"
# UTF-8 cannot.
SURROGATE = "\ud800"


def application_of(client: httpx.AsyncClient) -> FastAPI:
    app = client._transport.app  # type: ignore[attr-defined]  # httpx's ASGITransport
    assert isinstance(app, FastAPI)
    return app


def texts(schema: dict[str, Any], schemas: dict[str, Any], depth: int = 0) -> Iterator[Any]:
    """Bodies as a schema wants them, each with one text or free value that cannot be stored.

    One of a character that JSON can hold and PostgreSQL cannot; what JSON itself cannot hold is refused for the whole
    body, whichever member has it.
    """
    if depth > 4:
        return
    if "$ref" in schema:
        yield from texts(schemas[schema["$ref"].rsplit("/", 1)[1]], schemas, depth + 1)
    for kind in ("anyOf", "oneOf", "allOf"):
        for one in schema.get(kind, []):
            yield from texts(one, schemas, depth)
    if schema.get("type") == "string" or not schema:
        yield UNFIT
    if schema.get("type") == "array":
        for value in texts(schema.get("items", {}), schemas, depth):
            yield [value]
    if schema.get("type") == "object" and "properties" not in schema:
        yield {UNFIT: UNFIT}
        yield {"a": UNFIT}
    base = {name: example(one, schemas) for name, one in schema.get("properties", {}).items()}
    for name, one in schema.get("properties", {}).items():
        for value in texts(one, schemas, depth + 1):
            yield {**base, name: value}


async def test_no_text_that_cannot_be_stored_fails_anywhere(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    merchant = await make_merchant(session)
    app = application_of(client)
    app.state.request_classes = RequestClasses(factor=0)
    document = app.openapi()
    schemas = document["components"]["schemas"]
    of_staff = await staff_headers(session, StaffRole.ADMIN)
    of_customer = customer_headers(settings, await make_customer(session))
    count, failures = 0, []
    for path, item in document["paths"].items():
        if path.startswith(("/v1/webhooks", "/v1/payout-callbacks")):  # raw bytes that somebody signed
            continue
        for method, operation in item.items():
            content = operation.get("requestBody", {}).get("content", {})
            if "application/json" not in content:
                continue
            headers = of_customer if path.startswith(("/v1/me", "/v1/clicks")) else of_staff
            url = target(path, str(merchant.id) if "merchant_id" in path else UUID_TEXT)
            schema = content["application/json"]["schema"]
            for body in (*texts(schema, schemas), {SURROGATE: SURROGATE}):
                count += 1
                answer = await client.request(
                    method,
                    url,
                    content=json.dumps(body),
                    headers={**headers, "Content-Type": "application/json"},
                )
                if answer.status_code >= 500 or (SURROGATE in body and answer.status_code != 422):
                    failures.append(f"{method} {path} {json.dumps(body)[:150]} {answer.status_code}")
    assert failures == []
    assert count > 150


async def test_no_form_with_text_that_cannot_be_stored_fails(client: httpx.AsyncClient) -> None:
    for bad in ("%00", "%ed%a0%80", "%ff%fe"):
        for body in (
            f"grant_type=password&username=a{bad}@example.com&password=x",
            f"grant_type=password&username=a@example.com&password=x{bad}",
            f"grant_type=refresh_token&refresh_token={bad}",
            f"grant_type={bad}",
        ):
            answer = await client.post(
                "/v1/auth/token", content=body, headers={"Content-Type": "application/x-www-form-urlencoded"}
            )
            assert 400 <= answer.status_code < 500, body
    revoked = await client.post("/v1/auth/revoke", data={"token": "a\x00b"})
    assert revoked.status_code in {204, 422}


OTHERS = ("99999999999999999999999", "%22%27;--")


async def test_no_path_and_no_query_fails(client: httpx.AsyncClient, session: AsyncSession, settings: Settings) -> None:
    app = application_of(client)
    app.state.request_classes = RequestClasses(factor=0)
    of_staff = await staff_headers(session, StaffRole.ADMIN)
    of_customer = customer_headers(settings, await make_customer(session))
    others = itertools.cycle(("%ED%A0%80", *OTHERS))
    for path, item in app.openapi()["paths"].items():
        if "get" not in item or path in {"/metrics", "/readyz"}:
            continue
        headers = of_customer if path.startswith("/v1/me") else of_staff
        names = [one["name"] for one in item["get"].get("parameters", []) if one["in"] == "query"]
        urls = [f"{target(path, UUID_TEXT)}?{name}=" for name in names]
        for url in urls:
            # A NUL for each, and the others in turn.
            for bad in ("%00", next(others)):
                answer = await client.get(url + bad, headers=headers)
                assert answer.status_code < 500, (url, bad)
        if "{" in path:
            for bad in ("%00", "%ED%A0%80", *OTHERS):
                answer = await client.get(target(path, bad), headers=headers)
                assert answer.status_code < 500, (path, bad)


# What a header's value may hold on the wire: anything but control characters (uvicorn refuses those).
header_values = st.binary(max_size=60).map(lambda raw: bytes(byte for byte in raw if byte >= 32 and byte != 127))
FIELDS = (
    "Authorization",
    "X-API-Key",
    "Idempotency-Key",
    "X-Request-ID",
    "X-Device-ID",
    "Range",
    "If-None-Match",
    "If-Modified-Since",
    "Accept",
    "Accept-Language",
    "Origin",
    "Cookie",
    "Host",
    "Content-Type",
    "Content-Length",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
)
REQUESTS = (
    ("GET", "/v1/categories"),
    ("GET", "/v1/merchants"),
    ("GET", "/docs/assets/swagger-ui.css"),
    ("GET", "/v1/me/wallet"),
    ("POST", "/v1/clicks"),
    ("POST", "/v1/customers"),
    ("POST", "/v1/auth/token"),
    ("POST", "/v1/webhooks/some-key"),
    ("GET", "/v1/admin/orders"),
)


@given(
    request=st.sampled_from(REQUESTS),
    fields=st.dictionaries(st.sampled_from(FIELDS), header_values, max_size=5),
    scheme=st.sampled_from([b"", b"Bearer ", b"bearer", b"Basic ", b"Bearer cbk_", b"bytes=0-"]),
    signed_in=st.booleans(),
)
@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_header_fails(
    client: httpx.AsyncClient,
    customer_of_test: dict[str, str],
    request: tuple[str, str],
    fields: dict[str, bytes],
    scheme: bytes,
    signed_in: bool,
) -> None:
    sent: list[tuple[bytes, bytes]] = [(name.encode(), value) for name, value in fields.items()]
    sent = [(name, scheme + value if name in {b"Authorization", b"Range"} else value) for name, value in sent]
    if signed_in and "Authorization" not in fields:
        sent += [(name.encode(), value.encode()) for name, value in customer_of_test.items()]
    method, path = request
    answer = await client.request(method, path, headers=sent, content=b"{}" if method == "POST" else None)
    assert answer.status_code < 500
    assert answer.headers["X-Request-ID"].isascii()


cursors = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=100),
    st.binary(max_size=60).map(lambda raw: raw.hex()),
    st.from_regex(r"[A-Za-z0-9_-]{0,80}={0,2}", fullmatch=True),
)


@given(cursor=cursors)
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_cursor_fails(client: httpx.AsyncClient, customer_of_test: dict[str, str], cursor: str) -> None:
    for path in ("/v1/merchants", "/v1/offers", "/v1/me/wallet/entries", "/v1/me/orders"):
        answer = await client.get(path, params={"cursor": cursor}, headers=customer_of_test)
        assert answer.status_code < 500, path


@pytest.fixture
async def customer_of_test(client: httpx.AsyncClient, session: AsyncSession, settings: Settings) -> dict[str, str]:
    application_of(client).state.request_classes = RequestClasses(factor=0)
    return customer_headers(settings, await make_customer(session))
