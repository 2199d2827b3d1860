"""Finished answers: nothing is given that has changed longer ago than the bound, and no more is kept than fits."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from starlette.responses import Response

from app import db, metrics
from app.edge.finished import CHECK_SECONDS, FinishedAnswers, FinishedAnswersMiddleware, JSONBytes, KeptFor
from app.models import StaffRole
from app.services.catalogue_version import catalogue_changed, catalogue_version
from tests.factories import make_category, make_merchant, make_offer, staff_headers
from tests.feed_server import FeedServer, document, offers
from tests.sync.world import make_world


class Shop:
    """An application whose answers are what the test says, with a clock and a version that the test turns."""

    def __init__(self, *, max_bytes: int = 100_000) -> None:
        self.now, self.written, self.checks, self.served = 0.0, 1, 0, 0
        self.app = FastAPI()
        self.app.state.finished_answers = FinishedAnswers(
            max_bytes=max_bytes, read_version=self.read_version, clock=lambda: self.now
        )
        self.app.add_middleware(FinishedAnswersMiddleware)
        self.app.add_api_route("/kept", self.answer, dependencies=[Depends(KeptFor(seconds=10))])
        self.app.add_api_route("/own", self.answer)
        self.app.add_api_route("/missing", self.missing, dependencies=[Depends(KeptFor(seconds=10))])

    async def read_version(self) -> int:
        self.checks += 1
        return self.written

    async def answer(self) -> JSONBytes:
        self.served += 1
        return JSONBytes(b'{"version":%d}' % self.written)

    async def missing(self) -> Response:
        self.served += 1
        return Response(status_code=404)


@pytest.fixture
async def shop() -> Shop:
    return Shop()


@pytest.fixture
async def http(shop: Shop) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(shop) as client:
        yield client


def client_of(shop: Shop) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(shop.app), base_url="http://shop.test")


async def test_what_was_asked_before_is_given_without_its_route(shop: Shop, http: httpx.AsyncClient) -> None:
    first, second = await http.get("/kept"), await http.get("/kept")
    assert (first.content, first.headers.raw) == (second.content, second.headers.raw)
    assert shop.served == 1
    await http.get("/kept?limit=3")
    await http.get("/own")
    await http.get("/own")
    assert shop.served == 4


async def test_a_write_shows_once_the_bound_is_over_and_asks_for_the_version_once(
    shop: Shop, http: httpx.AsyncClient
) -> None:
    await http.get("/kept")
    shop.written = 2
    shop.now += CHECK_SECONDS * 0.9
    assert (await http.get("/kept")).json() == {"version": 1}
    assert shop.checks == 1
    shop.now += CHECK_SECONDS * 0.1
    assert (await http.get("/kept")).json() == {"version": 2}
    assert (await http.get("/kept")).json() == {"version": 2}
    assert shop.checks == 2


async def test_an_answer_grows_too_old_even_when_nothing_was_written(shop: Shop, http: httpx.AsyncClient) -> None:
    for _ in range(41):
        await http.get("/kept")
        shop.now += 0.25
    assert shop.served == 2


async def test_an_answer_is_not_kept_when_something_was_written_meanwhile(shop: Shop, http: httpx.AsyncClient) -> None:
    answers = shop.app.state.finished_answers
    overtaken = shop.answer

    async def slow() -> JSONBytes:
        body = await overtaken()
        shop.written = 2
        shop.now += CHECK_SECONDS
        await answers.version()  # as another request does
        return body

    shop.app.add_api_route("/slow", slow, dependencies=[Depends(KeptFor(seconds=10))])
    assert (await http.get("/slow")).json() == {"version": 1}
    assert (await http.get("/slow")).json() == {"version": 2}


async def test_a_client_that_has_the_answer_is_told_so(shop: Shop, http: httpx.AsyncClient) -> None:
    first = await http.get("/kept")
    etag = first.headers["ETag"]
    for sent in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = await http.get("/kept", headers={"If-None-Match": sent})
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", etag), sent
        assert answer.headers["Cache-Control"] == "no-cache"
    assert (await http.get("/kept", headers={"If-None-Match": '"other"'})).status_code == 200
    # Also when it is not kept, and no longer when it changed.
    shop.now += 100
    assert (await http.get("/kept", headers={"If-None-Match": etag})).status_code == 304
    shop.written = 2
    shop.now += 100
    assert (await http.get("/kept", headers={"If-None-Match": etag})).json() == {"version": 2}


async def test_only_good_answers_are_kept(shop: Shop, http: httpx.AsyncClient) -> None:
    for _ in range(2):
        answer = await http.get("/missing")
        assert (answer.status_code, "ETag" in answer.headers) == (404, False)
    assert shop.served == 2


async def test_no_more_is_kept_than_fits_and_what_was_asked_for_last_stays() -> None:
    shop = Shop(max_bytes=3_500)  # three of them
    async with client_of(shop) as http:
        for number in (1, 2, 3):
            await http.get(f"/kept?limit={number}")
        await http.get("/kept?limit=1")
        await http.get("/kept?limit=4")
        assert shop.served == 4
        await http.get("/kept?limit=1")
        assert shop.served == 4
        await http.get("/kept?limit=2")
        assert shop.served == 5


async def test_without_memory_nothing_is_kept() -> None:
    shop = Shop(max_bytes=0)
    async with client_of(shop) as http:
        for _ in range(2):
            assert "ETag" in (await http.get("/kept")).headers
        assert shop.served == 2


# --- The catalogue's version


async def test_whatever_staff_change_and_each_sync_that_changes_something_raise_the_version(
    committed_client: httpx.AsyncClient, committed_db: Any
) -> None:
    async with db.transaction() as session:
        staff = await staff_headers(session, StaffRole.ADMIN)
        merchant_id = (await make_merchant(session)).id
    merchant = {"slug": "new", "name": "New", "currency": "PKR", "tracking_url": "https://new.example/"}
    for method, path, body in (
        ("POST", "/v1/admin/categories", {"slug": "fashion", "name": "Fashion"}),
        ("POST", "/v1/admin/merchants", merchant),
        ("PATCH", f"/v1/admin/merchants/{merchant_id}", {"status": "paused"}),
        ("POST", f"/v1/admin/merchants/{merchant_id}/rates", {"kind": "percent_of_sale", "basis_points": 700}),
    ):
        before = await catalogue_version()
        answer = await committed_client.request(method, path, json=body, headers=staff)
        assert answer.is_success, answer.text
        assert await catalogue_version() > before, path
        # What is refused changes nothing.
        assert (await committed_client.request(method, path, json={"x": 1}, headers=staff)).status_code == 422
        assert await catalogue_version() == before + 1
    async with FeedServer() as server:
        world = await make_world(committed_db, committed_client, server)
        await world.set_feed()
        server.serve(document(offers(3)))
        before = await catalogue_version()
        assert (await world.sync())["created"] == 3
        assert await catalogue_version() == before + 1
        assert (await world.sync())["unchanged"] == 3
        assert await catalogue_version() == before + 1


async def test_many_may_change_the_catalogue_at_once(committed_db: Any) -> None:
    del committed_db
    before = await catalogue_version()

    async def change() -> None:
        async with db.transaction() as session:
            for _ in range(3):
                catalogue_changed(session)
            await make_category(session)

    await asyncio.gather(*(change() for _ in range(20)))
    assert await catalogue_version() == before + 20


async def test_a_kept_list_shows_what_was_written_and_is_counted_as_its_route(
    committed_client: httpx.AsyncClient, application: FastAPI
) -> None:
    now = 0.0
    application.state.finished_answers = FinishedAnswers(
        max_bytes=100_000, read_version=catalogue_version, clock=lambda: now
    )
    async with db.transaction() as session:
        merchant = await make_merchant(session)
    path = f"/v1/merchants/{merchant.id}/offers"
    for _ in range(2):
        assert (await committed_client.get(path)).json()["items"] == []
    async with db.transaction() as session:
        offer = await make_offer(session, merchant)
        catalogue_changed(session)
    assert (await committed_client.get(path)).json()["items"] == []
    now = CHECK_SECONDS
    answer = await committed_client.get(path)
    assert [item["id"] for item in answer.json()["items"]] == [str(offer.id)]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    count = metrics.HTTP_REQUESTS.labels("GET", "/v1/merchants/{merchant_id}/offers", 200)._sum.get()
    await committed_client.get(path)
    assert metrics.HTTP_REQUESTS.labels("GET", "/v1/merchants/{merchant_id}/offers", 200)._sum.get() > count
