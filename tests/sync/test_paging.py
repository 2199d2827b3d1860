"""Pages of every kind are followed to the last, and never in a circle."""

from typing import Any

import orjson
import pytest

from app.services.sync import stream
from tests.feed_server import Reply, Request, offers
from tests.sync.shapes import CSV, NDJSON
from tests.sync.world import World, counts


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "RETRY_SECONDS", 0.001)


async def test_pages_by_offset_until_the_announced_count(world: World) -> None:
    items = offers(25)

    def route(request: Request) -> Reply:
        limit, offset = int(request.query["limit"]), int(request.query["offset"])
        page = {"results": items[offset : offset + limit], "_meta": {"count": 25, "limit": limit, "offset": offset}}
        return Reply(orjson.dumps(page))

    world.server.routes["/feed"] = route
    paging = {"kind": "offset", "size": 10, "total": "_meta.count"}
    mapping = {"preset": "direct-json", "items_path": "results", "paging": paging}
    await world.set_feed(url=world.server.url("/feed?lang=en"), mapping=mapping)
    assert counts(await world.sync()) == {"fetched": 25, "created": 25}
    asked = [
        (request.query["lang"], request.query["limit"], request.query["offset"]) for request in world.server.requests
    ]
    assert asked == [("en", "10", "0"), ("en", "10", "10"), ("en", "10", "20")]


async def test_pages_by_offset_without_a_count_end_with_an_empty_one(world: World) -> None:
    items = offers(20)
    world.server.routes["/feed"] = lambda request: Reply(
        orjson.dumps(items[int(request.query["start"]) : int(request.query["start"]) + 10])
    )
    paging = {"kind": "offset", "parameter": "start", "size_parameter": None, "size": 10}
    await world.set_feed(mapping={"preset": "direct-json", "items_path": "", "paging": paging})
    assert counts(await world.sync()) == {"fetched": 20, "created": 20}
    assert [request.query for request in world.server.requests] == [{"start": n} for n in ("0", "10", "20")]


@pytest.mark.parametrize("shape", [NDJSON, CSV], ids=lambda shape: shape.name)
async def test_the_link_header_names_the_next_page_of_any_format(world: World, shape: Any) -> None:
    links = [
        '</feed?page=2>; rel="next", </feed?page=9>; rel="last"',
        "<feed?page=3>; rel=next",
        '</feed>; rel="first"',
    ]
    for number, link in enumerate(links):
        content = shape.encode(offers(10, start=10 * number + 1))
        path = "/feed" if number == 0 else f"/feed?page={number + 1}"
        world.server.routes[path] = Reply(content, headers={"Link": link})
    await world.set_feed(**shape.feed(paging={"kind": "link_header"}))
    assert counts(await world.sync()) == {"fetched": 30, "created": 30}
    assert len(world.server.requests) == 3


async def test_an_impact_catalog(world: World) -> None:
    def route(request: Request) -> Reply:
        number = int(request.query.get("Page", "1"))
        item = {
            "CatalogItemId": f"c{number}", "Name": "Mug", "Url": "https://x.example", "CurrentPrice": "12.50",
            "Currency": "USD", "StockAvailability": "LimitedAvailability",
        }  # fmt: skip
        following = f"/feed?Page={number + 1}" if number < 3 else ""
        return Reply(orjson.dumps({"@page": str(number), "@total": "3", "@nextpageuri": following, "Items": [item]}))

    world.server.routes["/feed"] = route
    credentials = {"kind": "basic", "username": "sid", "password": "token"}
    await world.set_feed(mapping={"preset": "impact"}, credentials=credentials)
    job = await world.sync()
    assert (job["error"], counts(job)) == (None, {"fetched": 3, "created": 3})
    assert {request.headers["authorization"] for request in world.server.requests} == {"Basic c2lkOnRva2Vu"}


async def test_a_server_that_stops_early_is_noticed_by_what_it_announced(world: World) -> None:
    """Impact answers at most 20,000 items; the others would look as if they were gone."""
    world.server.serve(orjson.dumps({"items": offers(10), "total": 11}))
    mapping = {"preset": "direct-json", "paging": {"kind": "next_url", "path": "next", "total": "total"}}
    await world.set_feed(mapping=mapping)
    assert (await world.sync())["error"] == ("The feed says that it has 11 items, 10 came: its server stops early.")
    world.server.serve(orjson.dumps({"items": offers(100), "total": 101}))
    assert (await world.sync())["status"] == "succeeded"


async def test_a_circle_of_pages_ends(world: World) -> None:
    world.server.routes["/feed"] = Reply(orjson.dumps({"items": offers(1), "next": "/b"}))
    world.server.routes["/b"] = Reply(orjson.dumps({"items": offers(1, start=2), "next": "/c"}))
    world.server.routes["/c"] = Reply(orjson.dumps({"items": offers(1, start=3), "next": "/b"}))
    await world.set_feed()
    assert (await world.sync())["error"] == "A page names one as the next that was read already."
    assert len(world.server.requests) == 3


async def test_a_page_that_breaks_off_is_asked_for_again(world: World) -> None:
    world.server.serve_pages([offers(10), offers(10, start=11), offers(10, start=21)])
    whole = world.server.routes["/feed?page=2"]
    assert isinstance(whole, Reply)
    assert isinstance(whole.body, bytes)
    answers = [
        Reply(whole.body[:700], claimed_length=len(whole.body)),
        Reply(b"", status=500),
        Reply(whole.body[:50], claimed_length=len(whole.body)),
        whole,
    ]
    world.server.routes["/feed?page=2"] = lambda _: answers.pop(0)
    await world.set_feed()
    job = await world.sync()
    assert (job["error"], counts(job)) == (None, {"fetched": 30, "created": 30})
    assert len(world.server.requests) == 6
    # What was written of the broken ones is in no digest.
    world.server.routes["/feed?page=2"] = whole
    assert counts(await world.sync()) == {"fetched": 30, "unchanged": 30}


@pytest.mark.parametrize(("total", "said"), [("many", "no number at"), ({"a": 1}, "does not name the next one")])
async def test_what_is_no_count_is_refused(world: World, total: Any, said: str) -> None:
    world.server.serve(orjson.dumps({"items": offers(1), "total": total, "x": {"total": 1}}))
    mapping = {"preset": "direct-json", "paging": {"kind": "next_url", "path": "next", "total": "total"}}
    await world.set_feed(mapping=mapping)
    job = await world.sync()
    assert job["status"] == "failed"
    assert said in job["error"]
