"""What must hold for every shape of feed alike: all of it or nothing, bad rows told, and never beyond a limit."""

import asyncio
import gzip
import zipfile
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from typing import Any

import pytest

from tests.feed_server import Reply, offers
from tests.memory import MIB, peak_growth
from tests.sync.shapes import ATOM, CSV, JSON, NDJSON, PIPE, RSS, SHAPES, Shape
from tests.sync.world import World, counts

each = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)


def zipped(content: bytes, name: str = "feed") -> bytes:
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, content)
    return archive.getvalue()


async def sending(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)


@each
async def test_offers_are_the_same_in_every_shape(world: World, shape: Shape) -> None:
    items = offers(30)
    items[3]["title"] = "Tom & Jerry's <3 \u00e9\u4e2d"
    items[4]["available"] = False
    world.server.serve(shape.encode(items))
    await world.set_feed(**shape.feed())
    job = await world.sync()
    assert (job["error"], counts(job)) == (None, {"fetched": 30, "created": 30})
    live = await world.live()
    offer = live["sku-000004"]
    assert (offer.title, offer.brand, offer.price_minor, offer.currency, offer.available) == (
        items[3]["title"], "Brand 4", 1004, "PKR", True,
    )  # fmt: skip
    assert (offer.url, offer.image_url) == ("https://shop.example/products/4", "https://cdn.shop.example/4.jpg")
    assert not live["sku-000005"].available
    # The same again is passed over; one change is one change.
    assert counts(await world.sync()) == {"fetched": 30, "unchanged": 30}
    items[7]["price"]["amount_minor"] = 99
    world.server.serve(shape.encode(items))
    assert counts(await world.sync()) == {"fetched": 30, "updated": 1, "unchanged": 29}


@each
@pytest.mark.parametrize("packed", ["gzip", "zip", "zip in gzip"])
async def test_compressed_feeds(world: World, shape: Shape, packed: str) -> None:
    content = shape.encode(offers(500))
    if packed.startswith("zip"):
        content = zipped(content)
    if packed.endswith("gzip"):
        content = gzip.compress(content)
    world.server.serve(content)
    await world.set_feed(**shape.feed())
    assert counts(await world.sync()) == {"fetched": 500, "created": 500}


@each
async def test_of_equal_ids_the_last_counts(world: World, shape: Shape) -> None:
    world.server.serve(shape.encode([*offers(10), *offers(2, price_minor=5000)]))
    await world.set_feed(**shape.feed())
    job = await world.sync()
    if shape in (RSS, ATOM):
        # There they are variants, wherever they stand.
        assert counts(job) == {"fetched": 10, "created": 10}
        offer = (await world.live())["sku-000001"]
        assert (offer.price_minor, offer.price_max_minor) == (1001, 5001)
    else:
        assert counts(job) == {"fetched": 12, "created": 10, "rejected": 2}
        assert "'sku-000001' comes again later; the last counts" in job["rejected_samples"][0]["reason"]
        assert (await world.live())["sku-000001"].price_minor == 5001


@each
async def test_an_empty_feed_keeps_yesterdays_offers(world: World, shape: Shape) -> None:
    world.server.serve(shape.encode([]))
    await world.set_feed(**shape.feed())
    assert (await world.sync())["status"] == "succeeded"
    world.server.serve(shape.encode(offers(10)))
    await world.sync()
    world.server.serve(shape.encode([]))
    job = await world.sync()
    assert (job["status"], job["error"]) == (
        "failed",
        "The feed has no offers, 10 are live; they were kept. To take all down, close the merchant.",
    )
    assert len(await world.live()) == 10


@each
async def test_a_feed_that_lost_too_much_changes_nothing(world: World, shape: Shape) -> None:
    world.server.serve(shape.encode(offers(10)))
    await world.set_feed(**shape.feed())
    await world.sync()
    world.server.serve(shape.encode(offers(6, price_minor=1)))
    job = await world.sync()
    assert job["error"].startswith("4 of 10 live offers are not in the feed, more than the feed's limit of 30 %")
    assert {offer.price_minor for offer in (await world.live()).values()} == set(range(1001, 1011))


@each
async def test_bad_rows_are_counted_with_their_place_and_reason(world: World, shape: Shape) -> None:
    items = offers(20)
    items[4]["title"] = ""
    items[9]["url"] = "/relative"
    world.server.serve(shape.encode(items))
    await world.set_feed(**shape.feed())
    job = await world.sync()
    assert counts(job) == {"fetched": 20, "created": 18, "rejected": 2}
    assert job["rejected_samples"] == [
        {"row": 5, "reason": "title is empty"},
        {"row": 10, "reason": "url '/relative' is not an http or https address"},
    ]


