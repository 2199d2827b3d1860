"""No feed leads inside our own network, and none fills our memory (rows 39 and 40 of the design's reliability table).

The inside is a real listening server that must see no connection. The outside is that server too, behind addresses of
the public internet, which the network of this test leads there.
"""

import asyncio
import gzip
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from sqlalchemy import update

from app.db import transaction
from app.models import Feed
from app.services.sync.errors import FetchError, ForbiddenAddressError
from app.services.sync.fetch import Fetcher
from app.services.sync.retry import Backoff
from tests.feed_server import FeedServer, Reply, offers
from tests.memory import MIB, peak_growth
from tests.sync.shapes import CSV, JSON, NDJSON, RSS, Shape
from tests.sync.world import World

PUBLIC = "93.184.216.34"


class Internet:
    """A network on which the public address is a server of the test's, and a resolver whose answers change."""

    def __init__(self, outside: FeedServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outside = outside
        self.names: dict[str, list[list[str]]] = {"public.example": [[PUBLIC]]}
        self.asked: list[str] = []
        self.connected: list[str] = []
        connect = anyio.connect_tcp

        async def connect_tcp(remote_host: str, remote_port: int, **options: Any) -> Any:
            self.connected.append(remote_host)
            if remote_host == PUBLIC:
                return await connect("127.0.0.1", self.outside.port, **options)
            return await connect(remote_host, remote_port, **options)

        # The library's way out; all that is ours runs as it is.
        monkeypatch.setattr(anyio, "connect_tcp", connect_tcp)

    async def resolve(self, host: str, _: int) -> list[str]:
        """The next answer for a name; its last one for ever."""
        self.asked.append(host)
        answers = self.names.get(host, [[host]])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def fetch(self, url: str) -> bytes:
        pieces: list[bytes] = []
        backoff = Backoff(float("inf"), tries=3, base_seconds=0.001)
        async with Fetcher(allow_private=False, timeout_seconds=5, backoff=backoff, resolve=self.resolve) as fetcher:
            await fetcher.fetch(url, write=pieces.append)
        return b"".join(pieces)


@pytest.fixture
async def inside() -> AsyncIterator[FeedServer]:
    """Something of ours that no feed may reach."""
    async with FeedServer() as running:
        running.serve(b"secret")
        yield running
        assert running.connections == 0


@pytest.fixture
def internet(server: FeedServer, monkeypatch: pytest.MonkeyPatch) -> Internet:
    return Internet(server, monkeypatch)


# --- Row 39


async def test_the_outside_can_be_reached(internet: Internet) -> None:
    internet.outside.serve(b"fine")
    assert await internet.fetch("http://public.example/feed") == b"fine"
    assert internet.connected == [PUBLIC]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1", "017700000001",
        "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]",  # noqa: S104 - nothing binds
        "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
        "169.254.169.254", "[::ffff:169.254.169.254]", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376",
        "public.example@127.0.0.1", "user:password@127.0.0.1",
    ],
)  # fmt: skip
async def test_no_spelling_of_an_address_inside_is_connected_to(world: World, inside: FeedServer, host: str) -> None:
    await world.set_feed(url=f"http://{host}:{inside.port}/feed")
    job = await world.sync(allow_private_feeds=False)
    assert job["status"] == "failed"
    # Odd spellings may be known to no resolver, or be no address at all, which is as good.
    said = ("not on the public internet", "does not exist", "not an http or https address")
    assert any(text in job["error"] for text in said), job["error"]
    assert "password" not in job["error"]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/feed", "gopher://127.0.0.1/", "http:///feed"])
async def test_other_schemes_are_refused_even_when_they_got_into_the_database(
    world: World, inside: FeedServer, url: str
) -> None:
    await world.set_feed()
    async with transaction() as session:
        await session.execute(update(Feed).values(url=url))
    job = await world.sync()
    assert (job["status"], job["error"]) == ("failed", "The feed's URL is not an http or https address.")
    assert world.server.connections == 0


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{port}/feed", "http://2130706433:{port}/feed", "//[::ffff:127.0.0.1]:{port}/feed",
        "http://inside.example:{port}/feed", "http://169.254.169.254/latest/meta-data/", "file:///etc/passwd",
        "http://public.example@127.0.0.1:{port}/",
    ],
)  # fmt: skip
async def test_a_redirect_inward_is_not_followed(internet: Internet, inside: FeedServer, location: str) -> None:
    internet.names |= {"inside.example": [["127.0.0.1"]], "2130706433": [["127.0.0.1"]]}
    internet.names["::ffff:127.0.0.1"] = [["::ffff:127.0.0.1"]]
    internet.outside.routes["/feed"] = Reply(status=302, headers={"Location": location.format(port=inside.port)})
    with pytest.raises(ForbiddenAddressError):
        await internet.fetch("http://public.example/feed")
    assert internet.connected == [PUBLIC]


