"""Clicks: the rate in force is frozen, the click id travels in the target URL, the rest is refused."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.ids import new_id
from app.models import (
    Click,
    Customer,
    CustomerStatus,
    Merchant,
    MerchantStatus,
    Offer,
    RateKind,
    SourceStatus,
)
from app.services.click_targets import InvalidTargetError, target_url
from app.urls import with_parameter
from tests.factories import (
    customer_headers,
    make_click,
    make_customer,
    make_merchant,
    make_offer,
    make_rate,
    make_source,
)


@pytest.fixture
async def customer(session: AsyncSession) -> Customer:
    return await make_customer(session)


@pytest.fixture
def headers(settings: Settings, customer: Customer) -> dict[str, str]:
    return customer_headers(settings, customer)


async def post_click(
    client: httpx.AsyncClient, headers: dict[str, str], merchant: Merchant | int, offer: Offer | UUID | None = None
) -> httpx.Response:
    body: dict[str, Any] = {"merchant_id": merchant.id if isinstance(merchant, Merchant) else merchant}
    if offer is not None:
        body["offer_id"] = str(offer.id if isinstance(offer, Offer) else offer)
    return await client.post("/v1/clicks", json=body, headers=headers)


async def assert_refused(answer: httpx.Response, status: int, code: str, session: AsyncSession) -> None:
    assert answer.status_code == status
    assert answer.json()["code"] == code
    assert await session.scalar(select(func.count()).select_from(Click)) == 0


async def test_click_freezes_the_rate_and_leads_to_the_merchant(
    client: httpx.AsyncClient, session: AsyncSession, customer: Customer, headers: dict[str, str]
) -> None:
    merchant = await make_merchant(session, tracking_url="https://shop.example/?utm=a#top")
    answer = await post_click(client, headers, merchant)
    assert answer.status_code == 201
    made = answer.json()
    click = (await session.scalars(select(Click))).one()
    assert made == {
        "id": str(click.id),
        "merchant_id": merchant.id,
        "offer_id": None,
        "redirect_url": f"http://cashback.test/r/{click.id}",
        "rate": {
            "kind": "percent_of_sale",
            "basis_points": 500,
            "fixed": None,
            "cap": None,
            "cap_month": None,
            "tiers": [],
        },
        "boosts": [],
        "created_at": click.created_at.isoformat().replace("+00:00", "Z"),
        "expires_at": click.expires_at.isoformat().replace("+00:00", "Z"),
    }
    assert click.customer_id == customer.id
    assert click.expires_at - click.created_at == timedelta(days=45)
    assert click.target_url == f"https://shop.example/?utm=a&click_id={click.id}#top"


async def test_later_rates_do_not_change_what_was_promised(
    client: httpx.AsyncClient, session: AsyncSession, headers: dict[str, str]
) -> None:
    merchant = await make_merchant(session)
    await make_rate(
        session,
        merchant,
        kind=RateKind.FIXED,
        fixed_minor=25_000,
        cap_minor=20_000,
        valid_from=datetime.now(UTC) - timedelta(hours=1),
    )
    first = (await post_click(client, headers, merchant)).json()
    promised: dict[str, Any] = {
        "kind": "fixed",
        "basis_points": None,
        "fixed": {"amount_minor": 25_000, "currency": "PKR"},
        "cap": {"amount_minor": 20_000, "currency": "PKR"},
        "cap_month": None,
        "tiers": [],
    }
    assert first["rate"] == promised
    await make_rate(session, merchant, basis_points=100, valid_from=datetime.now(UTC) - timedelta(seconds=1))
    second = (await post_click(client, headers, merchant)).json()
    assert second["rate"]["basis_points"] == 100
    listed = (await client.get("/v1/me/clicks", headers=headers)).json()["items"]
    assert listed == [second, first]


async def test_click_on_an_offer_leads_to_its_url(
    client: httpx.AsyncClient, session: AsyncSession, headers: dict[str, str]
) -> None:
    merchant = await make_merchant(session)
    offer = await make_offer(session, merchant, url="https://shop.example/p/1?size=m&click_id=old")
    made = (await post_click(client, headers, merchant, offer)).json()
    assert made["offer_id"] == str(offer.id)
    followed = await client.get(f"/r/{made['id']}")
    assert followed.headers["location"] == f"https://shop.example/p/1?size=m&click_id={made['id']}"


async def test_deeplink_parameter_hands_the_offers_url_to_the_network(
    client: httpx.AsyncClient, session: AsyncSession, headers: dict[str, str]
) -> None:
    merchant = await make_merchant(
        session, tracking_url="https://network.example/cread.php?awinmid=1", deeplink_parameter="ued"
    )
    offer = await make_offer(session, merchant, url="https://shop.example/p/1?a=b&c=d#e")
    made = (await post_click(client, headers, merchant, offer)).json()
    location = urlsplit((await client.get(f"/r/{made['id']}")).headers["location"])
    assert location.netloc == "network.example"
    assert parse_qsl(location.query) == [
        ("awinmid", "1"),
        ("ued", "https://shop.example/p/1?a=b&c=d#e"),
        ("click_id", made["id"]),
    ]


async def test_redirect_needs_no_sign_in_and_is_not_stored(client: httpx.AsyncClient, session: AsyncSession) -> None:
    merchant = await make_merchant(session)
    click = await make_click(session, await make_customer(session), merchant, target_url="https://shop.example/ä b")
    answer = await client.get(f"/r/{click.id}")
    assert answer.status_code == 302
    assert answer.headers["location"] == "https://shop.example/%C3%A4%20b"
    assert answer.headers["cache-control"] == "no-store"


async def test_unknown_click_is_not_found(client: httpx.AsyncClient, session: AsyncSession) -> None:
    answer = await client.get(f"/r/{new_id()}")
    assert answer.status_code == 404
    assert answer.json()["code"] == "click_not_found"
    assert (await client.get("/r/nonsense")).status_code == 422


async def test_public_url_replaces_the_requests_own(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, headers: dict[str, str]
) -> None:
    application = client._transport.app  # type: ignore[attr-defined]  # httpx's ASGITransport
    application.state.settings = settings.model_copy(update={"public_url": "https://go.example/"})
    made = (await post_click(client, headers, await make_merchant(session))).json()
    assert made["redirect_url"] == f"https://go.example/r/{made['id']}"


# --- Refusals


async def test_unknown_merchant_is_refused(
    client: httpx.AsyncClient, session: AsyncSession, headers: dict[str, str]
) -> None:
    await assert_refused(await post_click(client, headers, 2**31 - 1), 404, "merchant_not_found", session)


@pytest.mark.parametrize(
    ("status", "http_status", "code"),
    [(MerchantStatus.CLOSED, 404, "merchant_closed"), (MerchantStatus.PAUSED, 409, "merchant_paused")],
)
async def test_merchant_that_is_not_active_takes_no_clicks(
    client: httpx.AsyncClient,
    session: AsyncSession,
    headers: dict[str, str],
    status: MerchantStatus,
    http_status: int,
    code: str,
) -> None:
    merchant = await make_merchant(session, status=status)
    await assert_refused(await post_click(client, headers, merchant), http_status, code, session)


async def test_merchant_without_a_rate_in_force_takes_no_clicks(
    client: httpx.AsyncClient, session: AsyncSession, headers: dict[str, str]
) -> None:
    merchant = await make_merchant(session, rate_basis_points=None)
    now = datetime.now(UTC)
    await make_rate(session, merchant, basis_points=1, valid_to=now - timedelta(hours=1))
    await make_rate(session, merchant, basis_points=1, valid_from=now + timedelta(hours=1))
    await assert_refused(await post_click(client, headers, merchant), 409, "merchant_without_rate", session)


async def test_merchant_without_an_active_source_takes_no_clicks(
    client: httpx.AsyncClient, session: AsyncSession, headers: dict[str, str]
) -> None:
    disabled = await make_source(session, status=SourceStatus.DISABLED)
    for source_id in (None, disabled.id):
        merchant = await make_merchant(session, source_id=source_id)
        await assert_refused(await post_click(client, headers, merchant), 409, "merchant_without_source", session)


async def test_offers_that_cannot_be_reached_are_refused(
    client: httpx.AsyncClient, session: AsyncSession, headers: dict[str, str]
) -> None:
    merchant = await make_merchant(session)
    removed = await make_offer(session, merchant, removed_at=datetime.now(UTC))
    foreign = await make_offer(session, await make_merchant(session))
    script = await make_offer(session, merchant, url="javascript:alert(1)")
    for offer, status, code in (
        (new_id(), 404, "offer_not_found"),
        (removed, 404, "offer_removed"),
        (foreign, 409, "offer_of_other_merchant"),
        (script, 409, "click_target_invalid"),
    ):
        await assert_refused(await post_click(client, headers, merchant, offer), status, code, session)


async def test_frozen_customers_are_promised_nothing(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    frozen = await make_customer(session, status=CustomerStatus.FROZEN)
    answer = await post_click(client, customer_headers(settings, frozen), await make_merchant(session))
    await assert_refused(answer, 403, "customer_frozen", session)


async def test_clicks_need_a_sign_in(client: httpx.AsyncClient, session: AsyncSession) -> None:
    merchant = await make_merchant(session)
    await assert_refused(await post_click(client, {}, merchant), 401, "sign_in_required", session)
    assert (await client.get("/v1/me/clicks")).status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"merchant_id": "x"},
        {"merchant_id": 0},
        {"merchant_id": 2**31},
        {"merchant_id": 1, "offer_id": "x"},
        {"merchant_id": 1, "customer_id": str(new_id())},
        {"merchant_id": 1, "rate_basis_points": 10_000},
    ],
)
async def test_bodies_that_do_not_fit_are_refused(
    client: httpx.AsyncClient, headers: dict[str, str], body: dict[str, Any]
) -> None:
    assert (await client.post("/v1/clicks", json=body, headers=headers)).status_code == 422


# --- History


async def test_history_is_the_customers_own_newest_first(
    client: httpx.AsyncClient, session: AsyncSession, customer: Customer, headers: dict[str, str]
) -> None:
    merchant = await make_merchant(session)
    made = [str((await make_click(session, customer, merchant)).id) for _ in range(5)]
    await make_click(session, await make_customer(session), merchant)
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        params = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        page = (await client.get("/v1/me/clicks", headers=headers, params=params)).json()
        seen += [click["id"] for click in page["items"]]
        cursor = page["next_cursor"]
    assert seen == made[::-1]


# --- Target URLs


def test_a_parameter_is_replaced_and_everything_else_stays_byte_for_byte() -> None:
    url = "https://shop.example/p%20q/?a=%7e+1&&s=old&b&S=keep&%73=old2&c=#f?s=1"
    assert with_parameter(url, "s", "x&y=z #é") == (
        "https://shop.example/p%20q/?a=%7e+1&b&S=keep&c=&s=x%26y%3Dz%20%23%C3%A9#f?s=1"
    )
    assert with_parameter("https://shop.example", "s", "1") == "https://shop.example?s=1"


@hypothesis_settings(max_examples=200, deadline=None, database=None)
@given(
    pairs=st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=5),
    name=st.text(min_size=1, max_size=8),
    value=st.text(max_size=20),
)
def test_a_parameter_arrives_as_it_was_given(pairs: list[tuple[str, str]], name: str, value: str) -> None:
    url = "https://shop.example/"
    for other, content in pairs:
        url = with_parameter(url, other, content)
    arrived = parse_qsl(urlsplit(with_parameter(url, name, value)).query, keep_blank_values=True)
    assert arrived[-1] == (name, value)
    assert [one for one, _ in arrived].count(name) == 1
    expected = {other: content for other, content in pairs if other != name}
    assert dict(arrived[:-1]) == expected


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "ftp://shop.example/",
        "//shop.example/",
        "/p/1",
        "https://",
        "https:///p",
        "https://shop.example:port/",
        "https://[::1/",
        "https://shop.example/\r\nSet-Cookie: a=b",
        "data:text/html,x",
        "",
    ],
)
def test_only_http_urls_are_targets(url: str) -> None:
    def target(tracking_url: str, deeplink_parameter: str | None, offer_url: str | None) -> str:
        return target_url(
            tracking_url=tracking_url,
            deeplink_parameter=deeplink_parameter,
            offer_url=offer_url,
            subid_parameter="s",
            subid="1",
        )

    good = "https://shop.example/"
    for arguments in ((url, None, None), (good, None, url), (good, "ued", url), (url, "ued", good)):
        with pytest.raises(InvalidTargetError):
            target(*arguments)
