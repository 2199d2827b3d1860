"""JSON feeds: one document, pages of every kind, exact numbers, hostile nesting."""

from typing import Any

import orjson
import pytest

from tests.feed_server import Reply, Request, document, offers
from tests.sync.world import World, counts


async def test_pages_are_followed_to_the_last(world: World) -> None:
    world.server.serve_pages([offers(40), offers(40, start=41), offers(20, start=81)])
    await world.set_feed()
    assert counts(await world.sync()) == {"fetched": 100, "created": 100}
    assert len(world.server.requests) == 3
    # The version of one page says nothing about the others, so none is asked for; the digest of all still is known.
    assert counts(await world.sync()) == {"fetched": 100, "unchanged": 100}
    assert len(world.server.requests) == 6


def _page(request: Request, name: str, items: list[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    start = int(request.query.get(name, 0)) * size
    return items[start : start + size]


async def test_pages_counted_in_a_parameter_end_with_an_empty_one(world: World) -> None:
    items = offers(25)
    world.server.routes["/feed"] = lambda request: Reply(orjson.dumps({"data": _page(request, "p", items, 10)}))
    await world.set_feed(
        url=world.server.url("/feed?size=10"),
        mapping={
            "preset": "direct-json",
            "items_path": "data",
            "paging": {"kind": "page", "parameter": "p", "first": 0},
        },
    )
    assert counts(await world.sync()) == {"fetched": 25, "created": 25}
    assert [request.query for request in world.server.requests] == [{"size": "10", "p": str(n)} for n in range(4)]


async def test_pages_with_a_cursor(world: World) -> None:
    items = offers(25)

    def route(request: Request) -> Reply:
        number = int(request.query.get("after", 0))
        following = number + 1 if number < 2 else None
        page = {"meta": {"next_cursor": following}, "items": _page(request, "after", items, 10)}
        return Reply(orjson.dumps(page))

    world.server.routes["/feed"] = route
    paging = {"kind": "cursor", "path": "meta.next_cursor", "parameter": "after"}
    await world.set_feed(mapping={"preset": "direct-json", "paging": paging})
    assert counts(await world.sync()) == {"fetched": 25, "created": 25}


async def test_a_page_that_fails_keeps_everything_as_it_was(world: World) -> None:
    world.server.serve_pages([offers(40), offers(40, start=41)])
    await world.set_feed()
    await world.sync()
    world.server.serve_pages([offers(40, price_minor=9), offers(40, start=41)])
    world.server.routes["/feed?page=2"] = Reply(b"broken", status=500)
    job = await world.sync()
    assert (job["status"], job["error"]) == (
        "failed",
        f"http://127.0.0.1:{world.server.port} answered 500 Internal Server Error.",
    )
    assert (await world.live())["sku-000001"].price_minor == 1001


async def test_numbers_are_exact(world: World) -> None:
    rows = b"""[
        {"id": 1, "name": "Exact", "cost": 26.09, "link": "https://shop.example/1"},
        {"id": 2, "name": "Beyond a float", "cost": 90071992547409.93, "link": "https://shop.example/2"},
        {"id": 3, "name": "Whole", "cost": 26, "link": "https://shop.example/3"},
        {"id": 4, "name": "Text", "cost": "26.10", "link": "https://shop.example/4"},
        {"id": 5, "name": "Kuwait", "cost": {"amount": "1.234", "currency": "KWD"}, "link": "https://shop.example/5"},
        {"id": 6, "name": "True", "cost": true, "link": "https://shop.example/6"}
    ]"""
    world.server.serve(rows)
    fields = {"external_id": "id", "title": "name", "price": "cost", "url": "link"}
    await world.set_feed(format="json", mapping={"fields": fields})
    job = await world.sync()
    assert counts(job) == {"fetched": 6, "created": 5, "rejected": 1}
    assert job["rejected_samples"] == [{"row": 6, "reason": "price is True, not a text or number"}]
    live = await world.live()
    assert {key: offer.price_minor for key, offer in live.items()} == {
        "1": 2609, "2": 9007199254740993, "3": 2600, "4": 2610, "5": 1234,
    }  # fmt: skip
    assert live["5"].currency == "KWD"


async def test_minor_units_paths_and_templates(world: World) -> None:
    row = {"ids": [{"sku": "a/b"}], "t": {"en": "Deep"}, "price": {"now": 1250}, "max": "1900", "pics": ["", "x"]}
    world.server.serve(orjson.dumps({"result": {"rows": [row]}}))
    await world.set_feed(
        format="json",
        mapping={
            "items_path": "result.rows",
            "price_unit": "minor",
            "currency": "USD",
            "url_template": "https://shop.example/p/{ids.0.sku}?x=1",
            "fields": {
                "external_id": "ids.0.sku",
                "title": "t.en",
                "price": "price.now",
                "price_max": "max",
                "image_url": "pics.1",
            },
        },
    )
    assert counts(await world.sync()) == {"fetched": 1, "created": 1}
    offer = (await world.live())["a/b"]
    assert (offer.title, offer.price_minor, offer.price_max_minor, offer.currency) == ("Deep", 1250, 1900, "USD")
    assert (offer.url, offer.image_url) == ("https://shop.example/p/a%2Fb?x=1", None)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (
            b'{"items": [{"id": 1}, {"id"',
            "The feed is not valid JSON, or it is cut short (parse error: premature EOF).",
        ),
        (b"<html>Sign in</html>", "The feed is not valid JSON, or it is cut short (lexical error: invalid char"),
        (b'{"offers": []}', "The document has no array at 'items'; check the mapping's items_path."),
        (b"[]", "The document has no array at 'items'; check the mapping's items_path."),
        (b'{"items": ' + b"[" * 100_000, "The feed nests deeper than 64 levels."),
        (b'{"items": [' + b'{"a":' * 100_000, "The feed nests deeper than 64 levels."),
        (b'{"items": [{"id": "' + b"x" * 3_000_000, "An item of the feed is larger than 1048576 bytes."),
        (b'{"next": "' + b"x" * 3_000_000, "An item of the feed is larger than 1048576 bytes."),
        (b'{"items": [], "next": {"a": 1}, "x": {"next": "a"}}', "A page does not name the next one by a text"),
        (b'{"items": [], "next": "/feed"}', "A page names one as the next that was read already."),
        (b'{"items": [], "next": "ftp://127.0.0.1/"}', "A page names something that is no http or https address"),
    ],
)
async def test_what_is_not_a_feed_is_refused_with_its_reason(world: World, content: bytes, error: str) -> None:
    world.server.serve(content)
    await world.set_feed()
    job = await world.sync()
    assert job["status"] == "failed"
    assert job["error"].startswith(error)


async def test_brackets_and_escapes_in_texts_are_not_nesting(world: World) -> None:
    rows = offers(300)
    for row in rows:
        row["description"] = '[[[{{{ "\\" \\\\" [' * 50
    world.server.serve(document(rows))
    await world.set_feed()
    assert counts(await world.sync()) == {"fetched": 300, "created": 300}


async def test_items_that_are_no_objects_are_rejected(world: World) -> None:
    world.server.serve(orjson.dumps({"items": [*offers(10), 7, "text", None]}))
    await world.set_feed()
    job = await world.sync()
    assert counts(job) == {"fetched": 13, "created": 10, "rejected": 3}
    assert job["rejected_samples"][0] == {"row": 11, "reason": "the item is not an object"}


async def test_a_byte_order_mark_is_skipped(world: World) -> None:
    world.server.serve(b"\xef\xbb\xbf" + document(offers(2)))
    await world.set_feed()
    assert counts(await world.sync()) == {"fetched": 2, "created": 2}
