"""CSV feeds: a shop platform's product exports as they are, and files of every other making."""

import gzip
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.services.sync.readers import csv_rows
from tests.feed_server import FeedServer
from tests.sync.world import World, counts, make_world

FEEDS = Path(__file__).parents[1] / "data/feeds"
SHOPIFY = {"preset": "shopify", "url_template": "https://shop.example/products/{Handle}"}
PLAIN: dict[str, Any] = {"fields": {"external_id": "id", "title": "title", "price": "price", "url": "link"}}


@pytest.fixture
async def world(committed_db: Settings, committed_client: httpx.AsyncClient, server: FeedServer) -> World:
    return await make_world(
        committed_db, committed_client, server, currency="USD", tracking_url="https://www.shop.example/?ref=1"
    )


def plain(*rows: str) -> str:
    return "\n".join(["id,title,price,link", *rows, ""])


def row(number: int, price: str = "10.50") -> str:
    return f"{number},Product {number},{price},https://shop.example/{number}"


@pytest.mark.parametrize(
    ("file", "rows", "ranges"),
    [
        ("shopify-apparel.csv", 22, {}),
        ("shopify-home-and-garden.csv", 21, {"clay-plant-pot": (999, 1599)}),
        ("shopify-jewelery.csv", 41, {"leather-anchor": (5500, 6999)}),
    ],
)
async def test_shopify_exports_are_read_whole(
    world: World, file: str, rows: int, ranges: dict[str, tuple[int, int]]
) -> None:
    content = (FEEDS / file).read_bytes()
    world.server.serve(content)
    await world.set_feed(mapping=SHOPIFY)
    job = await world.sync()
    # Each of the three has 20 products; the other rows are variants and further images, and nothing is rejected.
    assert (job["status"], job["error"]) == ("succeeded", None)
    assert counts(job) == {"fetched": 20, "created": 20}
    assert job["rejected_samples"] == []
    live = await world.live()
    found = {key: (offer.price_minor, offer.price_max_minor) for key, offer in live.items()}
    assert {key: prices for key, prices in found.items() if prices[0] != prices[1]} == ranges
    assert all(offer.currency == "USD" and offer.title and offer.available for offer in live.values())
    assert all(offer.url == f"https://shop.example/products/{key}" for key, offer in live.items())
    assert content.count(b"\r\n") == rows or file == "shopify-jewelery.csv"
    assert counts(await world.sync()) == {"fetched": 20, "unchanged": 20}


async def test_shopify_rows_become_offers_exactly(world: World) -> None:
    world.server.serve((FEEDS / "shopify-jewelery.csv").read_bytes())
    await world.set_feed(mapping=SHOPIFY)
    await world.sync()
    live = await world.live()
    anchor = live["leather-anchor"]
    assert (anchor.title, anchor.brand) == ("Anchor Bracelet Mens", "Company 123")
    assert anchor.description == "Black leather bracelet with gold or silver anchor for men."
    assert anchor.image_url == "https://burst.shopifycdn.com/photos/anchor-bracelet-mens_925x.jpg"
    prices = {key: live[key].price_minor for key in ("chain-bracelet", "origami-crane-necklace", "gold-bird-necklace")}
    assert prices == {"chain-bracelet": 4299, "origami-crane-necklace": 7599, "gold-bird-necklace": 7999}


async def test_shopify_preset_alone_takes_the_merchants_own_address(world: World) -> None:
    world.server.serve((FEEDS / "shopify-apparel.csv").read_bytes())
    feed = await world.set_feed(mapping={"preset": "shopify"})
    assert feed["format"] == "csv"
    await world.sync()
    assert (await world.live())["led-high-tops"].url == "https://www.shop.example/products/led-high-tops"


