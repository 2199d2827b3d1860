"""Fetching: complete or refused, compressed or not, never inside our own network, never beyond a limit."""

import asyncio
import gzip
import socket
import ssl
import time
import tracemalloc
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.services.sync.addresses import is_public, system_resolve
from app.services.sync.errors import FeedError, FetchError, ForbiddenAddressError, TooLargeError
from app.services.sync.fetch import Fetched, Fetcher, Validators
from app.services.sync.retry import Backoff
from app.services.sync.spool import Spool
from tests.feed_server import FeedServer, Reply, Request, document, gzip_bomb, offers
from tests.sync.world import World

ONCE = Backoff(deadline=float("inf"), tries=1)


class Names:
    """A resolver whose answers the test chooses; it remembers what it was asked."""

    def __init__(self, **names: list[str] | list[list[str]]) -> None:
        self.names = names
        self.asked: list[str] = []

    async def __call__(self, host: str, _: int) -> list[str]:
        self.asked.append(host)
        return [str(address) for address in self.names.get(host.replace(".", "_"), [])]


async def fetch(url: str, *, allow_private: bool = True, resolve: Names | None = None, **options: float) -> bytes:
    """Fetch a document, trying once."""
    content, _ = await fetch_with(url, allow_private=allow_private, resolve=resolve, **options)
    return content


async def fetch_with(
    url: str, *, allow_private: bool = True, resolve: Names | None = None, timeout_seconds: float = 5
) -> tuple[bytes, Fetched]:
    pieces: list[bytes] = []
    async with Fetcher(
        allow_private=allow_private,
        timeout_seconds=timeout_seconds,
        resolve=resolve or system_resolve,
        backoff=ONCE,
    ) as fetcher:
        fetched = await fetcher.fetch(url, write=pieces.append)
    return b"".join(pieces), fetched


# --- Complete or refused


async def test_a_body_shorter_than_promised_is_refused(server: FeedServer) -> None:
    server.routes["/feed"] = Reply(b"id,title\n1,A\n", claimed_length=1000)
    with pytest.raises(FetchError, match="broke off: peer closed connection without sending complete message body"):
        await fetch(server.url())


async def test_a_lying_length_keeps_yesterdays_offers(world: World) -> None:
    world.server.serve(document(offers(20)))
    await world.set_feed()
    await world.sync()
    content = document(offers(20, price_minor=7000))
    # Shorter than promised may come whole another time, which is tried twice more.
    world.server.routes["/feed"] = Reply(content, claimed_length=len(content) + 1)
    job = await world.sync()
    for _ in range(3):
        assert (job["status"], "complete message body" in job["error"]) == ("queued", True)
        assert await world.staged() == 0
        job = await world.work(job["job_id"])
    assert job["status"] == "failed"
    assert job["error"].startswith("Given up after 3 tries. http://127.0.0.1")
    # Longer than promised looks like the end.
    world.server.routes["/feed"] = Reply(content, claimed_length=len(content) - 1)
    job = await world.sync()
    assert job["status"] == "failed"
    assert "cut short" in job["error"]
    assert len(world.server.requests) == 5
    assert {offer.price_minor for offer in (await world.live()).values()} == set(range(1001, 1021))


@pytest.mark.parametrize("keep", [0.3, 0.99])
async def test_truncated_gzip_is_refused(server: FeedServer, keep: float) -> None:
    packed = gzip.compress(document(offers(1000)))
    server.serve(packed[: int(len(packed) * keep)], **{"Content-Encoding": "gzip"})
    with pytest.raises(FetchError, match="ends too early"):
        await fetch(server.url())