@each
@pytest.mark.parametrize("how", ["content", "gzip", "length"])
async def test_a_feed_that_is_cut_short_changes_nothing(world: World, shape: Shape, how: str) -> None:
    world.server.serve(shape.encode(offers(200)))
    await world.set_feed(**shape.feed())
    await world.sync()
    content = shape.encode(offers(200, price_minor=7000))
    # In the middle of the last offer, so that nothing but the cut can be noticed.
    cut = len(shape.head) + len(shape.between.join(map(shape.item, offers(200, price_minor=7000)))) - 20
    match how:
        case "content":
            world.server.serve(content[:cut])
        case "gzip":
            world.server.serve(gzip.compress(content)[:-9])
        case _:
            world.server.routes["/feed"] = Reply(content, claimed_length=len(content) + 100)
    job = await world.sync()
    assert job["status"] == ("queued" if how == "length" else "failed")
    assert any(said in job["error"] for said in ("cut short", "broke off")), job["error"]
    assert {offer.price_minor for offer in (await world.live()).values()} == set(range(1001, 1201))
    assert await world.staged() == 0


@each
async def test_an_endless_feed_ends_at_its_limits(world: World, shape: Shape) -> None:
    def endless() -> Iterator[bytes]:
        yield shape.head
        start = 1
        while True:
            part = shape.between.join(map(shape.item, offers(500, start=start)))
            yield part if start == 1 else shape.between + part
            start += 500

    world.server.routes["/feed"] = lambda _: Reply(sending(endless()))
    await world.set_feed(**shape.feed(), max_bytes=2_000_000)
    job = await world.sync()
    assert job["error"] == ("The feed is larger than 2000000 bytes (its max_bytes, or FEED_MAX_BYTES), decompressed.")
    await world.set_feed(**shape.feed(), max_rows=3000)
    job = await world.sync()
    assert job["error"] == "The feed has more than 3000 rows (its max_rows, or FEED_MAX_ROWS)."
    await world.set_feed(**shape.feed(), max_seconds=1, max_bytes=1024**3)
    job = await world.sync()
    assert job["error"] in {
        "The sync took longer than 1 s (its max_seconds, or FEED_MAX_SECONDS).",
        "The feed is larger than 1073741824 bytes (its max_bytes, or FEED_MAX_BYTES), decompressed.",
    }
    assert await world.live() == {}
    assert await world.staged() == 0


_GIGABYTE = 1024**3


@pytest.mark.parametrize(
    ("shape", "begin", "error"),
    [
        (CSV, b'1,"', "A row is longer than 1048576 characters: is a quote left open?"),
        (CSV, b"1,", "A row is longer than 1048576 characters: is a quote left open?"),
        (PIPE, b"1|", "A row is longer than 1048576 characters: is a quote left open?"),
        (JSON, b'{"id": "', "An item of the feed is larger than 1048576 bytes."),
        (JSON, b'{"x": ' + b"1" * 100, "An item of the feed is larger than 1048576 bytes."),
        (NDJSON, b'{"id": "', "A line is longer than 1048576 bytes: is it one JSON document?"),
        (RSS, b"<item><g:id>", "An item of the feed is larger than 1048576 bytes."),
        (RSS, b"<!--", "An item of the feed is larger than 1048576 bytes."),
        (RSS, b"<item a='", "An item of the feed is larger than 1048576 bytes."),
        (ATOM, b"<a", "An item of the feed is larger than 1048576 bytes."),
    ],
    ids=["quoted", "line", "pipe", "json text", "json number", "ndjson", "xml text", "comment", "attribute", "name"],
)
async def test_a_gigabyte_in_one_row_is_refused_with_memory_flat(
    world: World, shape: Shape, begin: bytes, error: str
) -> None:
    block = b"1" * MIB

    def gigabyte() -> Iterator[bytes]:
        yield shape.head + begin
        for _ in range(_GIGABYTE // len(block)):
            yield block

    world.server.routes["/feed"] = lambda _: Reply(sending(gigabyte()))
    await world.set_feed(**shape.feed())
    with peak_growth() as growth:
        job = await world.sync()
    assert (job["status"], job["error"]) == ("failed", error)
    assert growth.at_most(60 * MIB), growth


async def test_a_megabyte_of_offers_in_one_line_of_json_is_fine(world: World) -> None:
    """The limit is an item's, not a document's."""
    rows: list[dict[str, Any]] = offers(20_000)
    world.server.serve(JSON.encode(rows))
    await world.set_feed(**JSON.feed())
    assert counts(await world.sync()) == {"fetched": 20_000, "created": 20_000}
