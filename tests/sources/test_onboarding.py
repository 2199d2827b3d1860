"""A network that no preset knows, onboarded through the API alone: paste a sample, see the dry run, switch on."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx

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


async def test_a_network_in_no_preset_is_onboarded_through_the_api_alone(
    committed_db: Settings, committed_client: httpx.AsyncClient
) -> None:
    http = committed_client
    async with transaction() as session:
        admin = await staff_headers(session, StaffRole.ADMIN)
        shopper = customer_headers(committed_db, await make_customer(session))

    # A definition with a mistake is refused, naming it.
    wrong = {**DEFINITION, "transport": {"accepts": ["json"], "events": "conversions[?kind = 'order']"}}
    refused = await http.post("/v1/admin/sources", json={"name": "Nordic", "definition": wrong}, headers=admin)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["loc"][-2:] == ["transport", "events"]

    made = await http.post(
        "/v1/admin/sources", json={"name": "Nordic", "definition": DEFINITION, "secret": SECRET}, headers=admin
    )
    assert made.status_code == 201, made.text
    source = made.json()
    assert (source["preset"], source["version"], source["live_secrets"]) == (None, 1, 1)
    merchant = await http.post(
        "/v1/admin/merchants",
        json={
            "slug": "skor",
            "name": "Skor",
            "currency": "SEK",
            "tracking_url": "https://go.nordic.example/?s=skor-24",
            "source_id": source["id"],
            "network_merchant_ref": "skor-24",
        },
        headers=admin,
    )
    assert merchant.status_code == 201, merchant.text
    merchant_id = merchant.json()["id"]
    rate = {"kind": "percent_of_sale", "basis_points": 500}
    assert (await http.post(f"/v1/admin/merchants/{merchant_id}/rates", json=rate, headers=admin)).status_code == 201

    # The click-out carries the click id in the network's own parameter.
    click = (await http.post("/v1/clicks", json={"merchant_id": merchant_id}, headers=shopper)).json()
    followed = await http.get(click["redirect_url"])
    assert followed.headers["location"] == f"https://go.nordic.example/?s=skor-24&tr={click['id']}"

    # A sample is pasted, and the dry run says what is wrong with it, and what would become of it.
    now = datetime.now(UTC) + timedelta(minutes=1)
    sample = {"conversions": [conversion(click["id"], "Ny", now), {"kind": "visit"}]}
    url = f"/v1/admin/sources/{source['id']}/dry-run"
    tried = (await http.post(url, json={"json": sample}, headers=admin)).json()
    (event,) = tried["events"]
    assert (tried["authentication"], event["status"], event["problems"]) == ("fails", "processed", [])
    assert event["order"]["sale"] == {"amount_minor": 129_950, "currency": "SEK"}
    assert event["order"]["commission"] == {"amount_minor": 10_396, "currency": "SEK"}
    strange = {"conversions": [conversion(click["id"], "kanske", now, basket={"number": "#1", "total": "1299.5"})]}
    problems = (await http.post(url, json={"json": strange}, headers=admin)).json()["events"][0]["problems"]
    assert {problem["field"]: problem["path"] for problem in problems} == {
        "status": "state",
        "amount": "basket.total",
        "commission": "basket.total",
    }

    # Live: a sale, then its approval in a later batch that repeats it.
    drain = webhook_drain(committed_db)
    sale = conversion(click["id"], "NY", now)
    approval = conversion(click["id"], "godkänd", now + timedelta(days=20))
    for conversions in ([sale], [sale, approval, {"kind": "visit"}]):
        body = json.dumps({"conversions": conversions}, ensure_ascii=False).encode()
        path = source["webhook_path"]
        assert (await http.post(path, content=body, headers=signed(body))).status_code == 202
        assert (await http.post(path, content=body + b" ", headers=signed(body))).status_code == 401
        await drain()
    (order,) = (await http.get("/v1/me/orders", headers=shopper)).json()["items"]
    assert (order["order_reference"], order["status"]) == ("7001", "approved")
    assert order["cashback"] == {"amount_minor": 6_498, "currency": "SEK"}
    listed = await http.get(f"/v1/admin/webhook-events?source_id={source['id']}", headers=admin)
    assert sorted(item["status"] for item in listed.json()["items"]) == ["processed", "processed", "split", "split"]

    # The network renames a status: a new version reads what was rejected until then.
    partial = conversion(click["id"], "återkallad", now + timedelta(days=25))
    body = json.dumps({"conversions": [partial]}, ensure_ascii=False).encode()
    await http.post(source["webhook_path"], content=body, headers=signed(body))
    await drain()
    statuses = {**DEFINITION["reading"]["statuses"], "återkallad": "declined"}
    newer = {**DEFINITION, "reading": {**DEFINITION["reading"], "statuses": statuses}}
    defined = await http.put(f"/v1/admin/sources/{source['id']}/definition", json=newer, headers=admin)
    assert (defined.status_code, defined.json()["version"], defined.json()["secret"]) == (200, 2, None)
    versions = (await http.get(f"/v1/admin/sources/{source['id']}/versions", headers=admin)).json()["items"]
    assert [version["number"] for version in versions] == [2, 1]
    assert "återkallad" not in versions[1]["definition"]["reading"]["statuses"]
    (rejected,) = (await http.get("/v1/admin/webhook-events?status=rejected", headers=admin)).json()["items"]
    assert "'återkallad' is none of" in rejected["reason"]
    assert (await http.post(f"/v1/admin/webhook-events/{rejected['id']}/replay", headers=admin)).status_code == 202
    await drain()
    (order,) = (await http.get("/v1/me/orders", headers=shopper)).json()["items"]
    assert order["status"] == "declined"
