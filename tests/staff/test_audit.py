"""The audit log: every route by which staff change something leaves a row, with what changed and no secret."""

import csv
import io
import json
from typing import Any

import httpx
import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.dependencies import StaffWithRole
from app.models import AuditEntry, StaffRole
from app.routers import ROUTERS
from tests.factories import make_category, make_merchant, staff_headers
from tests.logs import captured_logs, lines_of
from tests.webhooks.sender import make_signed_source

LOG = "/v1/admin/audit-log"


def guards(dependant: Dependant) -> list[StaffWithRole]:
    """The staff dependencies of a route, those of its dependencies included."""
    own = [dependant.call] if isinstance(dependant.call, StaffWithRole) else []
    return own + [guard for inner in dependant.dependencies for guard in guards(inner)]


STAFF_ROUTES = {
    f"{min(route.methods or ())} {route.path}": guards(route.dependant)
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute) and route.path.startswith(("/v1/admin", "/sync", "/report"))
}
WRITES = {name: found for name, found in STAFF_ROUTES.items() if not name.startswith("GET ")}


async def entries(session: AsyncSession) -> list[AuditEntry]:
    return list((await session.scalars(select(AuditEntry).order_by(AuditEntry.id))).all())


def test_every_staff_route_has_one_guard_with_a_scope() -> None:
    assert len(STAFF_ROUTES) > 80
    wrong = [name for name, found in STAFF_ROUTES.items() if len(found) != 1 or found[0].scope is None]
    assert wrong == []


def test_every_staff_route_that_writes_names_what_it_changes() -> None:
    assert len(WRITES) > 40
    for name, [guard] in WRITES.items():
        assert guard.on is not None, name
        if guard.by is not None:
            assert f"{{{guard.by}}}" in name, name


async def test_a_change_is_kept_with_what_it_changed(client: httpx.AsyncClient, session: AsyncSession) -> None:
    merchant = await make_merchant(session, name="Khaadi")
    headers = {**await staff_headers(session, StaffRole.OPERATOR), "X-Request-ID": "r-1"}
    assert (
        await client.patch(f"/v1/admin/merchants/{merchant.id}", json={"name": "Khaadi Ltd"}, headers=headers)
    ).is_success
    [entry] = await entries(session)
    assert (entry.actor, entry.action, entry.target_type, entry.target_id, entry.request_id) == (
        "test operator",
        "change_merchant",
        "merchants",
        str(merchant.id),
        "r-1",
    )
    assert (entry.before, entry.after) == ({"name": "Khaadi"}, {"name": "Khaadi Ltd"})
    assert (entry.member_id, entry.key_id, entry.address) == (entry.member_id, entry.key_id, "127.0.0.0/24")
    assert entry.key_id is not None


