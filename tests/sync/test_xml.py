"""XML feeds: Google Merchant as RSS and Atom, pages of networks, and what makes XML dangerous."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from app.config import Settings
from tests.feed_server import FeedServer, Reply, Request
from tests.memory import MIB, peak_growth
from tests.sync.world import World, counts, make_world

FEEDS = Path(__file__).parents[1] / "data/feeds"
PLAIN: dict[str, Any] = {
    "items_path": "feed.item",
    "fields": {"external_id": "id", "title": "t", "price": "p", "url": "u"},
}


@pytest.fixture
async def world(committed_db: Settings, committed_client: httpx.AsyncClient, server: FeedServer) -> World:
    return await make_world(committed_db, committed_client, server, currency="USD")


def item(number: int, price: str = "10.50", more: str = "") -> str:
    return f"<item><id>{number}</id><t>P {number}</t><p>{price}</p><u>https://shop.example/{number}</u>{more}</item>"


def feed(*items: str) -> str:
    return f"<feed>{''.join(items)}</feed>"


def rss(*items: str) -> str:
    return f'<rss xmlns:g="http://base.google.com/ns/1.0"><channel><title>S</title>{"".join(items)}</channel></rss>'


def google(number: str, *, group: str = "", price: str = "10.00 USD", more: str = "") -> str:
    group = f"<g:item_group_id>{group}</g:item_group_id>" if group else ""
    return (
        f"<item><g:id>{number}</g:id><title>P {number}</title><link>https://shop.example/{number}</link>"
        f"<g:price>{price}</g:price>{group}{more}</item>"
    )


async def test_the_google_merchant_sample_is_read_whole(world: World) -> None:
    world.server.serve((FEEDS / "google-merchant.xml").read_bytes())
    await world.set_feed(mapping={"preset": "google-merchant"})
    job = await world.sync()
    # Two variants of one product.
    assert (job["error"], counts(job), job["rejected_samples"]) == (None, {"fetched": 1, "created": 1}, [])
    offer = (await world.live())["dz1"]
    assert offer.title == "Diesel Men's Black Stainless-Steel Analog Watch with Black Dial"
    assert offer.url == "http://www.example.com/shop?products=variants-apparel-upi&color=Black&size=44mm&country=US"
    # Not the price of shipping, which stands within.
    assert (offer.price_minor, offer.price_max_minor, offer.currency) == (10529, 10529, "USD")
    assert (offer.brand, offer.available) == ("Diesel", True)


async def test_variants_are_one_offer_wherever_they_stand(world: World) -> None:
    world.server.serve(
        rss(
            google("1", group="shirt", price="20.00 USD", more="<g:availability>out of stock</g:availability>"),
            google("2", group="shirt", price="15.00 USD"),
            google("3"),
            google("4", group="shirt", price="30.00 USD"),
            google("5", group="hat"),
            google("6", group="shirt", price="9.00 EUR"),
            google("7", group="hat", price="9.00 EUR"),
        )
    )
    await world.set_feed(mapping={"preset": "google-merchant"}, max_loss_basis_points=5000)
    job = await world.sync()
    assert counts(job) == {"fetched": 5, "created": 3, "rejected": 2}
    assert job["rejected_samples"] == [
        {"row": 6, "reason": "external_id 'shirt' is in another currency than the first row of its id"},
        {"row": 7, "reason": "external_id 'hat' is in another currency than the first row of its id"},
    ]
    live = await world.live()
    shirt = live["shirt"]
    assert (shirt.title, shirt.price_minor, shirt.price_max_minor, shirt.available) == ("P 1", 1500, 3000, True)
    assert set(live) == {"shirt", "3", "hat"}


async def test_a_variant_that_changed_is_a_changed_offer(world: World) -> None:
    await world.set_feed(mapping={"preset": "google-merchant"})
    for price, expected in (("15.00 USD", {"created": 2}), ("16.00 USD", {"updated": 1, "unchanged": 1})):
        world.server.serve(
            rss(google("1", group="shirt", price="20.00 USD"), google("2"), google("3", group="shirt", price=price))
        )
        assert counts(await world.sync()) == {"fetched": 2, **expected}
    assert (await world.live())["shirt"].price_minor == 1600


@pytest.mark.parametrize(
    ("sale", "period", "expected"),
    [
        ("8.00 USD", "", 800),
        ("8.00 USD", "2016-02-24T13:00-0800/2036-02-29T15:30-0800", 800),
        ("8.00 USD", "2016-02-24T13:00-0800/2016-02-29T15:30-0800", 1000),
        ("0.00 USD", "", 1000),
        ("12.00 USD", "", 1000),
        ("", "", 1000),
    ],
)
async def test_a_sale_price_counts_while_it_is_one(world: World, sale: str, period: str, expected: int) -> None:
    more = f"<g:sale_price>{sale}</g:sale_price><g:sale_price_effective_date>{period}</g:sale_price_effective_date>"
    world.server.serve(rss(google("1", more=more)))
    await world.set_feed(mapping={"preset": "google-merchant"})
    await world.sync()
    assert (await world.live())["1"].price_minor == expected


async def test_a_sale_price_in_another_currency_is_refused(world: World) -> None:
    world.server.serve(rss(google("1", more="<g:sale_price>8.00 EUR</g:sale_price>"), *map(google, "23456")))
    await world.set_feed(mapping={"preset": "google-merchant"})
    job = await world.sync()
    assert job["rejected_samples"] == [{"row": 1, "reason": "price is in EUR, the row says USD"}]


async def test_names_with_and_without_the_prefix(world: World) -> None:
    bare = "<item><id>7</id><title>Bare</title><link>https://shop.example/7</link><price>5.00 USD</price></item>"
    world.server.serve(rss(google("1"), bare))
    await world.set_feed(mapping={"preset": "google-merchant"})
    assert counts(await world.sync()) == {"fetched": 2, "created": 2}
    assert (await world.live())["7"].price_minor == 500


async def test_texts_of_every_kind(world: World) -> None:
    description = "<d>one <b>two</b> three<![CDATA[ & <i>four</i>]]>&#32;&amp; five</d>"
    world.server.serve(feed(item(1, more=description + "<x><id>not this</id></x>")))
    fields = {**PLAIN["fields"], "description": "d", "brand": "x.id", "image_url": "img.@src"}
    await world.set_feed(format="xml", mapping={**PLAIN, "fields": fields})
    await world.sync()
    offer = (await world.live())["1"]
    assert (offer.description, offer.brand, offer.image_url) == ("one two three & four & five", "not this", None)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1", "windows-1252"])
async def test_encodings_are_what_the_document_says(world: World, encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?>' + feed(item(1).replace("P 1", "Café"))
    world.server.serve(text.encode(encoding))
    await world.set_feed(format="xml", mapping=PLAIN)
    assert counts(await world.sync()) == {"fetched": 1, "created": 1}
    assert (await world.live())["1"].title == "Café"


def _cj(request: Request, total: int = 25) -> Reply:
    number = int(request.query["page-number"])
    products = "".join(
        f"<product><sku>{n}</sku><name>P {n}</name><buy-url>https://shop.example/{n}</buy-url><price>12.00</price>"
        f"<sale-price>{'9.5' if n == 3 else ''}</sale-price><currency>USD</currency><in-stock>true</in-stock></product>"
        for n in range(number * 10 - 9, min(number * 10, 25) + 1)
    )
    head = f'<products total-matched="{total}" records-returned="10" page-number="{number}">'
    return Reply(f"<?xml version='1.0'?><cj-api>{head}{products}</products></cj-api>".encode())


async def test_pages_of_a_network_are_followed_to_the_first_empty_one(world: World) -> None:
    world.server.routes["/feed"] = _cj
    await world.set_feed(
        url=world.server.url("/feed?records-per-page=10"),
        mapping={"preset": "cj"},
        credentials={"kind": "bearer", "token": "t0ken"},
    )
    assert counts(await world.sync()) == {"fetched": 25, "created": 25}
    asked = world.server.requests
    assert [request.query["page-number"] for request in asked] == ["1", "2", "3", "4"]
    assert {request.headers["authorization"] for request in asked} == {"Bearer t0ken"}
    assert (await world.live())["3"].price_minor == 950


async def test_a_network_that_stops_before_what_it_announced_is_refused(world: World) -> None:
    world.server.routes["/feed"] = lambda request: _cj(request, total=30)
    await world.set_feed(url=world.server.url("/feed?records-per-page=10"), mapping={"preset": "cj"})
    job = await world.sync()
    assert (job["status"], job["error"]) == (
        "failed",
        "The feed says that it has 30 items, 25 came: its server stops early.",
    )
    assert await world.live() == {}


async def test_pages_that_say_how_many_there_are(world: World) -> None:
    def route(request: Request) -> Reply:
        number = int(request.query["pagenumber"])
        return Reply(feed(f"<TotalPages>3</TotalPages>{item(number)}").encode())

    world.server.routes["/feed"] = route
    paging = {"kind": "page", "parameter": "pagenumber", "pages": "feed.TotalPages"}
    await world.set_feed(format="xml", mapping={**PLAIN, "paging": paging})
    assert counts(await world.sync()) == {"fetched": 3, "created": 3}
    assert len(world.server.requests) == 3


LAUGHS = "<!DOCTYPE lolz [<!ENTITY lol 'lol'>" + "".join(
    f"<!ENTITY lol{n} '{f'&lol{n - 1 or str()};' * 10}'>" for n in range(1, 10)
)


@pytest.mark.parametrize(
    "document",
    [
        f"<?xml version='1.0'?>{LAUGHS}]><feed>{item(1, more='<d>&lol9;</d>')}</feed>",
        "<!DOCTYPE feed [<!ENTITY xxe SYSTEM 'file:///etc/passwd'>]>" + feed(item(1, more="<d>&xxe;</d>")),
        "<!DOCTYPE feed SYSTEM 'http://127.0.0.1:{port}/evil.dtd'>" + feed(item(1)),
        "<!DOCTYPE feed [<!ENTITY % p SYSTEM 'http://127.0.0.1:{port}/evil.dtd'> %p;]>" + feed(item(1)),
        "<!DOCTYPE feed [<!ATTLIST item a CDATA 'x'>]>" + feed(item(1)),
        "<!DOCTYPE feed>" + feed(item(1)),
    ],
    ids=["billion laughs", "file", "external type", "parameter entity", "defaults", "plain"],
)
async def test_document_types_are_refused_and_nothing_of_them_fetched(world: World, document: str) -> None:
    world.server.serve(document.replace("{port}", str(world.server.port)))
    await world.set_feed(format="xml", mapping=PLAIN)
    with peak_growth() as growth:
        job = await world.sync()
    assert (job["status"], job["error"]) == (
        "failed",
        "The feed has a document type (DOCTYPE), which may define entities; that is refused.",
    )
    assert [request.path for request in world.server.requests] == ["/feed"]
    assert growth.at_most(50 * MIB), growth


@pytest.mark.parametrize(
    ("document", "error"),
    [
        (feed(item(1))[:-3], "The feed is not valid XML, or it is cut short (unclosed token, line 1)."),
        (feed(item(1))[:-7], "The feed is not valid XML, or it is cut short (no element found, line 1)."),
        (feed(item(1, more="&nbsp;")), "The feed is not valid XML, or it is cut short (undefined entity, line 1)."),
        (
            "<html><body>Sign in</body></html>",
            "The document has no place for 'feed.item'; check the mapping's items_path.",
        ),
        ("", "The feed is not valid XML, or it is cut short (no element found, line 1)."),
        ("{}", "The feed is not valid XML, or it is cut short (not well-formed (invalid token), line 1)."),
        (feed("<item>" + "<a>" * 100), "The feed nests deeper than 64 levels."),
        ("<?xml version='1.0' encoding='nobody-knows'?>" + feed(), "The feed is in an encoding that is not known."),
        ("<?xml version='1.0' encoding='shift_jis'?>" + feed(), "The feed is in an encoding that is not known."),
        (
            feed(*(f"<item>{''.join(f'<a{n}-{m}/>' for m in range(3000))}</item>" for n in range(9))),
            "The feed has more than 10000 different names of elements.",
        ),
    ],
    ids=["tag", "element", "entity", "html", "nothing", "json", "deep", "encoding", "multibyte", "names"],
)
async def test_what_is_no_feed_is_refused_with_its_reason(world: World, document: str, error: str) -> None:
    world.server.serve(document)
    await world.set_feed(format="xml", mapping=PLAIN)
    job = await world.sync()
    assert (job["status"], job["error"]) == ("failed", error)
