"""Sources: a secret is shown once, kept encrypted, and two are live during a rotation."""

import asyncio
import base64
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet, InvalidToken
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app import db
from app.config import Settings
from app.models import Source, StaffRole
from app.services.secrets import seal, unseal
from app.services.sources import get_preset
from app.services.webhooks import intake
from app.services.webhooks.delivery import Delivery
from app.services.webhooks.intake import InvalidSignatureError, UnknownSourceError
from tests.factories import customer_headers, make_customer, make_source, staff_headers
from tests.webhooks.sender import signed_headers

PATH = "/v1/admin/sources"
DEFINITION = {
    "authentication": "none",
    "transport": {"accepts": ["json"]},
    "reading": {"mapping": {"order_reference": "id"}},
    "subid_parameter": "s",
}


@pytest.fixture
async def admin(session: AsyncSession) -> dict[str, str]:
    return await staff_headers(session, StaffRole.ADMIN)


async def create(client: httpx.AsyncClient, headers: dict[str, str], **changes: Any) -> dict[str, Any]:
    answer = await client.post(PATH, json={"name": "Khaadi direct", "preset": "direct", **changes}, headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    made: dict[str, Any] = answer.json()
    return made


async def takes(settings: Settings, source: dict[str, Any], secret: str, message_id: str) -> bool:
    """Whether the webhook intake takes a delivery at the source's address that is signed with the secret."""
    body = b'{"type": "order.created"}'
    headers = signed_headers(body, message_id=message_id, secret=secret)
    delivery = Delivery("POST", source["webhook_url"], b"", headers, body)
    source_key = source["webhook_path"].removeprefix("/v1/webhooks/")
    try:
        await intake.receive(settings, source_key=source_key, delivery=delivery, request_id=None)
    except (UnknownSourceError, InvalidSignatureError):
        return False
    return True


async def test_direct_source_shows_its_secret_once_and_keeps_it_encrypted(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, admin: dict[str, str]
) -> None:
    made = await create(client, admin)
    source = (await session.scalars(select(Source))).one()
    assert made == {
        "id": source.id,
        "name": "Khaadi direct",
        "preset": "direct",
        "status": "active",
        "subid_parameter": "click_id",
        "created_at": source.created_at.isoformat().replace("+00:00", "Z"),
        "webhook_path": f"/v1/webhooks/{source.source_key}",
        "webhook_url": f"http://cashback.test/v1/webhooks/{source.source_key}",
        "live_secrets": 1,
        "version": 1,
        "definition": get_preset("direct").definition.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        "secret": made["secret"],
    }
    assert made["secret"].startswith("whsec_")
    assert len(base64.b64decode(made["secret"].removeprefix("whsec_"))) == 32
    assert len(source.source_key) == 32
    assert source.secrets_encrypted is not None
    assert made["secret"].encode() not in source.secrets_encrypted
    assert unseal(settings, source.secrets_encrypted) == [made["secret"]]


async def test_awin_source_has_an_address_and_no_secret(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    made = await create(client, admin, preset="awin")
    assert (made["secret"], made["live_secrets"], made["subid_parameter"]) == (None, 0, "clickref")


async def test_secrets_and_addresses_differ_from_source_to_source(
    client: httpx.AsyncClient, admin: dict[str, str]
) -> None:
    made = [await create(client, admin) for _ in range(3)]
    assert len({source["secret"] for source in made}) == 3
    assert len({source["webhook_path"] for source in made}) == 3


async def test_list_shows_neither_secrets_nor_addresses(client: httpx.AsyncClient, session: AsyncSession) -> None:
    made = [await create(client, await staff_headers(session)) for _ in range(3)]
    viewer = await staff_headers(session, StaffRole.VIEWER)
    seen: list[dict[str, Any]] = []
    params: dict[str, Any] = {"limit": 2}
    while True:
        answer = await client.get(PATH, params=params, headers=viewer)
        for source in made:
            assert source["secret"] not in answer.text
            assert source["webhook_path"].rsplit("/", 1)[1] not in answer.text
        seen += answer.json()["items"]
        if answer.json()["next_cursor"] is None:
            break
        params["cursor"] = answer.json()["next_cursor"]
    assert [source["id"] for source in seen] == [source["id"] for source in made]
    assert seen[0].keys() == {"id", "name", "preset", "status", "subid_parameter", "created_at"}


async def test_admin_sees_the_address_again_but_never_the_secret(
    client: httpx.AsyncClient, session: AsyncSession, admin: dict[str, str]
) -> None:
    made = await create(client, admin)
    answer = await client.get(f"{PATH}/{made['id']}", headers=admin)
    secret = made.pop("secret")
    assert answer.json() == made
    assert secret not in answer.text
    operator = await staff_headers(session, StaffRole.OPERATOR)
    assert (await client.get(f"{PATH}/{made['id']}", headers=operator)).status_code == 403


async def test_rotation_keeps_two_secrets_live_until_the_old_one_is_retired(
    client: httpx.AsyncClient, settings: Settings, admin: dict[str, str]
) -> None:
    made = await create(client, admin)
    rotated = (await client.post(f"{PATH}/{made['id']}/rotate-secret", headers=admin)).json()
    assert rotated["live_secrets"] == 2
    assert rotated["secret"] != made["secret"]
    assert await takes(settings, made, made["secret"], "old")
    assert await takes(settings, made, rotated["secret"], "new")
    retired = await client.post(f"{PATH}/{made['id']}/retire-old", headers=admin)
    assert retired.status_code == 200
    assert retired.json()["live_secrets"] == 1
    assert rotated["secret"] not in retired.text
    assert not await takes(settings, made, made["secret"], "old-again")
    assert await takes(settings, made, rotated["secret"], "new-again")
    # Nothing is left to retire, and saying so again does no harm.
    assert (await client.post(f"{PATH}/{made['id']}/retire-old", headers=admin)).json()["live_secrets"] == 1


async def test_second_rotation_ends_the_oldest_secret(
    client: httpx.AsyncClient, settings: Settings, admin: dict[str, str]
) -> None:
    made = await create(client, admin)
    secrets = [made["secret"]]
    for _ in range(2):
        rotated = (await client.post(f"{PATH}/{made['id']}/rotate-secret", headers=admin)).json()
        assert rotated["live_secrets"] == 2
        secrets.append(rotated["secret"])
    taken = [await takes(settings, made, secret, f"id-{number}") for number, secret in enumerate(secrets)]
    assert taken == [False, True, True]


async def test_rotations_at_the_same_time_lose_neither_secret(
    committed_client: httpx.AsyncClient, committed_db: Settings
) -> None:
    async with db.transaction() as session:
        headers = await staff_headers(session)
    made = await create(committed_client, headers)
    answers = await asyncio.gather(
        *(committed_client.post(f"{PATH}/{made['id']}/rotate-secret", headers=headers) for _ in range(2))
    )
    shown = {answer.json()["secret"] for answer in answers}
    async with db.transaction() as session:
        sealed = (await session.scalars(select(Source.secrets_encrypted))).one()
    assert sealed is not None
    assert set(unseal(committed_db, sealed)) == shown


async def test_unsigned_source_has_nothing_to_rotate(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    made = await create(client, admin, preset="awin")
    for action in ("rotate-secret", "retire-old"):
        answer = await client.post(f"{PATH}/{made['id']}/{action}", headers=admin)
        assert (answer.status_code, answer.json()["code"]) == (409, "source_unsigned")


async def test_disabled_source_takes_nothing_until_it_is_active_again(
    client: httpx.AsyncClient, settings: Settings, admin: dict[str, str]
) -> None:
    made = await create(client, admin)
    changed = await client.patch(f"{PATH}/{made['id']}", json={"status": "disabled"}, headers=admin)
    assert changed.json()["status"] == "disabled"
    assert changed.json()["name"] == "Khaadi direct"
    assert not await takes(settings, made, made["secret"], "id")
    await client.patch(f"{PATH}/{made['id']}", json={"status": "active"}, headers=admin)
    assert await takes(settings, made, made["secret"], "id")


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"kind": "rakuten"},
        {"preset": None},
        {"definition": DEFINITION},
        {"preset": None, "definition": {**DEFINITION, "subid_parameter": "a&b"}},
        {"subid_parameter": "s"},
        {"secret": "short"},
        {"secret": "whsec_dG9vIHNob3J0"},
        {"source_key": "chosen"},
        {"secrets_encrypted": "x"},
        {"id": 1},
    ],
)
async def test_sources_that_do_not_fit_are_refused(
    client: httpx.AsyncClient, admin: dict[str, str], change: dict[str, Any]
) -> None:
    answer = await client.post(PATH, json={"name": "N", "preset": "direct", **change}, headers=admin)
    assert answer.status_code == 422


