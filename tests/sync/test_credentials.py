"""What a feed's server asks for: kept sealed, sent to its own host alone, and shown to nobody."""

import io
import logging
from typing import Any

import pytest
from pydantic import SecretStr

from app.db import transaction
from app.logs import configure_logging
from app.models import Feed, FeedCredentialsKind
from app.services.reseal import reseal_batch
from app.services.secrets import unseal
from tests.feed_server import FeedServer, Reply, Request, document, offers
from tests.sync.world import World, counts

SECRET = "hunter2-s3cret"

CREDENTIALS: list[dict[str, str]] = [
    {"kind": "basic", "username": "me", "password": SECRET},
    {"kind": "bearer", "token": SECRET},
    {"kind": "header", "name": "X-Api-Key", "value": SECRET},
    {"kind": "query", "name": "apikey", "value": SECRET},
    {"kind": "path", "value": SECRET},
]
each = pytest.mark.parametrize("credentials", CREDENTIALS, ids=lambda one: one["kind"])


def lets_in(request: Request) -> bool:
    """Whether a request has any of them."""
    headers = request.headers
    return (
        headers.get("authorization") in {f"Bearer {SECRET}", "Basic bWU6aHVudGVyMi1zM2NyZXQ="}
        or headers.get("x-api-key") == SECRET
        or request.query.get("apikey") == SECRET
        or SECRET in request.path
    )


def url_for(world: World, credentials: dict[str, str], path: str = "/feed") -> str:
    return world.server.url("/{secret}" + path if credentials["kind"] == "path" else path)


async def put(world: World, **body: Any) -> tuple[int, dict[str, Any]]:
    path = f"/v1/admin/merchants/{world.merchant.id}/feed"
    answer = await world.client.put(
        path, json={"mapping": {"preset": "direct-json"}, "enabled": False, **body}, headers=world.operator
    )
    return answer.status_code, answer.json()


@each
async def test_each_kind_opens_the_feed_on_every_page(world: World, credentials: dict[str, str]) -> None:
    def route(request: Request) -> Reply:
        if not lets_in(request):
            return Reply(b"", status=401)
        number = int(request.query.get("page", "1"))
        following = f'"{request.path}?page={number + 1}"' if number < 3 else "null"
        items = document(offers(5, start=5 * number))[len(b'{"items":') : -len(b',"next":null}')]
        return Reply(b'{"items":' + items + b',"next":' + following.encode() + b"}")

    for path in ("/feed", f"/{SECRET}/feed"):
        world.server.routes[path] = route
    await world.set_feed(url=url_for(world, credentials), credentials=credentials)
    job = await world.sync()
    assert (job["error"], counts(job)) == (None, {"fetched": 15, "created": 15})
    await world.set_feed(url=url_for(world, credentials).replace("{secret}", "x"), credentials=None)
    # Without them the server would not have answered.
    assert "40" in (await world.sync())["error"]


@each
async def test_they_are_kept_sealed_and_never_shown_or_logged(world: World, credentials: dict[str, str]) -> None:
    configure_logging("DEBUG", process="test")
    logged = io.StringIO()
    [handler] = logging.getLogger().handlers
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(logged)
    for path in ("/feed", f"/{SECRET}/feed"):
        world.server.routes[path] = Reply(b"", status=403)
    url = url_for(world, credentials)
    status, shown = await put(world, url=url, credentials=credentials)
    assert (status, shown["credentials_kind"], shown["url"]) == (200, credentials["kind"], url)
    job = await world.sync()
    assert "403 Forbidden. Check the feed's credentials" in job["error"]
    path = f"/v1/admin/merchants/{world.merchant.id}/feed"
    read = (await world.client.get(path, headers=world.operator)).text
    feed = await world.feed()
    assert feed.credentials_encrypted is not None
    assert SECRET in unseal(world.settings, feed.credentials_encrypted)[0]
    for text in (str(shown), read, str(job), logged.getvalue(), str(feed.credentials_encrypted), str(feed.mapping)):
        assert SECRET not in text
        assert "hunter2" not in text
    assert "sync failed" in logged.getvalue()


async def test_a_password_in_the_address_is_taken_out_of_it(world: World) -> None:
    world.server.routes["/feed"] = lambda request: Reply(document(offers(3)) if lets_in(request) else b"")
    status, shown = await put(world, url=world.server.url().replace("//", f"//me:{SECRET}@"))
    assert (status, shown["url"], shown["credentials_kind"]) == (200, world.server.url(), "basic")
    assert counts(await world.sync()) == {"fetched": 3, "created": 3}
    status, problem = await put(
        world, url=world.server.url().replace("//", "//me:x@"), credentials={"kind": "bearer", "token": "t"}
    )
    assert (status, problem["code"]) == (422, "invalid_feed")
    assert "give one or the other" in problem["detail"]


async def test_what_is_left_out_stays_and_null_removes_it(world: World) -> None:
    token = {"kind": "bearer", "token": SECRET}
    await put(world, url=world.server.url(), credentials=token)
    _, shown = await put(world, url=world.server.url("/other"), interval_seconds=60)
    assert shown["credentials_kind"] == "bearer"
    assert unseal(world.settings, (await world.feed()).credentials_encrypted or b"") != []
    _, shown = await put(world, url=world.server.url(), credentials=None)
    assert shown["credentials_kind"] is None
    assert (await world.feed()).credentials_encrypted is None


