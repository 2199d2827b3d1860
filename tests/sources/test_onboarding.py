"""A network that no preset knows, onboarded through the API alone: paste a sample, see the dry run, switch on."""

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from app.config import Settings
from app.db import transaction
from app.models import StaffRole
from app.workers.webhooks import webhook_drain
from tests.factories import customer_headers, make_customer, staff_headers

# What its manual says: JSON batches, an HMAC over time and body, European amounts, times of its own zone.
DEFINITION: dict[str, Any] = {
    "authentication": {
        "kind": "hmac",
        "parts": ["timestamp", {"kind": "literal", "text": ":"}, "body"],
        "timestamp": {"header": "X-Nordic-Time"},
        "header": "X-Nordic-Sign",
        "prefix": "sha512=",
        "algorithm": "sha512",
        "encoding": "base64",
    },
    "transport": {"accepts": ["json"], "events": "conversions[?kind == 'order']"},
    "reading": {
        "mapping": {
            "event_id": "join('/', [uid, state, changed])",
            "order_reference": {"path": "basket.number", "transforms": [{"kind": "strip", "characters": "#"}]},
            "click_reference": {"path": "tracking", "transforms": [{"kind": "split", "separator": ":", "index": -1}]},
            "network_merchant_ref": "shop",
            "status": {"path": "state", "transforms": ["lower"]},
            "currency": {"path": "basket.currency", "transforms": ["upper", {"kind": "default", "value": "SEK"}]},
            "amount": {"path": "basket.total", "as": {"kind": "decimal", "mark": ",", "grouping": "."}},
            "commission": {
                "path": "basket.total",
                "as": {"kind": "decimal", "mark": ",", "grouping": "."},
                "share_basis_points": 800,
            },
            "occurred_at": {
                "path": "changed",
                "as": {"kind": "text", "formats": ["%d.%m.%Y %H:%M:%S"], "zone": "Europe/Stockholm"},
            },
        },
        "statuses": {"ny": "created", "godkänd": "approved", "avslagen": "declined", "test": "ignore"},
    },
    "subid_parameter": "tr",
}
SECRET = "chosen-by-the-network"
SOLD_AT = datetime.now(UTC) + timedelta(minutes=5)


def conversion(click_id: str, state: str, at: datetime, **changes: Any) -> dict[str, Any]:
    return {
        "uid": "n-1",
        "kind": "order",
        "shop": "skor-24",
        "tracking": f"web:{click_id}",
        "state": state,
        "changed": f"{at.astimezone(ZoneInfo('Europe/Stockholm')):%d.%m.%Y %H:%M:%S}",
        "basket": {"number": "#7001", "total": "1.299,50", "currency": "sek"},
        **changes,
    }


def signed(body: bytes) -> dict[str, str]:
    at = str(int(datetime.now(UTC).timestamp()))
    digest = hmac.new(SECRET.encode(), f"{at}:".encode() + body, hashlib.sha512).digest()
    return {"X-Nordic-Time": at, "X-Nordic-Sign": f"sha512={base64.b64encode(digest).decode()}"}


@dataclass
class Operator:
    """Somebody with an admin key and nothing else, and a shopper."""

    settings: Settings
    http: httpx.AsyncClient
    admin: dict[str, str]
    shopper: dict[str, str]

    async def call(self, method: str, path: str, expected: int = 200, **body: Any) -> Any:
        answer = await self.http.request(method, path, json=body or None, headers=self.admin)
        assert answer.status_code == expected, answer.text
        return answer.json()

    async def report(self, source: dict[str, Any], *conversions: dict[str, Any]) -> None:
        """What the network does: it signs its batch, posts it, and we drain."""
        body = json.dumps({"conversions": conversions}, ensure_ascii=False).encode()
        path, headers = source["webhook_path"], signed(body)
        assert (await self.http.post(path, content=body, headers=headers)).status_code == 202
        assert (await self.http.post(path, content=body + b" ", headers=headers)).status_code == 401
        await webhook_drain(self.settings)()

    async def order(self) -> dict[str, Any]:
        (order,) = (await self.http.get("/v1/me/orders", headers=self.shopper)).json()["items"]
        found: dict[str, Any] = order
        return found


@pytest.fixture
async def operator(committed_db: Settings, committed_client: httpx.AsyncClient) -> Operator:
    async with transaction() as session:
        return Operator(
            committed_db,
            committed_client,
            await staff_headers(session, StaffRole.ADMIN),
            customer_headers(committed_db, await make_customer(session)),
        )


async def test_a_network_in_no_preset_is_onboarded_through_the_api_alone(operator: Operator) -> None:
    source = await define(operator)
    click_id = await click(operator, source)
    await try_samples(operator, source, click_id)
    await go_live(operator, source, click_id)
    await follow_a_change(operator, source, click_id)


