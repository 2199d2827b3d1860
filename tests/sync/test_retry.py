"""When a feed's server is asked again, how long after, and how often a minute at most."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.db import transaction
from app.models import FeedHost
from app.services.sync import stream
from app.services.sync.errors import BrokenOffError, FetchError
from app.services.sync.fetch import Fetcher
from app.services.sync.pace import reserve_call
from app.services.sync.retry import Backoff, retry_after_seconds
from tests.factories import make_merchant
from tests.feed_server import FeedServer, Reply, document, offers
from tests.sync.world import World, counts

FOREVER = float("inf")


def fetcher(*, deadline: float = FOREVER, tries: int = 5, base: float = 0.001) -> Fetcher:
    return Fetcher(allow_private=True, timeout_seconds=5, backoff=Backoff(deadline, tries, base))


@given(st.integers(0, 20), st.floats(0, 100))
def test_waits_are_spread_up_to_a_bound_that_doubles(tries: int, asked: float) -> None:
    seconds = Backoff(FOREVER, tries=99, base_seconds=0.5).wait_seconds(tries, asked)
    assert seconds is not None
    assert asked <= seconds <= asked + min(0.5 * 2**tries, 30)


def test_waits_differ() -> None:
    waits = {Backoff(FOREVER).wait_seconds(3, 0) for _ in range(20)}
    assert len(waits) == 20


def test_there_is_no_wait_after_the_last_try_or_beyond_the_deadline() -> None:
    assert Backoff(FOREVER, tries=3).wait_seconds(2, 0) is None
    assert Backoff(time.monotonic() + 10).wait_seconds(0, 20) is None
    assert Backoff(time.monotonic() + 10).wait_seconds(0, 5) is not None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"Retry-After": "120"}, 120),
        ({"Retry-After": " 7 "}, 7),
        ({"Retry-After": "9" * 400}, 999_999_999),
        ({"Retry-After": "-5"}, 0),
        ({"Retry-After": "soon"}, 0),
        ({"Retry-After": "1e3"}, 0),
        ({"Retry-After": "\u0663"}, 0),
        ({"Retry-After": "Wed, 25 Nov 2026 12:00:30 GMT", "Date": "Wed, 25 Nov 2026 12:00:00 GMT"}, 30),
        ({"Retry-After": "Wed, 25 Nov 2026 11:00:00 GMT", "Date": "Wed, 25 Nov 2026 12:00:00 GMT"}, 0),
        ({"Retry-After": "Wed, 25 Nov 2026 12:00:30 -0000", "Date": "Wed, 25 Nov 2026 12:00:00 GMT"}, 30),
    ],
)
def test_retry_after_is_seconds_or_a_date(headers: dict[str, str], seconds: float) -> None:
    assert retry_after_seconds(headers) == seconds


def test_retry_after_without_a_date_is_by_our_clock() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 55 < retry_after_seconds({"Retry-After": later}) <= 60


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 599])
async def test_what_may_pass_is_tried_again(server: FeedServer, status: int) -> None:
    answers = [Reply(b"", status=status), Reply(b"", status=status), Reply(b"fine")]
    server.routes["/feed"] = lambda _: answers.pop(0)
    pieces: list[bytes] = []
    async with fetcher() as fetching:
        await fetching.fetch(server.url(), write=pieces.append)
    assert (b"".join(pieces), len(server.requests)) == (b"fine", 3)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 418])
async def test_what_will_not_pass_is_not(server: FeedServer, status: int) -> None:
    server.routes["/feed"] = Reply(b"", status=status)
    async with fetcher() as fetching:
        with pytest.raises(FetchError, match=f"answered {status}"):
            await fetching.fetch(server.url(), write=lambda _: None)
    assert len(server.requests) == 1


async def test_tries_come_to_an_end(server: FeedServer) -> None:
    server.routes["/feed"] = Reply(b"", status=503)
    async with fetcher(tries=4) as fetching:
        with pytest.raises(FetchError, match=r"answered 503 Service Unavailable\.$"):
            await fetching.fetch(server.url(), write=lambda _: None)
    assert len(server.requests) == 4


async def test_the_wait_is_at_least_what_the_server_asks_for(server: FeedServer) -> None:
    answers = [Reply(b"", status=429, headers={"Retry-After": "1"}), Reply(b"fine")]
    server.routes["/feed"] = lambda _: answers.pop(0)
    started = time.monotonic()
    async with fetcher() as fetching:
        await fetching.fetch(server.url(), write=lambda _: None)
    assert 1 <= time.monotonic() - started < 3


async def test_a_wait_beyond_the_syncs_time_is_not_begun(world: World) -> None:
    world.server.routes["/feed"] = Reply(b"", status=429, headers={"Retry-After": "3600"})
    await world.set_feed(max_seconds=60)
    started = time.monotonic()
    job = await world.sync()
    assert job["error"] == (
        f"http://127.0.0.1:{world.server.port} answered 429 Too Many Requests. It asks to come back in 3600 s."
    )
    assert time.monotonic() - started < 10
    assert len(world.server.requests) == 1


async def test_a_refused_connection_is_tried_again(server: FeedServer) -> None:
    port = server.port
    await server.__aexit__()
    attempts: list[str] = []

    async def resolve(host: str, _: int) -> list[str]:
        attempts.append(host)
        return ["127.0.0.1"]

    backoff = Backoff(FOREVER, tries=3, base_seconds=0.001)
    paced: list[str] = []

    async def pace(host: str) -> None:
        paced.append(host)

    async with Fetcher(allow_private=True, timeout_seconds=5, backoff=backoff, pace=pace, resolve=resolve) as fetching:
        with pytest.raises(FetchError, match="does not answer"):
            await fetching.fetch(f"http://shop.example:{port}/feed", write=lambda _: None)
    assert (attempts, paced) == (["shop.example"], ["shop.example"] * 3)


async def test_a_name_that_cannot_be_resolved_now_is_tried_again(server: FeedServer) -> None:
    server.serve(b"fine")
    answers: list[OSError | list[str]] = [OSError(-3, "Temporary failure in name resolution"), ["127.0.0.1"]]

    async def resolve(_: str, __: int) -> list[str]:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    pieces: list[bytes] = []
    backoff = Backoff(FOREVER, tries=3, base_seconds=0.001)
    async with Fetcher(allow_private=True, timeout_seconds=5, backoff=backoff, resolve=resolve) as fetching:
        await fetching.fetch(f"http://shop.example:{server.port}/feed", write=pieces.append)
    assert pieces == [b"fine"]


async def test_what_broke_off_is_tried_again_only_when_it_can_be_forgotten(server: FeedServer) -> None:
    answers = [Reply(b"half", claimed_length=10), Reply(b"whole")]
    server.routes["/feed"] = lambda _: answers.pop(0)
    pieces: list[bytes] = []
    async with fetcher() as fetching:
        await fetching.fetch(server.url(), write=pieces.append, restart=pieces.clear)
        assert pieces == [b"whole"]
        server.routes["/feed"] = Reply(b"half", claimed_length=10)
        with pytest.raises(BrokenOffError):
            await fetching.fetch(server.url(), write=pieces.append)
        with pytest.raises(BrokenOffError, match="broke off"):
            await fetching.fetch(server.url(), write=pieces.append, restart=pieces.clear)
    assert len(server.requests) == 2 + 1 + 5


async def test_a_whole_file_that_broke_off_comes_with_the_next_try_of_its_run(world: World) -> None:
    content = document(offers(3000))

    async def half() -> AsyncIterator[bytes]:
        yield content[: len(content) // 2]

    answers = [Reply(half(), headers={"Content-Length": str(len(content))}), Reply(content)]
    world.server.routes["/feed"] = lambda _: answers.pop(0)
    await world.set_feed()
    job = await world.sync()
    assert (job["status"], "broke off" in job["error"]) == ("queued", True)
    assert await world.staged() == 0
    job = await world.work(job["job_id"])
    assert (job["status"], job["error"], counts(job)) == ("succeeded", None, {"fetched": 3000, "created": 3000})


# --- Calls a minute


async def test_turns_at_a_host_are_evenly_spaced_for_all_who_ask(world: World) -> None:
    async def reserve(host: str) -> float:
        async with transaction() as session:
            return await reserve_call(session, host=host, calls_a_minute=60)

    started = datetime.now(UTC)
    waits = await asyncio.gather(*(reserve("a.example") for _ in range(8)))
    # One a second, from now on, whoever asked first.
    assert min(waits) == 0
    async with transaction() as session:
        following = (await session.get_one(FeedHost, "a.example")).next_call_at
    assert started + timedelta(seconds=8) <= following <= datetime.now(UTC) + timedelta(seconds=8)
    assert max(waits) <= 7
    assert await reserve("b.example") == 0


async def test_turns_are_not_saved_up(world: World) -> None:
    async with transaction() as session:
        assert await reserve_call(session, host="a.example", calls_a_minute=6000) == 0
    await asyncio.sleep(0.1)
    async with transaction() as session:
        assert await reserve_call(session, host="a.example", calls_a_minute=60) == 0
        assert 0.9 < await reserve_call(session, host="a.example", calls_a_minute=60) <= 1


async def test_two_syncs_of_one_host_share_its_calls_a_minute(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "RETRY_SECONDS", 0.001)
    world.server.serve_pages([offers(2), offers(2, start=3), offers(2, start=5)])
    async with transaction() as session:
        other = await make_merchant(session)
    jobs = []
    for merchant_id in (world.merchant.id, other.id):
        await world.set_feed(merchant_id, calls_a_minute=600)
        jobs.append((await world.post(merchant_id)).json()["job_id"])
    started = time.monotonic()
    done = await asyncio.gather(*(world.work(job) for job in jobs))
    # Six calls, a tenth of a second between them.
    assert time.monotonic() - started >= 0.5
    assert [counts(job) for job in done] == [{"fetched": 6, "created": 6}] * 2
