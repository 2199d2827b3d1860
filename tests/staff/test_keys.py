"""Staff keys over HTTP: who makes them, what they may do, when they end, and that nobody is locked out."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.models import StaffKey, StaffMember, StaffRole, StaffScope
from app.services import staff
from tests.factories import staff_headers

KEYS = "/v1/admin/staff-keys"


async def make(client: httpx.AsyncClient, headers: dict[str, str], **wanted: Any) -> httpx.Response:
    body = {"member": "ayesha@cashback.example", "role": "operator", **wanted}
    return await client.post(KEYS, json=body, headers=headers)


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def works(client: httpx.AsyncClient, key: str, path: str = "/v1/admin/payouts") -> bool:
    answer = await client.get(path, headers={"X-API-Key": key})
    assert answer.status_code in (200, 401), answer.text
    return answer.status_code == 200


async def test_a_key_is_shown_once_and_kept_as_a_hash(client: httpx.AsyncClient, session: AsyncSession) -> None:
    admin = await staff_headers(session)
    answer = await make(client, admin)
    made = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Cache-Control"] == "no-store"
    assert made["key"].startswith(f"cbk_{made['prefix']}_")
    assert await works(client, made["key"])
    listed = await client.get(KEYS, params={"member": "AYESHA@cashback.example"}, headers=admin)
    [shown] = listed.json()["items"]
    assert "key" not in shown
    secret = made["key"].split("_", 2)[2]
    assert secret not in listed.text
    row = await session.get_one(StaffKey, made["id"])
    assert secret.encode() not in row.key_hash
    assert datetime.fromisoformat(made["expires_at"]) > datetime.now(UTC) + timedelta(days=364)


async def test_keys_of_one_name_are_of_one_member(client: httpx.AsyncClient, session: AsyncSession) -> None:
    admin = await staff_headers(session)
    first, second = (
        (await make(client, admin)).json(),
        (await make(client, admin, member=" Ayesha@Cashback.example ")).json(),
    )
    assert first["member_id"] == second["member_id"]
    assert (await make(client, admin, member="bilal")).json()["member_id"] != first["member_id"]


async def test_revoked_and_expired_keys_are_refused(client: httpx.AsyncClient, session: AsyncSession) -> None:
    admin = await staff_headers(session)
    revoked, expired = (await make(client, admin)).json(), (await make(client, admin, valid_days=1)).json()
    for _ in range(2):
        assert (await client.post(f"{KEYS}/{revoked['id']}/revoke", headers=admin)).status_code == 200
    row = await session.get_one(StaffKey, expired["id"])
    row.expires_at = datetime.now(UTC) - timedelta(hours=1)
    await session.commit()
    assert not await works(client, revoked["key"])
    assert not await works(client, expired["key"])
    active = await client.get(KEYS, params={"active": "true"}, headers=admin)
    assert {row["name"] for row in active.json()["items"]} == {"test admin"}
    again = await client.post(f"{KEYS}/{revoked['id']}/rotate", headers=admin)
    assert refusal(again) == (409, "staff_key_ended")


async def test_rotating_ends_the_old_key_and_keeps_what_it_may(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    admin = await staff_headers(session)
    old = (await make(client, admin, scopes=["payouts:read"])).json()
    answer = await client.post(f"{KEYS}/{old['id']}/rotate", json={"valid_days": None}, headers=admin)
    new = answer.json()
    assert answer.status_code == 201
    assert (new["member_id"], new["role"], new["scopes"], new["expires_at"]) == (
        old["member_id"],
        "operator",
        ["payouts:read"],
        None,
    )
    assert not await works(client, old["key"])
    assert await works(client, new["key"])


async def test_scopes_limit_a_key_to_routes(client: httpx.AsyncClient, session: AsyncSession) -> None:
    _, key = await staff.create_key(
        session, name="dashboard", role=StaffRole.ADMIN, scopes=[StaffScope.PAYOUTS_READ, StaffScope.REPORTS_READ]
    )
    headers = {"Authorization": f"Bearer {key}"}
    assert (await client.get("/v1/admin/payouts", headers=headers)).status_code == 200
    for method, path in (("GET", "/v1/admin/orders"), ("GET", KEYS), ("POST", KEYS)):
        answer = await client.request(method, path, headers=headers, json={"member": "x", "role": "viewer"})
        assert refusal(answer) == (403, "staff_scope_required")


@pytest.mark.parametrize("role", ["viewer", "operator", "finance"])
async def test_only_admins_handle_keys(client: httpx.AsyncClient, session: AsyncSession, role: str) -> None:
    headers = await staff_headers(session, StaffRole(role))
    assert refusal(await client.get(KEYS, headers=headers)) == (403, "staff_role_required")
    assert refusal(await make(client, headers, role="viewer")) == (403, "staff_role_required")


async def test_a_key_grants_no_more_than_its_creator_has(client: httpx.AsyncClient, session: AsyncSession) -> None:
    await staff_headers(session)
    scopes = [StaffScope.STAFF_MANAGE, StaffScope.PAYOUTS_READ]
    limited, key = await staff.create_key(session, name="hr", role=StaffRole.ADMIN, scopes=scopes)
    other, _ = await staff.create_key(session, name="boss", role=StaffRole.ADMIN)
    headers = {"X-API-Key": key}
    for wanted in (None, ["ledger:read"], ["payouts:read", "payouts:approve"]):
        answer = await make(client, headers, role="viewer", scopes=wanted)
        assert refusal(answer) == (403, "staff_key_too_powerful")
    # Rotating shows a key, so it would be a way to one that may do more.
    assert refusal(await client.post(f"{KEYS}/{other.id}/rotate", headers=headers)) == (403, "staff_key_too_powerful")
    made = await make(client, headers, role="admin", scopes=["payouts:read"])
    assert (made.status_code, made.json()["created_by_id"]) == (201, str(limited.id))


async def test_the_last_admin_key_cannot_be_revoked_or_made_to_expire(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    admin = await staff_headers(session)
    own = (await session.scalars(select(StaffKey))).one()
    # Neither one that may not make keys counts, nor one that has almost expired.
    await make(client, admin, role="admin", scopes=["payouts:read"])
    await make(client, admin, role="admin", valid_days=1)
    assert refusal(await client.post(f"{KEYS}/{own.id}/revoke", headers=admin)) == (409, "last_admin_key")
    short = await client.post(f"{KEYS}/{own.id}/rotate", json={"valid_days": 1}, headers=admin)
    assert refusal(short) == (409, "last_admin_key")
    second = (await make(client, admin, role="admin", member="second")).json()
    assert (await client.post(f"{KEYS}/{own.id}/revoke", headers=admin)).status_code == 200
    assert await works(client, second["key"])


async def test_of_two_admins_who_revoke_each_other_one_stays(
    committed_client: httpx.AsyncClient, committed_db: Settings
) -> None:
    async with transaction() as session:
        made = [await staff.create_key(session, name=name, role=StaffRole.ADMIN) for name in ("one", "other")]
    (first, first_key), (second, second_key) = made
    answers = await asyncio.gather(
        committed_client.post(f"{KEYS}/{second.id}/revoke", headers={"X-API-Key": first_key}),
        committed_client.post(f"{KEYS}/{first.id}/revoke", headers={"X-API-Key": second_key}),
    )
    assert min(answer.status_code for answer in answers) == 200
    assert [await works(committed_client, key) for _, key in made].count(True) == 1
    del committed_db


async def test_last_use_is_noted_once_a_minute_and_waits_for_nobody(
    committed_client: httpx.AsyncClient, committed_db: Settings
) -> None:
    async with transaction() as session:
        row, key = await staff.create_key(session, name="script", role=StaffRole.VIEWER)

    async def noted() -> datetime | None:
        async with transaction() as session:
            return (await session.get_one(StaffKey, row.id)).last_used_at

    async with transaction() as session:
        # Whoever else notes it holds the row; this request goes on without.
        await session.get(StaffKey, row.id, with_for_update=True)
        assert await asyncio.wait_for(works(committed_client, key), 3)
    assert await noted() is None
    assert await works(committed_client, key)
    first = await noted()
    assert first is not None
    assert await works(committed_client, key)
    assert await noted() == first
    async with transaction() as session:
        (await session.get_one(StaffKey, row.id)).last_used_at = first - timedelta(seconds=61)
    assert await works(committed_client, key)
    assert (await noted() or first) >= first
    del committed_db


async def test_a_key_without_a_member_gets_the_one_of_its_name(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    row, key = await staff.create_key(session, name="Old", role=StaffRole.VIEWER)
    member_id, row.member_id = row.member_id, None
    await session.commit()
    assert await works(client, key)
    assert await session.scalar(select(StaffKey.member_id).where(StaffKey.id == row.id)) == member_id
    assert len((await session.scalars(select(StaffMember))).all()) == 1
