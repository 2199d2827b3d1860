"""A sample is read as a sync would read it, and nothing is stored."""

import asyncio
import base64
import gzip
import os
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import func, select

from app.db import transaction
from app.models import Feed, Offer, OfferStaging, StaffRole, SyncRun
from tests.factories import staff_headers
from tests.feed_server import offers
from tests.sync.shapes import JSON, RSS, SHAPES, Shape
from tests.sync.world import World, counts

FEEDS = Path(__file__).parents[1] / "data/feeds"
PLAIN: dict[str, Any] = {"fields": {"external_id": "id", "title": "title", "price": "price", "url": "link"}}


async def attempt(world: World, **body: Any) -> tuple[int, dict[str, Any]]:
    path = f"/v1/admin/merchants/{world.merchant.id}/feed/dry-run"
    answer = await world.client.post(path, json=body, headers=world.operator)
    return answer.status_code, answer.json()


async def rows_of(*models: Any) -> list[int]:
    async with transaction() as session:
        return [(await session.execute(select(func.count()).select_from(model))).scalar_one() for model in models]


async def test_a_pasted_sample_shows_its_offers_and_every_problem(world: World) -> None:
    content = (
        "id,title,price,link,brand\n"
        '1,Mug,"Rs 1,299",https://shop.example/1,\n'
        "2,Cup,1.299,https://shop.example/2,\n"
        "3,Jug,5.00 USD,https://shop.example/3,\n"
    )
    fields = {**PLAIN["fields"], "brand": "brand", "description": "text"}
    status, trial = await attempt(world, content=content, format="csv", mapping={"fields": fields})
    assert status == 200
    assert trial == {
        "format": "csv",
        "rows": 3,
        "offers": [
            {
                "row": 1, "external_id": "1", "title": "Mug", "description": "", "brand": None, "category": None,
                "url": "https://shop.example/1", "image_url": None, "available": True,
                "price": {"amount_minor": 129_900, "currency": "PKR"},
                "price_max": {"amount_minor": 129_900, "currency": "PKR"},
            },
            {
                "row": 3, "external_id": "3", "title": "Jug", "description": "", "brand": None, "category": None,
                "url": "https://shop.example/3", "image_url": None, "available": True,
                "price": {"amount_minor": 500, "currency": "USD"},
                "price_max": {"amount_minor": 500, "currency": "USD"},
            },
        ],
        "offer_count": 2,
        "never_filled": ["description", "brand"],
        "deleted": [],
        "rejected": 1,
        "rejected_samples": [
            {"row": 2, "reason": "price '1.299' may be 1.299 or 1299 PKR; set decimal in the mapping"}
        ],
        "next_page": None,
        "error": None,
    }  # fmt: skip
    assert await rows_of(Feed, Offer, OfferStaging, SyncRun) == [0, 0, 0, 0]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
async def test_it_shows_what_a_sync_then_does(world: World, shape: Shape) -> None:
    items = offers(30)
    items[3]["url"] = "nowhere"
    content = shape.encode([*items, *offers(2, price_minor=7000)])
    status, trial = await attempt(world, content=content.decode(), **shape.feed())
    world.server.serve(content)
    await world.set_feed(**shape.feed())
    job = await world.sync()
    live = await world.live()
    assert status == 200
    assert (trial["offer_count"], trial["rejected"]) == (len(live), job["rejected"])
    assert {
        (one["external_id"], one["price"]["amount_minor"], one["price_max"]["amount_minor"]) for one in trial["offers"]
    } == {(key, offer.price_minor, offer.price_max_minor) for key, offer in live.items()}
    key = lambda one: one["row"]  # noqa: E731 - once
    assert sorted(trial["rejected_samples"], key=key) == sorted(job["rejected_samples"], key=key)


async def test_the_merchants_feed_is_the_default(world: World) -> None:
    status, problem = await attempt(world, content="{}")
    assert (status, problem["code"]) == (404, "feed_not_found")
    await world.set_feed()
    content = orjson.dumps({"items": offers(2), "next": "/feed?page=2"}).decode()
    status, trial = await attempt(world, content=content)
    assert (status, trial["offer_count"], trial["next_page"]) == (200, 2, world.server.url("/feed?page=2"))
    assert world.server.connections == 0


async def test_bytes_come_as_base64(world: World) -> None:
    packed = base64.b64encode(gzip.compress(RSS.encode(offers(100)))).decode()
    status, trial = await attempt(world, content_base64=packed, **RSS.feed())
    assert (status, trial["offer_count"], len(trial["offers"]), trial["error"]) == (200, 100, 50, None)


