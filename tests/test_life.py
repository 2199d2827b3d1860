"""The life of one cashback over real HTTP, with the real API and worker processes."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import orjson
import pytest

from app.config import Settings
from app.db import transaction
from app.services.demo import DemoCredentials, load_demo
from tests.service import Process, Service, wait_until
from tests.webhooks.sender import order_payload, signed_headers


@pytest.fixture
async def demo(committed_db: Settings) -> DemoCredentials:
    async with transaction() as session:
        return await load_demo(session, committed_db)


@pytest.fixture
def service(committed_db: Settings, tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path, database_url=committed_db.database_url, redis_url=committed_db.redis_url) as service:
        yield service


class Shopper:
    """A signed-in customer at the real API."""

    def __init__(self, http: httpx.Client, demo: DemoCredentials) -> None:
        self.demo = demo
        self.http = http
        token = self.http.post(
            "/v1/auth/token",
            data={
                "grant_type": "password",
                "username": demo.customer_email,
                "password": demo.customer_password,
            },
        ).json()
        self.http.headers["Authorization"] = f"Bearer {token['access_token']}"

    def click(self) -> str:
        click = self.http.post("/v1/clicks", json={"merchant_id": self.demo.merchant_id})
        assert click.status_code == 201
        redirect = httpx.get(click.json()["redirect_url"], follow_redirects=False)
        assert redirect.status_code == 302
        sub_id = parse_qs(urlsplit(redirect.headers["location"]).query)["click_id"]
        assert sub_id == [click.json()["id"]]
        return sub_id[0]

    def report(self, kind: str, click_id: str, *, request_id: str | None = None, **payload: Any) -> None:
        body = orjson.dumps(order_payload(kind, "LIFE-1", click_id, **payload))
        headers = signed_headers(body, secret=self.demo.webhook_secret)
        if request_id:
            headers["X-Request-ID"] = request_id
        answer = self.http.post(f"/v1/webhooks/{self.demo.source_key}", content=body, headers=headers)
        assert (answer.status_code, answer.json()["status"]) == (202, "accepted")

    def wallet(self) -> dict[str, int]:
        balances = self.http.get("/v1/me/wallet").json()["balances"]
        return {name: amount for name, amount in (balances[0] if balances else {}).items() if name != "currency"}


def test_a_click_a_sale_and_its_approval_end_as_available_money(service: Service, demo: DemoCredentials) -> None:
    api, worker = service.start_api(), service.start("worker", "default")
    with httpx.Client(base_url=service.url, timeout=10) as http:
        live_one_life(Shopper(http, demo), api, worker)
    everything = b"".join(process.log.read_bytes() for process in service.processes)
    secrets = (demo.webhook_secret, demo.customer_password, demo.source_key, demo.staff_api_key)
    assert not [secret for secret in secrets if secret.encode() in everything]
    assert not re.search(rb"eyJ[A-Za-z0-9_-]+\.", everything), "an access token is in the log"


def live_one_life(shopper: Shopper, api: Process, worker: Process) -> None:
    assert shopper.wallet() == {}
    click_id = shopper.click()

    shopper.report("created", click_id, amount=200_000, commission=16_000, request_id="life-of-one-cashback")
    wait_until(lambda: shopper.wallet().get("pending_minor") == 10_000, seconds=10, what="the sale is pending cashback")
    shopper.report("approved", click_id, at=datetime.now(UTC))
    wait_until(lambda: shopper.wallet()["available_minor"] == 10_000, seconds=15, what="the cashback is available")
    assert shopper.wallet() == {
        "pending_minor": 0,
        "available_minor": 10_000,
        "in_payout_minor": 0,
        "paid_minor": 0,
        "debt_minor": 0,
    }

    (listed,) = shopper.http.get("/v1/me/orders").json()["items"]
    order = shopper.http.get(f"/v1/me/orders/{listed['id']}").json()
    assert order["status"] == "payable"
    assert [state["status"] for state in order["history"]] == ["pending", "approved", "payable"]
    assert sum(step["amount_minor"] for step in order["explanation"]) == order["cashback"]["amount_minor"] == 10_000
    entries = shopper.http.get("/v1/me/wallet/entries").json()["items"]
    assert [(entry["balance"], entry["amount_minor"], entry["cause"]) for entry in reversed(entries)] == [
        ("pending", 10_000, "pending"),
        ("pending", -10_000, "payable"),
        ("available", 10_000, "payable"),
    ]

    # The client's request id is in the API's log and in that of the worker that did the work.
    for process, message in ((api, "request"), (worker, "webhook event processed")):
        lines = [line for line in process.log_lines() if line.get("request_id") == "life-of-one-cashback"]
        assert message in [line["message"] for line in lines]


def test_every_line_of_every_process_is_json(service: Service, demo: DemoCredentials) -> None:
    service.start_api()
    worker = service.start("worker", "sync")
    wait_until(worker.log_lines, seconds=15, what="the worker logs")
    for process in service.processes:
        assert process.stop() == 0
        for line in process.log.read_bytes().splitlines():
            parsed = orjson.loads(line)
            assert {"time", "level", "logger", "message", "process", "request_id"} <= parsed.keys()
