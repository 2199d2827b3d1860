"""A merchant's feed as staff set it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from app.db import transaction
from app.models import Feed
from tests.sync.world import World

FIELDS = {"external_id": "sku", "title": "name", "price": "price", "url": "link"}


async def put(world: World, **body: Any) -> tuple[int, dict[str, Any]]:
    body = {"url": "https://shop.example/feed", "mapping": {"preset": "direct-json"}, **body}
    path = f"/v1/admin/merchants/{world.merchant.id}/feed"
    response = await world.client.put(path, json=body, headers=world.operator)
    return response.status_code, response.json()


async def test_a_preset_becomes_a_complete_mapping(world: World) -> None:
    status, feed = await put(world, mapping={"preset": "shopify"}, interval_seconds=3600)
    assert status == 200
    assert (feed["format"], feed["enabled"], feed["interval_seconds"]) == ("csv", True, 3600)
    assert feed["max_loss_basis_points"] == 3000
    assert feed["mapping"]["group_by"] == "Handle"
    assert feed["mapping"]["fields"]["price"] == "Variant Price"
    path = f"/v1/admin/merchants/{world.merchant.id}/feed"
    assert (await world.client.get(path, headers=world.operator)).json() == feed


async def test_what_is_given_beside_a_preset_wins(world: World) -> None:
    changes = {"preset": "shopify", "delimiter": ";", "fields": {"brand": None, "category": "Custom Type"}}
    _, feed = await put(world, mapping=changes)
    assert feed["mapping"]["delimiter"] == ";"
    assert feed["mapping"]["fields"]["brand"] is None
    assert feed["mapping"]["fields"]["category"] == "Custom Type"
    assert feed["mapping"]["fields"]["title"] == "Title"


async def test_a_mapping_needs_no_preset(world: World) -> None:
    _, feed = await put(world, format="csv", mapping={"fields": FIELDS, "encoding": "windows-1252"})
    assert feed["mapping"]["fields"]["external_id"] == "sku"
    assert feed["mapping"]["encoding"] == "windows-1252"
    _, feed = await put(world, format="json", mapping={"fields": FIELDS, "paging": {"kind": "page"}})
    paging = {"kind": "page", "parameter": "page", "first": 1, "pages": None, "total": None}
    assert feed["mapping"]["paging"] == paging


@pytest.mark.parametrize(
    ("body", "code", "where"),
    [
        ({"format": "csv"}, "invalid_feed_mapping", ["body", "format"]),
        ({"mapping": {"fields": FIELDS}}, "invalid_feed_mapping", ["body", "format"]),
        (
            {"format": "csv", "mapping": {"fields": {"title": "a"}}},
            "invalid_feed_mapping",
            ["body", "mapping", "fields"],
        ),
        ({"mapping": {"preset": "direct-json", "delimiter": ","}}, "invalid_feed_mapping", ["body", "mapping"]),
        ({"mapping": {"preset": "shopify", "items_path": "x"}}, "invalid_feed_mapping", ["body", "mapping"]),
        (
            {"format": "csv", "mapping": {"fields": {**FIELDS, "url": None}}},
            "invalid_feed_mapping",
            ["body", "mapping"],
        ),
        ({"mapping": {"preset": "nobody"}}, "invalid_request", ["body", "mapping", "preset"]),
        ({"url": "file:///etc/passwd"}, "invalid_request", ["body", "url"]),
        ({"url": "https://"}, "invalid_request", ["body", "url"]),
        ({"url": "https://x.example/a b"}, "invalid_request", ["body", "url"]),
        ({"url": "https://x.example/" + "a" * 2048}, "invalid_request", ["body", "url"]),
        ({"url": "https://x.example/\0"}, "invalid_request", ["body", "url"]),
        ({"interval_seconds": 59}, "invalid_request", ["body", "interval_seconds"]),
        ({"max_loss_basis_points": 10_001}, "invalid_request", ["body", "max_loss_basis_points"]),
        ({"merchant_id": 1}, "invalid_request", ["body", "merchant_id"]),
    ],
)
async def test_what_makes_no_feed_is_refused_with_its_place(
    world: World, body: dict[str, Any], code: str, where: list[str]
) -> None:
    status, problem = await put(world, **body)
    assert (status, problem["code"]) == (422, code)
    assert any(error["loc"][: len(where)] == where for error in problem["errors"]), problem["errors"]
    async with transaction() as session:
        assert (await session.scalars(select(Feed))).all() == []


async def test_unknown_merchants_have_no_feed(world: World) -> None:
    path = "/v1/admin/merchants/999999/feed"
    body = {"url": "https://shop.example/feed", "mapping": {"preset": "direct-json"}}
    unknown = await world.client.put(path, json=body, headers=world.operator)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "merchant_not_found")
    none = await world.client.get(path, headers=world.operator)
    assert (none.status_code, none.json()["code"]) == (404, "feed_not_found")


async def test_a_shorter_interval_brings_the_next_sync_forward(world: World) -> None:
    await put(world)
    async with transaction() as session:
        feed = (await session.scalars(select(Feed))).one()
        feed.next_sync_at = datetime.now(UTC) + timedelta(hours=20)
    _, kept = await put(world)
    assert datetime.fromisoformat(kept["next_sync_at"]) > datetime.now(UTC) + timedelta(hours=19)
    _, sooner = await put(world, interval_seconds=60)
    assert datetime.fromisoformat(sooner["next_sync_at"]) < datetime.now(UTC) + timedelta(minutes=2)
    _, anew = await put(world, interval_seconds=60, url="https://shop.example/other")
    assert datetime.fromisoformat(anew["next_sync_at"]) <= datetime.now(UTC) + timedelta(seconds=1)
