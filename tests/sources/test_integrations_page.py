"""Plays docs/integrations.md: what the page sends is sent, and its answers are compared with the real ones."""

import json
import re
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from typer.testing import CliRunner

from app.cli import app as cli
from app.config import Settings
from app.db import transaction
from app.models import StaffRole
from app.workers.webhooks import webhook_drain, webhook_replay
from tests.factories import customer_headers, make_customer, staff_headers

PAGE = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text()
PAGE_CLICK = "01a213ad-40f6-710e-b8c5-98e01a4ee286"
# A sale comes after its click, and the click of a test is made now.
SOLD_AT = datetime.now(UTC).astimezone(ZoneInfo("Europe/Stockholm")) + timedelta(minutes=5)
TIMES = {"25.11.2026 18:40:00": SOLD_AT, "27.11.2026 09:00:00": SOLD_AT + timedelta(days=2)}


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return [text for kind, text in fenced if kind == language]


def console(command: str) -> str:
    """What the page shows below a command."""
    (shown,) = [block for block in blocks("") if block.startswith(f"$ cashback {command}\n")]
    return shown.partition("\n")[2]


def shown_within(shown: Any, answer: Any) -> None:
    """Whatever the page shows is in the answer; it may leave members out."""
    if isinstance(shown, dict):
        assert {name: type(value) for name, value in shown.items()} == {name: type(answer[name]) for name in shown}
        for name, value in shown.items():
            shown_within(value, answer[name])
    elif isinstance(shown, list):
        assert len(shown) == len(answer)
        for one, other in zip(shown, answer, strict=True):
            shown_within(one, other)
    else:
        assert shown == answer


def test_the_commands_print_what_the_page_shows(tmp_path: Path) -> None:
    assert CliRunner().invoke(cli, ["source", "presets"]).output == console("source presets")
    (definition,), sample = blocks("toml"), blocks("json")[0]
    (tmp_path / "nordic.toml").write_text(definition)
    (tmp_path / "sample.json").write_text(sample)
    files = [str(tmp_path / "sample.json"), "--definition", str(tmp_path / "nordic.toml")]
    tried = CliRunner().invoke(cli, ["source", "try", *files])
    assert tried.exit_code == 1
    assert tried.output == console("source try sample.json --definition nordic.toml")


class Page:
    """The page's calls, by somebody with an admin key, with the click of a real customer in place of the page's."""

    def __init__(self, http: httpx.AsyncClient, admin: dict[str, str]) -> None:
        self.http = http
        self.admin = admin
        self.click_id = ""

    def json(self, index: int) -> Any:
        text = blocks("json")[index].replace(PAGE_CLICK, self.click_id)
        for shown, meant in TIMES.items():
            text = text.replace(shown, f"{meant:%d.%m.%Y %H:%M:%S}")
        return json.loads(text)

    async def call(self, method: str, path: str, expected: int, body: Any = None) -> Any:
        answer = await self.http.request(method, f"/v1/admin{path}", json=body, headers=self.admin)
        assert answer.status_code == expected, answer.text
        return answer.json()


@pytest.fixture
async def page(committed_db: Settings, committed_client: httpx.AsyncClient) -> Page:
    async with transaction() as session:
        return Page(committed_client, await staff_headers(session, StaffRole.ADMIN))


async def add_nordic(page: Page, settings: Settings) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Steps 3: the source, its merchant and rate, and a click that carries Nordic's parameter."""
    definition = tomllib.loads(blocks("toml")[0])
    source = await page.call("POST", "/sources", 201, {"name": "Nordic", "definition": definition})
    (merchant,) = re.findall(r"merchants\" -H \"\$STAFF\" --json '(\{.*?\})'", PAGE, re.DOTALL)
    made = await page.call("POST", "/merchants", 201, json.loads(merchant) | {"source_id": source["id"]})
    (rate,) = re.findall(r"/rates\" -H \"\$STAFF\" --json '(\{.*?\})'", PAGE)
    await page.call("POST", f"/merchants/{made['id']}/rates", 201, json.loads(rate))
    async with transaction() as session:
        shopper = customer_headers(settings, await make_customer(session))
    click = (await page.http.post("/v1/clicks", json={"merchant_id": made["id"]}, headers=shopper)).json()
    page.click_id = click["id"]
    followed = await page.http.get(click["redirect_url"])
    assert followed.headers["location"].replace(page.click_id, PAGE_CLICK) in PAGE
    return source, made["id"], shopper


async def test_a_sale_goes_the_way_that_the_page_tells(page: Page, committed_db: Settings) -> None:
    source, merchant_id, shopper = await add_nordic(page, committed_db)
    sample, wanted = page.json(0), page.json(1)
    wanted["attribution"]["merchant_id"] = merchant_id
    tried = await page.call("POST", f"/sources/{source['id']}/dry-run", 200, sample)
    shown_within(wanted, tried["events"][0])

    async def send(batch: Any) -> None:
        assert (await page.http.post(source["webhook_path"], json=batch)).status_code == 202
        await webhook_drain(committed_db)()

    await send(sample["json"])
    await send(page.json(2))
    inbox = await page.call("GET", f"/webhook-events?source_id={source['id']}", 200)
    statuses = sorted(event["status"] for event in inbox["items"])
    assert statuses == ["processed", "rejected", "rejected", "split", "split"]
    (reason,) = [block.strip() for block in blocks("") if "återkallad" in block]
    # The order of the known statuses is not kept; the page has it as the file has.
    refused = next(event["reason"] for event in inbox["items"] if "återkallad" in (event["reason"] or ""))
    assert sorted(re.split(r",? ", refused)) == sorted(re.split(r",? ", reason))

    definition = source["definition"]
    definition["reading"]["statuses"]["återkallad"] = "declined"
    assert (await page.call("PUT", f"/sources/{source['id']}/definition", 200, definition))["version"] == 2
    replay = await page.call("POST", "/webhook-replays", 202, {"status": "rejected", "source_id": source["id"]})
    assert await webhook_replay(committed_db)()
    await webhook_drain(committed_db)()
    shown_within(page.json(3), await page.call("GET", f"/webhook-replays/{replay['id']}", 200))
    (order,) = (await page.http.get("/v1/me/orders", headers=shopper)).json()["items"]
    assert order["status"] == "declined"


async def test_the_offers_are_read_as_the_page_tells(page: Page, committed_db: Settings) -> None:
    _, merchant_id, _ = await add_nordic(page, committed_db)
    body = {"format": "csv", "content": blocks("csv")[0], "mapping": page.json(4)}
    shown_within(page.json(5), await page.call("POST", f"/merchants/{merchant_id}/feed/dry-run", 200, body))