async def test_a_bad_variant_is_rejected_and_its_product_kept(world: World) -> None:
    lines = (FEEDS / "shopify-jewelery.csv").read_bytes()
    # The second variant of leather-anchor, and the only one of galaxy-earrings.
    world.server.serve(lines.replace(b"manual,55,", b"manual,fifty-five,").replace(b"37.99", b"37.999"))
    await world.set_feed(mapping=SHOPIFY)
    job = await world.sync()
    assert counts(job) == {"fetched": 21, "created": 19, "rejected": 2}
    assert job["rejected_samples"] == [
        {"row": 4, "reason": "price 'fifty-five' is not an amount"},
        {"row": 20, "reason": "price '37.999' may be 37.999 or 37999 USD; set decimal in the mapping"},
    ]
    live = await world.live()
    assert (live["leather-anchor"].price_minor, live["leather-anchor"].price_max_minor) == (6999, 6999)
    assert "galaxy-earrings" not in live


@pytest.mark.parametrize("how", ["content-encoding", "file", "both", "members"])
async def test_gzip_is_understood_however_it_comes(world: World, how: str) -> None:
    content = plain(*(row(number) for number in range(1, 1001))).encode()
    match how:
        case "content-encoding":
            world.server.serve_gzip(content)
        case "file":
            world.server.serve(gzip.compress(content))
        case "both":
            world.server.serve_gzip(gzip.compress(content))
        case _:
            world.server.serve(gzip.compress(content[:5000]) + gzip.compress(content[5000:]) + b"\0" * 100)
    await world.set_feed(format="csv", mapping=PLAIN)
    assert counts(await world.sync()) == {"fetched": 1000, "created": 1000}


@pytest.mark.parametrize("delimiter", [";", "|", "\t"])
async def test_delimiters_and_quoted_newlines(world: World, delimiter: str) -> None:
    lines = [
        ["id", "title", "price", "link", "text"],
        ["1", f'"Say ""hi"" {delimiter}"', "1.5", "https://shop.example/1", '"two\r\nlines, <b>bold &amp; fine</b>"'],
        ["2", "Plain", "0", "https://shop.example/2", ""],
    ]
    world.server.serve("\r\n".join(delimiter.join(line) for line in lines))
    await world.set_feed(
        format="csv", mapping={"delimiter": delimiter, "fields": {**PLAIN["fields"], "description": "text"}}
    )
    assert counts(await world.sync()) == {"fetched": 2, "created": 2}
    offer = (await world.live())["1"]
    assert offer.title == f'Say "hi" {delimiter}'.strip()
    assert (offer.description, offer.price_minor) == ("two lines, bold & fine", 150)


@pytest.mark.parametrize(
    ("encoding", "mapped"), [("utf-8-sig", "utf-8"), ("utf-16", "utf-16"), ("windows-1252", "windows-1252")]
)
async def test_encodings(world: World, encoding: str, mapped: str) -> None:
    world.server.serve(plain("1,Café für 5 €,3,https://shop.example/1").encode(encoding))
    await world.set_feed(format="csv", mapping={**PLAIN, "encoding": mapped})
    assert counts(await world.sync()) == {"fetched": 1, "created": 1}
    assert (await world.live())["1"].title == "Café für 5 €"


async def test_every_kind_of_bad_row_is_named(world: World) -> None:
    good = [row(number) for number in range(100, 140)]
    bad = [
        "1,No price,,https://shop.example/1",
        '2,Comma,"1,5,0",https://shop.example/2',
        "3,Negative,-1,https://shop.example/3",
        "4,Exponent,1e9,https://shop.example/4",
        "5,Not a number,NaN,https://shop.example/5",
        "6,Too short,1",
        "7,Too long,1,https://shop.example/7,more",
        '8,"quote"d,1,https://shop.example/8',
        ",No id,1,https://shop.example/9",
        "10,Relative,1,/10",
        "11,Huge,99999999999999999999,https://shop.example/11",
    ]
    content = plain(*bad, *good).encode() + b"12,Caf\xe9,1,https://shop.example/12\n13,N\0L,1,https://shop.example/13\n"
    world.server.serve(content)
    await world.set_feed(format="csv", mapping=PLAIN)
    job = await world.sync()
    assert counts(job) == {"fetched": 53, "created": 40, "rejected": 13}
    assert {sample["row"]: sample["reason"] for sample in job["rejected_samples"]} == {
        1: "price is empty",
        2: "price '1,5,0' has digits grouped in a way that is not known",
        3: "price '-1' has a sign; only amounts of zero or more are prices",
        4: "price '1e9' is not an amount",
        5: "price 'NaN' is not an amount",
        6: "the row has 3 values, the header 4",
        7: "the row has 5 values, the header 4",
        8: "not readable as CSV: ',' expected after '\"'",
        9: "external_id is empty",
        10: "url '/10' is not an http or https address",
        11: "price '99999999999999999999': '99999999999999999999' is too large",
        52: "a text holds bytes that are not in the feed's encoding",
        53: "a text holds the character U+0000",
    }