async def define(operator: Operator) -> dict[str, Any]:
    # A definition with a mistake is refused, naming it.
    wrong = {**DEFINITION, "transport": {"accepts": ["json"], "events": "conversions[?kind = 'order']"}}
    refused = await operator.call("POST", "/v1/admin/sources", 422, name="Nordic", definition=wrong)
    assert refused["errors"][0]["loc"][-2:] == ["transport", "events"]
    made: dict[str, Any] = await operator.call(
        "POST", "/v1/admin/sources", 201, name="Nordic", definition=DEFINITION, secret=SECRET
    )
    assert (made["preset"], made["version"], made["live_secrets"]) == (None, 1, 1)
    return made


async def click(operator: Operator, source: dict[str, Any]) -> str:
    """A merchant of the network, and a click-out that carries the click id in the network's own parameter."""
    merchant = await operator.call(
        "POST",
        "/v1/admin/merchants",
        201,
        slug="skor",
        name="Skor",
        currency="SEK",
        tracking_url="https://go.nordic.example/?s=skor-24",
        source_id=source["id"],
        network_merchant_ref="skor-24",
    )
    path = f"/v1/admin/merchants/{merchant['id']}/rates"
    await operator.call("POST", path, 201, kind="percent_of_sale", basis_points=500)
    made = (
        await operator.http.post("/v1/clicks", json={"merchant_id": merchant["id"]}, headers=operator.shopper)
    ).json()
    followed = await operator.http.get(made["redirect_url"])
    assert followed.headers["location"] == f"https://go.nordic.example/?s=skor-24&tr={made['id']}"
    return str(made["id"])


async def try_samples(operator: Operator, source: dict[str, Any], click_id: str) -> None:
    """A sample is pasted, and the dry run says what would become of it, and what is wrong with a strange one."""
    path = f"/v1/admin/sources/{source['id']}/dry-run"
    sample = {"conversions": [conversion(click_id, "Ny", SOLD_AT), {"kind": "visit"}]}
    tried = await operator.call("POST", path, json=sample)
    (event,) = tried["events"]
    assert (tried["authentication"], event["status"], event["problems"]) == ("fails", "processed", [])
    assert event["order"]["sale"] == {"amount_minor": 129_950, "currency": "SEK"}
    assert event["order"]["commission"] == {"amount_minor": 10_396, "currency": "SEK"}
    strange = {"conversions": [conversion(click_id, "kanske", SOLD_AT, basket={"number": "#1", "total": "1299.5"})]}
    problems = (await operator.call("POST", path, json=strange))["events"][0]["problems"]
    assert {problem["field"]: problem["path"] for problem in problems} == {
        "status": "state",
        "amount": "basket.total",
        "commission": "basket.total",
    }


async def go_live(operator: Operator, source: dict[str, Any], click_id: str) -> None:
    """A sale, then its approval in a later batch that repeats it."""
    sale = conversion(click_id, "NY", SOLD_AT)
    await operator.report(source, sale)
    await operator.report(
        source, sale, conversion(click_id, "godkänd", SOLD_AT + timedelta(days=20)), {"kind": "visit"}
    )
    order = await operator.order()
    assert (order["order_reference"], order["status"]) == ("7001", "approved")
    assert order["cashback"] == {"amount_minor": 6_498, "currency": "SEK"}
    events = (await operator.call("GET", f"/v1/admin/webhook-events?source_id={source['id']}"))["items"]
    assert sorted(event["status"] for event in events) == ["processed", "processed", "split", "split"]


async def follow_a_change(operator: Operator, source: dict[str, Any], click_id: str) -> None:
    """The network says something new: a new version reads what was rejected until then."""
    await operator.report(source, conversion(click_id, "återkallad", SOLD_AT + timedelta(days=25)))
    (rejected,) = (await operator.call("GET", "/v1/admin/webhook-events?status=rejected"))["items"]
    assert "'återkallad' is none of" in rejected["reason"]
    statuses = {**DEFINITION["reading"]["statuses"], "återkallad": "declined"}
    path = f"/v1/admin/sources/{source['id']}"
    defined = await operator.call(
        "PUT", f"{path}/definition", **{**DEFINITION, "reading": {**DEFINITION["reading"], "statuses": statuses}}
    )
    assert (defined["version"], defined["secret"]) == (2, None)
    versions = (await operator.call("GET", f"{path}/versions"))["items"]
    assert [version["number"] for version in versions] == [2, 1]
    assert "återkallad" not in versions[1]["definition"]["reading"]["statuses"]
    await operator.call("POST", f"/v1/admin/webhook-events/{rejected['id']}/replay", 202)
    await webhook_drain(operator.settings)()
    assert (await operator.order())["status"] == "declined"