@pytest.mark.parametrize("to", ["http://evil.example/feed", "https://127.0.0.1/feed", "http://127.0.0.1:1/feed"])
async def test_they_cannot_be_had_by_another_address(world: World, to: str) -> None:
    await put(world, url=world.server.url(), credentials={"kind": "bearer", "token": SECRET})
    status, problem = await put(world, url=to)
    assert (status, problem["code"], problem["errors"][0]["loc"]) == (422, "invalid_feed", ["body", "credentials"])
    assert (await world.feed()).url == world.server.url()
    assert (await put(world, url=to, credentials={"kind": "bearer", "token": "another"}))[0] == 200


@each
async def test_another_host_gets_none_of_it(world: World, credentials: dict[str, str]) -> None:
    """Neither after a redirect nor as the next page."""
    async with FeedServer() as other:
        other.serve(document(offers(2, start=10)))
        page = document(offers(2)).replace(b'"next":null', f'"next":"{other.url()}"'.encode())
        for path in ("/feed", f"/{SECRET}/feed"):
            world.server.routes[path] = Reply(page)
        for path in ("/moved", f"/{SECRET}/moved"):
            world.server.routes[path] = Reply(status=302, headers={"Location": other.url()})
        await world.set_feed(url=url_for(world, credentials), credentials=credentials)
        assert counts(await world.sync()) == {"fetched": 4, "created": 4}
        await world.set_feed(
            url=url_for(world, credentials, "/moved"), credentials=credentials, max_loss_basis_points=10_000
        )
        assert (await world.sync())["error"] is None
        assert len(other.requests) == 2
        assert not any(lets_in(request) for request in other.requests)
        assert all(lets_in(request) for request in world.server.requests)


@pytest.mark.parametrize(
    "credentials",
    [
        {"kind": "header", "name": "Host", "value": "x"},
        {"kind": "header", "name": "transfer-encoding", "value": "x"},
        {"kind": "header", "name": "Content-Length", "value": "x"},
        {"kind": "header", "name": "A B", "value": "x"},
        {"kind": "header", "name": "X-Key", "value": "a\r\nHost: b"},
        {"kind": "header", "name": "X-Key", "value": "caf\u00e9"},
        {"kind": "bearer", "token": "a\nb"},
        {"kind": "bearer", "token": ""},
        {"kind": "basic", "username": "a:b", "password": "x"},
        {"kind": "basic", "username": "a", "password": "x", "more": 1},
        {"kind": "cookie", "value": "x"},
    ],
)
async def test_what_could_change_the_request_is_refused(world: World, credentials: dict[str, Any]) -> None:
    status, problem = await put(world, url=world.server.url(), credentials=credentials)
    assert (status, problem["code"]) == (422, "invalid_request")
    assert problem["errors"][0]["loc"][:2] == ["body", "credentials"]


@pytest.mark.parametrize(
    ("url", "credentials"),
    [
        ("https://shop.example/{secret}/feed", None),
        ("https://shop.example/{secret}/feed", {"kind": "bearer", "token": "t"}),
        ("https://shop.example/feed", {"kind": "path", "value": "x"}),
        ("https://{secret}.example/feed", {"kind": "path", "value": "x"}),
    ],
)
async def test_the_secrets_place_and_its_kind_belong_together(
    world: World, url: str, credentials: dict[str, str] | None
) -> None:
    status, problem = await put(world, url=url, credentials=credentials)
    assert (status, problem["code"], problem["errors"][0]["loc"]) == (422, "invalid_feed", ["body", "url"])


async def test_a_key_that_is_gone_is_said_plainly(world: World) -> None:
    await put(world, url=world.server.url(), credentials={"kind": "bearer", "token": SECRET})
    other = SecretStr("b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXItLTE=")
    job = await world.sync(encryption_keys=[other])
    assert job["error"] == "No key of ENCRYPTION_KEYS opens the feed's credentials; set them again."
    assert world.server.connections == 0


async def test_they_are_resealed_with_the_newest_key(world: World) -> None:
    await put(world, url=world.server.url(), credentials={"kind": "bearer", "token": SECRET})
    new = SecretStr("b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXItLTE=")
    both = world.settings.model_copy(update={"encryption_keys": [new, *world.settings.encryption_keys]})
    async with transaction() as session:
        assert (await reseal_batch(session, both, Feed.credentials_encrypted)).done == 1
    alone = world.settings.model_copy(update={"encryption_keys": [new]})
    feed = await world.feed()
    assert SECRET in unseal(alone, feed.credentials_encrypted or b"")[0]
    assert feed.credentials_kind is FeedCredentialsKind.BEARER


@pytest.mark.parametrize(
    ("limit", "most"),
    [("max_bytes", 2 * 1024**3), ("max_rows", 2_000_000), ("max_seconds", 1800), ("calls_a_minute", 6000)],
)
async def test_limits_are_never_above_the_services_own(world: World, limit: str, most: int) -> None:
    status, problem = await put(world, url=world.server.url(), **{limit: most + 1})
    assert (status, problem["errors"][0]["loc"]) == (422, ["body", limit])
    status, shown = await put(world, url=world.server.url(), **{limit: most})
    assert (status, shown[limit]) == (200, most)
    _, shown = await put(world, url=world.server.url())
    assert shown[limit] is None