async def test_deletions_of_a_delta_are_shown(world: World) -> None:
    content = '{"op":"d","id":"7"}\n{"op":"u","id":"8","title":"A","price":1,"url":"https://x.example/8"}\n'
    mapping = {"preset": "direct-ndjson", "delta": {"field": "op"}}
    _, trial = await attempt(world, content=content, mapping=mapping)
    assert (trial["deleted"], [one["external_id"] for one in trial["offers"]]) == (["7"], ["8"])


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b'{"items": [', "The feed is not valid JSON, or it is cut short"),
        (gzip.compress(b'{"items": []}')[:-4], "The feed's gzip data ends too early"),
        (gzip.compress(b'{"items": [' + b" " * 32 * 1024**2), "The feed is larger than 16777216 bytes"),
        (JSON.encode([{"id": n} for n in range(20_001)]), "The feed has more than 20000 rows"),
        (b"PK\x03\x04rubbish", "The feed's zip archive is damaged"),
    ],
    ids=["cut", "gzip", "bomb", "rows", "zip"],
)
async def test_what_would_fail_a_sync_is_said_beside_what_was_read(world: World, content: bytes, error: str) -> None:
    status, trial = await attempt(world, content_base64=base64.b64encode(content).decode(), **JSON.feed())
    assert status == 200
    assert trial["error"].startswith(error)


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({}, ["body"]),
        ({"content": "a", "content_base64": "YQ=="}, ["body"]),
        ({"content_base64": "not base64!"}, ["body", "content_base64"]),
        ({"content": "x" * 524_289}, ["body", "content"]),
        ({"content_base64": base64.b64encode(bytes(524_289)).decode()}, ["body", "content_base64"]),
        ({"content": "x", "mapping": {"preset": "nobody"}}, ["body", "mapping", "preset"]),
        ({"content": "x", "mapping": {}}, ["body", "format"]),
        ({"content": "x", "more": 1}, ["body", "more"]),
    ],
)
async def test_what_is_no_sample_is_refused(world: World, body: dict[str, Any], loc: list[str]) -> None:
    if "mapping" not in body:
        await world.set_feed()
    status, problem = await attempt(world, **body)
    assert (status, problem["errors"][0]["loc"][: len(loc)]) == (422, loc)


async def test_viewers_may_not_and_merchants_must_exist(world: World) -> None:
    body = {"content": "x", "format": "csv", "mapping": PLAIN}
    path = f"/v1/admin/merchants/{world.merchant.id}/feed/dry-run"
    assert (await world.client.post(path, json=body, headers=world.viewer)).status_code == 403
    unknown = await world.client.post("/v1/admin/merchants/999999/feed/dry-run", json=body, headers=world.operator)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "merchant_not_found")


async def test_presets_are_listed_for_viewers(world: World) -> None:
    async with transaction() as session:
        viewer = await staff_headers(session, StaffRole.VIEWER)
    presets = (await world.client.get("/v1/admin/feed-presets", headers=viewer)).json()["items"]
    names = [preset["name"] for preset in presets]
    assert names == sorted(names)
    assert {
        "shopify",
        "google-merchant",
        "awin",
        "shareasale",
        "admitad",
        "impact",
        "partnerize",
        "rakuten",
        "cj",
    } <= set(names)
    assert all(preset["about"].endswith(".") and preset["mapping"]["fields"] for preset in presets)


# --- The command


async def command(*arguments: str) -> tuple[int, str, str]:
    """Run `cashback feed try` as people do: without a database."""
    pipe = asyncio.subprocess.PIPE
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.cli", "feed", "try", *arguments, stdout=pipe, stderr=pipe, env=environment
    )
    said, complained = await asyncio.wait_for(run.communicate(), 60)
    return run.returncode or 0, said.decode(), complained.decode()


async def test_the_command_shows_a_file(tmp_path: Path) -> None:
    code, said, _ = await command(str(FEEDS / "google-merchant.xml"), "--preset", "google-merchant")
    lines = said.splitlines()
    assert code == 0
    assert lines[0].split() == ["EXTERNAL", "ID", "TITLE", "PRICE", "STOCK", "URL"]
    assert lines[1].startswith("dz1 ")
    assert "105.29 USD" in lines[1]
    assert lines[2] == "no row has: sale_price, sale_period"
    assert lines[-1] == "2 rows: 1 offers, 0 rejected"

    (tmp_path / "feed.csv").write_text(
        'id;title;price;link\n1;Mug;"1.299,00";https://x.example/1\n2;Cup;cheap;https://x.example/2\n'
    )
    (tmp_path / "mapping.json").write_bytes(orjson.dumps(PLAIN))
    code, said, _ = await command(
        str(tmp_path / "feed.csv"), "--format", "csv", "--mapping", str(tmp_path / "mapping.json"), "--currency", "EUR"
    )
    assert code == 0
    assert "1299.00 EUR" in said
    assert "row 2 rejected: price 'cheap' is not an amount" in said


async def test_the_command_says_what_is_wrong_and_fails(tmp_path: Path) -> None:
    (tmp_path / "feed.xml").write_text("<rss><channel><item>")
    code, said, _ = await command(str(tmp_path / "feed.xml"), "--preset", "google-merchant")
    assert code == 1
    assert "A sync would fail: The feed is not valid XML, or it is cut short" in said
    code, _, complained = await command(str(tmp_path / "feed.xml"), "--format", "xml")
    assert (code, complained.splitlines()) == (
        2,
        [
            "fields.external_id: Field required",
            "fields.title: Field required",
            "fields.price: Field required",
            "items_path: Field required",
        ],
    )
    code, _, complained = await command(str(tmp_path / "nowhere.xml"), "--preset", "cj")
    assert code == 2
    assert "No such file" in complained


async def test_samples_are_what_the_world_syncs(world: World) -> None:
    """The sample data of this repository, through the whole sync."""
    await world.set_feed(mapping={"preset": "google-merchant"})
    world.server.serve((FEEDS / "google-merchant.xml").read_bytes())
    assert counts(await world.sync()) == {"fetched": 1, "created": 1}