async def test_a_new_row_is_kept_whole_and_written_by_whatever_statement(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    headers = await staff_headers(session, StaffRole.FINANCE)
    await client.post("/v1/admin/categories", json={"slug": "shoes", "name": "=Shoes"}, headers=headers)
    rate = {"base": "USD", "quote": "PKR", "rate": "278.5", "effective_on": "2026-01-01"}
    assert (await client.post("/v1/admin/exchange-rates", json=rate, headers=headers)).status_code == 201
    category, exchange_rate = await entries(session)
    assert category.before is None
    assert category.after == {"id": int(category.target_id or 0), "slug": "shoes", "name": "=Shoes"}
    assert exchange_rate.after is not None
    assert (exchange_rate.after["base"], exchange_rate.after["id"]) == ("USD", exchange_rate.target_id)


async def test_refused_attempts_leave_no_row_but_a_line(client: httpx.AsyncClient, session: AsyncSession) -> None:
    await make_category(session, slug="taken")
    operator, viewer = await staff_headers(session, StaffRole.OPERATOR), await staff_headers(session, StaffRole.VIEWER)
    body = {"slug": "taken", "name": "X"}
    with captured_logs() as output:
        for headers, payload, status in ((operator, body, 409), (operator, {}, 422), (viewer, body, 403)):
            answer = await client.post("/v1/admin/categories", json=payload, headers=headers)
            assert answer.status_code == status
    [refused] = [line for line in lines_of(output) if line["message"] == "staff refused"]
    assert (refused["action"], refused["code"], refused["member"]) == (
        "create_category",
        "staff_role_required",
        "test viewer",
    )
    assert await entries(session) == []


async def test_a_repeat_with_its_key_leaves_one_row(client: httpx.AsyncClient, session: AsyncSession) -> None:
    headers = {**await staff_headers(session, StaffRole.FINANCE), "Idempotency-Key": "one"}
    rate = {"base": "USD", "quote": "PKR", "rate": "278.5", "effective_on": "2026-01-01"}
    for _ in range(2):
        await client.post("/v1/admin/exchange-rates", json=rate, headers=headers)
    assert len(await entries(session)) == 1


async def test_secrets_and_keys_never_get_into_the_log(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    headers = await staff_headers(session)
    source = await make_signed_source(session, settings)

    async def asked(path: str, body: dict[str, Any], name: str) -> str:
        answer = await client.post(f"/v1/admin/{path}", json=body, headers=headers)
        assert answer.is_success, answer.text
        return str(answer.json()[name])

    shown = [
        await asked(f"sources/{source.id}/rotate-secret", {}, "secret"),
        await asked("staff-keys", {"member": "x", "role": "viewer"}, "key"),
        await asked(
            "notification-endpoints", {"url": "https://x.example/hook?token=not-hex", "topics": ["payout"]}, "secret"
        ),
    ]
    kept = await entries(session)
    assert [entry.action for entry in kept] == ["rotate_source_secret", "create_staff_key", "create_endpoint"]
    texts = json.dumps([[entry.before, entry.after] for entry in kept])
    for secret in (*shown, shown[1].split("_", 2)[2], "not-hex"):
        assert secret not in texts
    assert kept[0].after is not None
    assert kept[0].after["secrets_encrypted"] == "[hidden]"


async def test_admins_filter_page_and_export_the_log(client: httpx.AsyncClient, session: AsyncSession) -> None:
    operator, admin = await staff_headers(session, StaffRole.OPERATOR), await staff_headers(session)
    for number in range(3):
        await client.post("/v1/admin/categories", json={"slug": f"c-{number}", "name": "=1+1"}, headers=operator)
    await make_merchant(session)
    assert (await client.get(LOG, headers=operator)).status_code == 403

    async def found(**wanted: object) -> list[dict[str, Any]]:
        answer = await client.get(LOG, params=wanted, headers=admin)  # type: ignore[arg-type]  # any is turned into text
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    every = await found()
    assert [entry["action"] for entry in every] == ["create_category"] * 3
    assert await found(action="change_merchant") == []
    assert await found(target_type="categories", target_id=every[1]["target_id"]) == [every[1]]
    assert await found(member_id=every[0]["member_id"], key_id=every[0]["key_id"]) == every
    assert await found(**{"from": every[0]["at"]}) == every
    assert await found(to=every[0]["at"]) == []
    first = (await client.get(LOG, params={"limit": 2}, headers=admin)).json()
    assert await found(limit=2, cursor=first["next_cursor"]) == every[2:]
    exported = await client.get(f"{LOG}/export", headers=admin)
    rows = list(csv.DictReader(io.StringIO(exported.text)))
    assert [row["id"] for row in rows] == [entry["id"] for entry in every]
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())
    assert (await found(limit=1))[0]["action"] == "export_audit_log"


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@x"])
async def test_a_member_cannot_write_a_formula_into_the_export(
    client: httpx.AsyncClient, session: AsyncSession, name: str
) -> None:
    from app.services import staff  # noqa: PLC0415 - beside what it is about

    _, key = await staff.create_key(session, name=name, role=StaffRole.ADMIN)
    headers = {"X-API-Key": key}
    await client.post("/v1/admin/categories", json={"slug": "c", "name": "C"}, headers=headers)
    [row] = csv.DictReader(io.StringIO((await client.get(f"{LOG}/export", headers=headers)).text))
    assert row["actor"] == f"'{name}"
    assert await session.scalar(select(func.count()).select_from(AuditEntry)) == 2