async def test_damaged_gzip_is_refused(server: FeedServer) -> None:
    packed = bytearray(gzip.compress(document(offers(1000))))
    packed[len(packed) // 2] ^= 0xFF
    server.serve(bytes(packed))
    with pytest.raises(FetchError, match="damaged"):
        await fetch(server.url())
    server.serve(gzip.compress(b"fine") + b"not gzip")
    with pytest.raises(FetchError, match="followed by something else"):
        await fetch(server.url())


async def test_what_was_not_asked_for_is_refused(server: FeedServer) -> None:
    server.serve(b"...", **{"Content-Encoding": "br"})
    with pytest.raises(FetchError, match="gzip is understood"):
        await fetch(server.url())


async def test_short_and_empty_bodies_pass_through(server: FeedServer) -> None:
    for content in (b"", b"\x1f", b"ab", gzip.compress(b"")):
        server.serve(content)
        assert await fetch(server.url()) == (b"" if content.startswith(b"\x1f\x8b") else content)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (404, "404 Not Found. Check the feed's URL."),
        (401, "401 Unauthorized. Check the feed's credentials."),
        (799, "(unknown)"),
    ],
)
async def test_refusals_say_what_to_do_and_no_secret(server: FeedServer, status: int, said: str) -> None:
    server.routes["/secret-key/feed"] = Reply(b"", status=status)
    url = server.url("/secret-key/feed?token=hunter2").replace("//", "//me:hunter3@")
    with pytest.raises(FetchError) as raised:
        await fetch(url)
    assert said in str(raised.value)
    assert not any(secret in str(raised.value) for secret in ("hunter", "secret", "me:"))


async def test_silence_ends_the_fetch(server: FeedServer) -> None:
    never = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"id,title\n"
        await never.wait()

    server.routes["/feed"] = Reply(body())
    with pytest.raises(FetchError, match=r"nothing came for 0\.2 s"):
        await fetch(server.url(), timeout_seconds=0.2)
    never.set()


async def test_nobody_there_is_said_plainly() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(FetchError, match=f"http://127.0.0.1:{port} does not answer"):
        await fetch(f"http://127.0.0.1:{port}/feed")
    with pytest.raises(FetchError, match=r"The name nowhere\.example does not exist"):
        await fetch("http://nowhere.example/", resolve=Names())


async def test_what_failed_before_its_first_byte_is_tried_again(server: FeedServer) -> None:
    answers = [Reply(b"", status=503), Reply(b"", status=429, headers={"Retry-After": "0"}), Reply(b"fine")]
    server.routes["/feed"] = lambda _: answers.pop(0)
    pieces: list[bytes] = []
    async with Fetcher(
        allow_private=True, timeout_seconds=5, backoff=Backoff(time.monotonic() + 5, tries=3, base_seconds=0.01)
    ) as fetcher:
        await fetcher.fetch(server.url(), write=pieces.append)
        assert pieces == [b"fine"]
        server.routes["/feed"] = Reply(b"", status=503)
        with pytest.raises(FetchError, match="503 Service Unavailable"):
            await fetcher.fetch(server.url(), write=pieces.append)
    assert len(server.requests) == 6


async def test_validators_are_sent_and_given_back(server: FeedServer) -> None:
    server.serve(b"x", ETag='"2"')
    async with Fetcher(allow_private=True, timeout_seconds=5, backoff=ONCE) as fetcher:
        fetched = await fetcher.fetch(server.url(), write=lambda _: None, validators=Validators('"1"', None))
    assert (fetched.not_modified, fetched.validators) == (False, Validators('"2"', None))
    assert server.requests[0].headers["if-none-match"] == '"1"'
    server.routes["/feed"] = Reply(status=304)
    with pytest.raises(FetchError, match="304 Not Modified"):
        await fetch(server.url())


async def test_credentials_go_to_their_own_origin_only(server: FeedServer) -> None:
    async with FeedServer() as other:
        other.serve(b"theirs")
        server.routes["/feed"] = Reply(status=302, headers={"Location": "/moved"})
        server.routes["/moved"] = Reply(status=307, headers={"Location": other.url()})
        content, fetched = await fetch_with(server.url("/feed").replace("//", "//user:p%40ss@"))
        assert (content, fetched.url) == (b"theirs", other.url())
        sent = [request.headers.get("authorization") for request in (*server.requests, *other.requests)]
        assert sent == [
            httpx.BasicAuth("user", "p@ss")._auth_header,
            httpx.BasicAuth("user", "p@ss")._auth_header,
            None,
        ]


# --- Never inside our own network (the attacks are in test_inside.py)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",  # noqa: S104 - nothing binds
        "240.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "::127.0.0.1",
    ],
)  # fmt: skip
def test_addresses_inside_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_addresses_outside_are_public(address: str) -> None:
    assert is_public(address)