async def test_the_next_page_inward_is_not_fetched(internet: Internet, inside: FeedServer) -> None:
    with pytest.raises(ForbiddenAddressError, match="is not on the public internet"):
        await internet.fetch(f"http://127.0.0.1:{inside.port}/feed?page=2")
    assert internet.connected == []


async def test_a_name_that_changes_its_mind_leads_nowhere_new(internet: Internet, inside: FeedServer) -> None:
    """Rebinding: public when it is judged, inside a moment later, while we retry and follow redirects."""
    internet.names["rebind.example"] = [[PUBLIC], ["127.0.0.1"]]
    answers = [
        Reply(b"", status=503),
        Reply(status=302, headers={"Location": "/moved"}),
        Reply(b"outside"),
    ]
    internet.outside.routes["/feed"] = lambda _: answers.pop(0)
    internet.outside.routes["/moved"] = lambda _: answers.pop(0)
    assert await internet.fetch(f"http://rebind.example:{inside.port}/feed") == b"outside"
    assert internet.asked == ["rebind.example"]
    assert set(internet.connected) == {PUBLIC}
    # The next sync asks anew, and refuses.
    with pytest.raises(ForbiddenAddressError):
        await internet.fetch(f"http://rebind.example:{inside.port}/feed")


async def test_one_address_inside_among_public_ones_refuses_the_name(internet: Internet, inside: FeedServer) -> None:
    internet.names["mixed.example"] = [[PUBLIC, "127.0.0.1"]]
    with pytest.raises(ForbiddenAddressError):
        await internet.fetch(f"http://mixed.example:{inside.port}/feed")
    assert internet.connected == []


async def test_redirects_are_counted_across_hosts(internet: Internet) -> None:
    internet.names["other.example"] = [[PUBLIC]]
    internet.outside.routes["/feed"] = lambda request: Reply(
        status=307,
        headers={
            "Location": "http://other.example/feed"
            if request.headers["host"] == "public.example"
            else "http://public.example/feed"
        },
    )
    with pytest.raises(FetchError, match="redirects more than 5 times"):
        await internet.fetch("http://public.example/feed")
    assert len(internet.outside.requests) == 6


# --- Row 40


def gigabyte(head: bytes, block: bytes) -> bytes:
    """A gigabyte of blocks behind a head, as gzip."""
    # Members one after another are one file.
    return gzip.compress(head) + gzip.compress(block * (MIB // len(block))) * 1024


@pytest.mark.fault
@pytest.mark.parametrize(
    ("shape", "block"),
    [
        (CSV, b"0"),
        (CSV, b"1,A,B,C,D,https://shop.example/1,,1,1\n"),
        (JSON, b" "),
        (JSON, b"["),
        (CSV, b"\n"),
        (NDJSON, b"\n"),
        (RSS, b"<item></item>"),
        (RSS, b"<g:id>"),
    ],
    ids=["csv line", "csv rows", "json space", "json depth", "csv lines", "ndjson lines", "xml items", "xml depth"],
)
async def test_a_gigabyte_from_a_gzip_bomb_is_refused(world: World, shape: Shape, block: bytes) -> None:
    world.server.serve(gigabyte(shape.head, block))
    await world.set_feed(**shape.feed(), max_bytes=512 * MIB)
    with peak_growth() as growth:
        job = await world.sync()
    assert job["status"] == "failed"
    assert any(said in job["error"] for said in ("larger than", "longer than", "nests deeper", "more than")), job[
        "error"
    ]
    assert growth.at_most(100 * MIB), growth
    assert await world.live() == {}


@pytest.mark.fault
async def test_an_endless_feed_is_refused_with_memory_flat(world: World) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield NDJSON.head
        start = 1
        while True:
            yield b"".join(map(NDJSON.item, offers(1000, start=start)))
            start += 1000
            await asyncio.sleep(0)

    world.server.routes["/feed"] = lambda _: Reply(endless())
    await world.set_feed(**NDJSON.feed(), max_bytes=64 * MIB)
    with peak_growth() as growth:
        job = await world.sync()
    assert (job["status"], "larger than 67108864 bytes" in job["error"]) == ("failed", True)
    assert growth.at_most(100 * MIB), growth
    assert await world.staged() == 0