async def test_a_currency_beside_or_inside_the_price(world: World) -> None:
    lines = [
        "id,title,price,link,currency",
        "1,A,105.29 EUR,https://shop.example/1,",
        "2,B,500,https://shop.example/2,jpy",
    ]
    world.server.serve("\n".join(lines) + "\n")
    await world.set_feed(format="csv", mapping={"fields": {**PLAIN["fields"], "currency": "currency"}})
    await world.sync()
    live = await world.live()
    assert [(live[key].price_minor, live[key].currency) for key in ("1", "2")] == [(10529, "EUR"), (500, "JPY")]


async def test_availability_is_read_in_the_words_that_feeds_use(world: World) -> None:
    words = {"in stock": True, "out_of_stock": False, "https://schema.org/InStock": True, "": True, "0": False}
    lines = [f"{number},A,1,https://shop.example/{number},{word}" for number, word in enumerate(words)]
    world.server.serve("\n".join(["id,title,price,link,stock", *lines, ""]))
    await world.set_feed(format="csv", mapping={"fields": {**PLAIN["fields"], "available": "stock"}})
    await world.sync()
    live = await world.live()
    assert [live[str(number)].available for number in range(5)] == list(words.values())


async def test_a_feed_may_have_its_own_words_for_availability(world: World) -> None:
    stocks = ["Ja", "Slut_i lager", "in stock", "kanske"]
    lines = [f"{number},A,1,https://shop.example/{number},{stock}" for number, stock in enumerate(stocks)]
    world.server.serve("\n".join(["id,title,price,link,stock", *lines, ""]))
    own = {"yes": ["ja"], "no": ["slut-i-lager"]}
    mapping = {"fields": {**PLAIN["fields"], "available": "stock"}, "availability_words": own}
    await world.set_feed(format="csv", mapping=mapping)
    run = await world.sync()
    assert run["rejected_samples"] == [{"row": 4, "reason": "available 'kanske' is neither yes nor no"}]
    assert {key: offer.available for key, offer in (await world.live()).items()} == {"0": True, "1": False, "2": True}


async def test_a_missing_column_is_named(world: World) -> None:
    world.server.serve("sku;name\n1;A\n")
    await world.set_feed(format="csv", mapping=PLAIN)
    job = await world.sync()
    assert job["status"] == "failed"
    assert job["error"] == (
        "The file has no column 'id', 'title', 'link', 'price'; its columns begin with: 'sku;name'."
    )


@pytest.mark.parametrize(
    ("ending", "error"),
    [
        ("4,Cut,1.", "The file ends in the middle of a row: it is cut short."),
        ('4,"Cut', "The file ends inside a quoted value: it is cut short."),
        ('4,"' + "x" * csv_rows.MAX_RECORD_CHARS, "A row is longer than 1048576 characters: is a quote left open?"),
        ('4,"' + "x\n" * csv_rows.MAX_RECORD_CHARS, "A row is longer than 1048576 characters: is a quote left open?"),
    ],
    ids=["row", "quote", "long line", "many lines"],
)
async def test_a_file_that_is_cut_short_is_refused(world: World, ending: str, error: str) -> None:
    world.server.serve(plain(row(1), row(2), row(3)) + ending)
    await world.set_feed(format="csv", mapping=PLAIN)
    job = await world.sync()
    assert (job["status"], job["error"]) == ("failed", error)
    assert await world.live() == {}


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
async def test_a_delimiter_that_is_not_named_is_found(world: World, delimiter: str) -> None:
    """By the columns that are looked for: others may hold any of the delimiters."""
    header = ["a;b", "c,d", '"id"', "title", "price", "link"]
    row_ = ["x;y|z", "1", "1", "Plain", "5", "https://shop.example/1"]
    lines = [delimiter.join(f'"{name.strip(chr(34))}"' for name in line) for line in (header, row_)]
    world.server.serve("\r\n".join([*lines, ""]))
    feed = await world.set_feed(format="csv", mapping=PLAIN)
    assert feed["mapping"]["delimiter"] is None
    assert counts(await world.sync()) == {"fetched": 1, "created": 1}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