async def test_a_name_is_resolved_once_and_the_connection_goes_there(server: FeedServer) -> None:
    """Rebinding: whatever the name says a moment later, nobody asks it again."""
    server.routes["/feed"] = Reply(status=302, headers={"Location": "/2"})
    server.serve(b"here", "/2")
    names = Names(rebind_example=["127.0.0.1"])
    assert await fetch(f"http://rebind.example:{server.port}/feed", resolve=names) == b"here"
    assert names.asked == ["rebind.example"]
    assert {request.headers["host"] for request in server.requests} == {f"rebind.example:{server.port}"}


async def test_the_next_address_is_tried_when_one_does_not_answer(server: FeedServer) -> None:
    server.serve(b"here")
    names = Names(two_example=["127.0.0.2", "127.0.0.1"])
    assert await fetch(f"http://two.example:{server.port}/feed", resolve=names) == b"here"


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/", "gopher://x/", "data:,x"])
async def test_redirects_to_other_schemes_are_refused(server: FeedServer, location: str) -> None:
    server.routes["/feed"] = Reply(status=301, headers={"Location": location})
    with pytest.raises(ForbiddenAddressError, match="not an http or https address"):
        await fetch(server.url())


async def test_redirects_in_a_circle_end(server: FeedServer) -> None:
    server.routes["/feed"] = Reply(status=302, headers={"Location": "/feed"})
    with pytest.raises(FetchError, match="redirects more than 5 times"):
        await fetch(server.url())
    assert len(server.requests) == 6


async def test_private_feeds_are_refused_by_the_whole_sync(world: World) -> None:
    world.server.serve(document(offers(3)))
    await world.set_feed()
    job = await world.sync(allow_private_feeds=False)
    assert job["status"] == "failed"
    assert job["error"] == (
        "127.0.0.1 is not on the public internet; feeds are fetched only from there (ALLOW_PRIVATE_FEEDS)."
    )
    assert world.server.connections == 0


async def test_tls_is_checked_against_the_name_and_not_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = _self_signed("shop.example")
    (tmp_path / "both.pem").write_bytes(key + certificate)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "both.pem")
    trusting = ssl.create_default_context(cadata=certificate.decode())
    monkeypatch.setattr("app.services.sync.fetch._tls", lambda: trusting)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nsafe")
        writer.close()

    secure = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=serving)
    port = secure.sockets[0].getsockname()[1]
    names = Names(shop_example=["127.0.0.1"], other_example=["127.0.0.1"])
    async with secure:
        assert await fetch(f"https://shop.example:{port}/", resolve=names) == b"safe"
        with pytest.raises(FetchError, match=r"does not answer.*certificate"):
            await fetch(f"https://other.example:{port}/", resolve=names)


def _self_signed(name: str) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


# --- Never beyond a limit


async def test_a_gzip_bomb_is_refused_with_memory_flat(server: FeedServer) -> None:
    """200 MB from 200 kB, against a limit of 50 MB."""
    server.serve(b"".join(gzip_bomb(200 * 1024**2)))
    tracemalloc.start()
    try:
        with Spool(max_bytes=50 * 1024**2) as spool:
            spool.begin_document()
            async with Fetcher(allow_private=True, timeout_seconds=5, backoff=ONCE) as fetcher:
                with pytest.raises(TooLargeError, match="larger than 52428800 bytes"):
                    await fetcher.fetch(server.url(), write=spool.write)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 1024**2


async def test_a_feed_that_drips_is_ended(world: World) -> None:
    async def drip() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.05)

    world.server.routes["/feed"] = lambda _: Reply(drip())
    await world.set_feed()
    job = await world.sync(feed_max_seconds=1)
    assert (job["status"], job["error"]) == (
        "failed",
        "The sync took longer than 1 s (its max_seconds, or FEED_MAX_SECONDS).",
    )


async def test_every_failure_is_a_feed_error(server: FeedServer) -> None:
    def route(request: Request) -> Reply:
        return Reply(b"x" * 100, claimed_length=5 if request.query else 500)

    server.routes["/feed"] = route
    with pytest.raises(FeedError):
        await fetch(server.url())