@pytest.mark.parametrize("change", [{"preset": "awin"}, {"source_key": "x"}, {"name": None}, {"status": "gone"}])
async def test_changes_that_do_not_fit_are_refused(
    client: httpx.AsyncClient, session: AsyncSession, admin: dict[str, str], change: dict[str, Any]
) -> None:
    source = await make_source(session)
    assert (await client.patch(f"{PATH}/{source.id}", json=change, headers=admin)).status_code == 422


async def test_unknown_source_is_not_found(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    for method, path in (("GET", ""), ("PATCH", ""), ("POST", "/rotate-secret"), ("POST", "/retire-old")):
        body = {"name": "N"} if method == "PATCH" else None
        answer = await client.request(method, f"{PATH}/2147483647{path}", json=body, headers=admin)
        assert (answer.status_code, answer.json()["code"]) == (404, "source_not_found")


async def test_only_admins_write_and_only_staff_read(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    source = await make_source(session, preset="awin")
    customer = customer_headers(settings, await make_customer(session))
    viewer = await staff_headers(session, StaffRole.VIEWER)
    finance = await staff_headers(session, StaffRole.FINANCE)
    writes: list[tuple[str, str, dict[str, Any] | None]] = [
        ("POST", PATH, {"name": "N", "preset": "awin"}),
        ("PATCH", f"{PATH}/{source.id}", {"status": "disabled"}),
        ("POST", f"{PATH}/{source.id}/rotate-secret", None),
        ("POST", f"{PATH}/{source.id}/retire-old", None),
    ]
    for method, path, body in writes:
        for headers, status in (({}, 401), (customer, 401), (viewer, 403), (finance, 403)):
            assert (await client.request(method, path, json=body, headers=headers)).status_code == status
    for headers, status in (({}, 401), (customer, 401), (viewer, 200)):
        assert (await client.get(PATH, headers=headers)).status_code == status


# --- Secrets at rest


def test_secrets_survive_a_rotation_of_the_encryption_keys(settings: Settings) -> None:
    old, new = (SecretStr(Fernet.generate_key().decode()) for _ in range(2))
    before = settings.model_copy(update={"encryption_keys": [old]})
    during = settings.model_copy(update={"encryption_keys": [new, old]})
    after = settings.model_copy(update={"encryption_keys": [new]})
    sealed = seal(before, ["newest", "oldest"])
    assert unseal(during, sealed) == ["newest", "oldest"]
    with pytest.raises(InvalidToken):
        unseal(after, sealed)
    assert unseal(after, seal(during, ["newest"])) == ["newest"]