async def test_a_byte_order_mark_says_more_than_the_mapping(world: World, encoding: str) -> None:
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    world.server.serve(mark + plain("1,Café,3,https://shop.example/1").encode(encoding))
    await world.set_feed(format="csv", mapping={**PLAIN, "encoding": "windows-1252"})
    assert counts(await world.sync()) == {"fetched": 1, "created": 1}
    assert (await world.live())["1"].title == "Café"


async def test_another_encoding_than_named_rejects_its_rows(world: World) -> None:
    rows = [row(number) for number in range(2, 10)]
    world.server.serve(plain("1,Café,3,https://shop.example/1", *rows).encode("windows-1252"))
    await world.set_feed(format="csv", mapping=PLAIN)
    job = await world.sync()
    assert job["rejected_samples"] == [{"row": 1, "reason": "a text holds bytes that are not in the feed's encoding"}]
    world.server.serve(b"\xff\xfe" + "id,title".encode("utf-16-le") + b"\x00\xd8\x00")
    job = await world.sync()
    assert job["error"] == "The file is not in the encoding that its mapping names."


async def test_columns_that_only_decorate_may_be_missing(world: World) -> None:
    world.server.serve(plain(row(1)))
    fields = {**PLAIN["fields"], "brand": "brand", "available": "stock", "sale_price": "sale"}
    await world.set_feed(format="csv", mapping={"fields": fields})
    assert counts(await world.sync()) == {"fetched": 1, "created": 1}
    # Money in another currency than is meant would be worse than no offer.
    await world.set_feed(format="csv", mapping={"fields": {**PLAIN["fields"], "currency": "currency"}})
    assert (await world.sync())["error"] == (
        "The file has no column 'currency'; its columns begin with: 'id', 'title', 'price', 'link'."
    )


async def test_of_several_names_the_first_with_a_value_counts(world: World) -> None:
    world.server.serve("id,title,price,was,link\n1,A,,12,https://shop.example/1\n2,B,5,12,https://shop.example/2\n")
    fields = {**PLAIN["fields"], "price": ["price", "was"], "title": ["name", "title"]}
    await world.set_feed(format="csv", mapping={"fields": fields})
    assert counts(await world.sync()) == {"fetched": 2, "created": 2}
    assert {key: offer.price_minor for key, offer in (await world.live()).items()} == {"1": 1200, "2": 500}


async def test_how_many_there_are_says_whether_there_are_any(world: World) -> None:
    lines = [f"{number},A,1,https://shop.example/{number},{stock}" for number, stock in enumerate(["0", "7", "000"])]
    world.server.serve("\n".join(["id,title,price,link,stock", *lines, ""]))
    await world.set_feed(format="csv", mapping={"fields": {**PLAIN["fields"], "available": "stock"}})
    await world.sync()
    assert [offer.available for offer in (await world.live()).values()] == [False, True, False]


async def test_a_header_that_cannot_be_read_is_refused(world: World) -> None:
    world.server.serve('"id"x,title,price,link\n1,A,1,https://shop.example/1\n')
    await world.set_feed(format="csv", mapping=PLAIN)
    assert (await world.sync())["error"] == ("The file's first lines are not readable as CSV: ',' expected after '\"'.")
