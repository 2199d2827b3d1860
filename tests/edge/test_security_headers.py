"""Every answer tells browsers and caches what not to do with it, whoever made it."""

import base64
import hashlib
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.main import create_app
from tests.conftest import make_settings
from tests.factories import customer_headers, make_click, make_customer, make_merchant

ORIGIN = "https://shop.example"
PREFLIGHT = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}


def application(**changes: object) -> FastAPI:
    return create_app(make_settings(database_url="postgresql://", redis_url="redis://", **changes))


@pytest.fixture(scope="module")
async def http() -> AsyncIterator[httpx.AsyncClient]:
    app = application()

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("boom")

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/livez", {}, 200),
        ("GET", "/openapi.json", {}, 200),
        ("GET", "/v1/me", {}, 401),
        ("GET", "/nothing", {}, 404),
        ("DELETE", "/livez", {}, 405),
        ("POST", "/v1/customers", {"Content-Length": "1000000000"}, 413),
        ("GET", f"/{'x' * 9000}", {}, 414),
        ("GET", "/boom", {}, 500),
        ("OPTIONS", "/v1/me", PREFLIGHT, 200),
        ("OPTIONS", "/v1/me", {**PREFLIGHT, "Origin": "https://evil.example"}, 400),
    ],
)
async def test_every_answer_carries_them(
    http: httpx.AsyncClient, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = await http.request(method, path, headers=headers)
    assert answer.status_code == status
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert "Strict-Transport-Security" not in answer.headers
    assert "Server" not in answer.headers
    assert all(len(answer.headers.get_list(name)) == 1 for name in answer.headers)


async def test_money_is_never_cached_and_a_merchant_learns_which_shop_sent_the_customer(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    customer, merchant = await make_customer(session), await make_merchant(session)
    wallet = await client.get("/v1/me/wallet", headers=customer_headers(settings, customer))
    assert (wallet.status_code, wallet.headers["Cache-Control"]) == (200, "no-store")
    click = await make_click(session, customer, merchant)
    leaving = await client.get(f"/r/{click.id}")
    assert leaving.status_code == 302
    assert leaving.headers["Cache-Control"] == "no-store"
    # Networks refuse traffic without a referrer; a browser's own default tells the origin alone.
    assert leaving.headers["Referrer-Policy"] == "strict-origin-when-cross-origin"


async def test_https_is_insisted_on_where_it_is_spoken() -> None:
    for app, scheme, expected in (
        (application(), "http", None),
        (application(), "https", "max-age=31536000"),
        (application(public_url="https://api.example"), "http", "max-age=31536000"),
        (application(hsts_seconds=60), "https", "max-age=60"),
        (application(hsts_seconds=0), "https", None),
    ):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=f"{scheme}://test") as client:
            answer = await client.get("/livez")
        assert answer.headers.get("Strict-Transport-Security") == expected


async def test_docs_may_run_their_own_script_and_nothing_else(http: httpx.AsyncClient) -> None:
    page = await http.get("/docs")
    policy = dict(part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    [script] = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy["script-src"] == f"'self' 'sha256-{digest}'"
    # No handler or style of the page's own that the policy would stop.
    assert not re.search(r"<[^>]+ (on\w+|style)=", page.text)
