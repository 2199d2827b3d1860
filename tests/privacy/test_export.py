"""Exports: with the password only, complete, sealed at rest, built in pieces, gone when their time is over."""

import asyncio
import csv
import io
import json
import zipfile
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update

from app.config import Settings
from app.db import transaction
from app.ids import new_id
from app.models import Click, DataExport, DataExportPart, ExportStatus
from app.services.passwords import Passwords
from app.services.privacy import export
from app.services.privacy.archive import Archive
from app.services.privacy.inventory import SECTIONS
from app.workers.housekeeping import forget_expired
from app.workers.privacy import export_builder
from tests.factories import customer_headers, make_customer
from tests.privacy.world import MARK, Person, make_person

PASSWORD = "correct horse battery staple"


@pytest.fixture
async def person(committed_db: Settings) -> Person:
    async with transaction() as session:
        return await make_person(session, committed_db, password_hash=await Passwords(1).hash(PASSWORD))


@pytest.fixture
def headers(committed_db: Settings, person: Person) -> dict[str, str]:
    return customer_headers(committed_db, person.customer)


async def ask(client: httpx.AsyncClient, headers: dict[str, str], password: str = PASSWORD) -> httpx.Response:
    return await client.post("/v1/me/export", json={"password": password}, headers=headers)


async def download(client: httpx.AsyncClient, headers: dict[str, str], password: str = PASSWORD) -> httpx.Response:
    return await client.post("/v1/me/export/download", json={"password": password}, headers=headers)


async def test_everything_about_the_customer_is_in_the_file(
    committed_client: httpx.AsyncClient, committed_db: Settings, person: Person, headers: dict[str, str]
) -> None:
    asked = await ask(committed_client, headers)
    assert (asked.status_code, asked.json()["status"]) == (202, "queued")
    early = await download(committed_client, headers)
    assert (early.status_code, early.json()["code"]) == (409, "export_not_ready")
    assert await export_builder(committed_db)() == 1
    shown = (await committed_client.get("/v1/me/export", headers=headers)).json()
    answer = await download(committed_client, headers)
    assert answer.headers["Content-Type"] == "application/zip"
    assert int(answer.headers["Content-Length"]) == shown["size_bytes"] == len(answer.content)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        files = {name: archive.read(name).decode() for name in archive.namelist()}
    names = {f"{section.name}.{form}" for section in SECTIONS for form in ("json", "csv")}
    assert set(files) == names | {"export.json"}
    content: dict[str, list[dict[str, Any]]] = {
        section.name: json.loads(files[f"{section.name}.json"]) for section in SECTIONS
    }
    assert {name for name, rows in content.items() if not rows} == {"order_boosts"}
    [profile] = content["profile"]
    assert (profile["id"], profile["display_name"]) == (str(person.customer.id), MARK)
    [order] = content["orders"]
    assert order["explanation"]["steps"][0]["detail"] == "as the test has it"
    assert [claim["note"] for claim in content["claims"]] == [f"I am {MARK}"]
    assert sum(entry["amount_minor"] for entry in content["wallet_entries"]) == -500
    described = json.loads(files["export.json"])["files"]
    for name, rows in content.items():
        table = list(csv.reader(io.StringIO(files[f"{name}.csv"])))
        assert table[0] == described[name] == (list(rows[0]) if rows else described[name])
        assert len(table) == len(rows) + 1
        assert not [cell for row in table for cell in row if cell.startswith(("=", "@", "+"))]
    assert "'=HYPERLINK(1)" in files["claims.csv"]
    async with transaction() as session:
        parts = (await session.scalars(select(DataExportPart.content_encrypted))).all()
        other = await make_customer(session, password_hash=person.customer.password_hash)
    # Nothing of it can be read at rest, and nobody else has it.
    assert parts
    assert all(part.startswith(b"gAAAA") for part in parts)
    assert (await download(committed_client, customer_headers(committed_db, other))).json()["code"] == "no_export"


async def test_without_the_password_there_is_no_export(
    committed_client: httpx.AsyncClient, committed_db: Settings, headers: dict[str, str]
) -> None:
    refused = await ask(committed_client, headers, "wrong")
    assert (refused.status_code, refused.json()["code"]) == (403, "step_up_failed")
    none = await committed_client.get("/v1/me/export", headers=headers)
    assert (none.status_code, none.json()["code"]) == (404, "no_export")
    await ask(committed_client, headers)
    await export_builder(committed_db)()
    assert (await download(committed_client, headers, "wrong")).status_code == 403


async def test_two_wishes_at_once_are_one_export_and_the_sixth_a_day_is_refused(
    committed_client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    answers = await asyncio.gather(*(ask(committed_client, headers) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert (await ask(committed_client, headers)).status_code == 429


async def test_large_export_comes_in_pieces_and_another_takes_its_place(
    committed_client: httpx.AsyncClient,
    committed_db: Settings,
    person: Person,
    headers: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export, "_PIECE_BYTES", 2_000)
    async with transaction() as session:
        template = (await session.scalars(select(Click).limit(1))).one()
        columns = {column.key: getattr(template, column.key) for column in Click.__table__.columns}
        session.add_all(Click(**{**columns, "id": new_id()}) for _ in range(1_200))
    first = (await ask(committed_client, headers)).json()
    await export_builder(committed_db)()
    content = (await download(committed_client, headers)).content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert len(json.loads(archive.read("clicks.json"))) == 1_201
    async with transaction() as session:
        assert (await session.scalar(select(func.count()).select_from(DataExportPart)) or 0) > 10
    second = (await ask(committed_client, headers)).json()
    assert second["id"] != first["id"]
    async with transaction() as session:
        assert await session.scalar(select(func.count()).select_from(DataExportPart)) == 0


async def test_export_whose_worker_was_lost_is_built_by_another_and_given_up_in_the_end(
    committed_client: httpx.AsyncClient, committed_db: Settings, headers: dict[str, str]
) -> None:
    await ask(committed_client, headers)
    for tries, status in ((1, ExportStatus.READY), (export._MOST_TRIES, ExportStatus.FAILED)):
        async with transaction() as session:
            await session.execute(
                update(DataExport).values(
                    status=ExportStatus.BUILDING,
                    tries=tries,
                    attempt_id=new_id(),
                    claimed_until=datetime.now(UTC) - timedelta(seconds=1),
                )
            )
        await export_builder(committed_db)()
        async with transaction() as session:
            assert (await session.scalars(select(DataExport.status))).one() is status


async def test_worker_that_was_taken_for_dead_writes_nothing_more(
    committed_client: httpx.AsyncClient, committed_db: Settings, person: Person, headers: dict[str, str]
) -> None:
    await ask(committed_client, headers)
    async with transaction() as session:
        claimed = await export._claim(session)
    assert claimed is not None
    async with transaction() as session:
        await session.execute(update(DataExport).values(attempt_id=new_id()))
    await export._build(committed_db, claimed)
    async with transaction() as session:
        assert await session.scalar(select(func.count()).select_from(DataExportPart)) == 0
        assert (await session.scalars(select(DataExport.status))).one() is ExportStatus.BUILDING


async def test_export_goes_when_its_time_is_over_or_the_account_is_closed(
    committed_client: httpx.AsyncClient, committed_db: Settings, person: Person, headers: dict[str, str]
) -> None:
    await ask(committed_client, headers)
    await export_builder(committed_db)()
    async with transaction() as session:
        await session.execute(update(DataExport).values(expires_at=datetime.now(UTC)))
    assert (await download(committed_client, headers)).json()["code"] == "no_export"
    await forget_expired()
    async with transaction() as session:
        assert await session.scalar(select(func.count()).select_from(DataExportPart)) == 0
    await ask(committed_client, headers)
    await export_builder(committed_db)()
    assert (await committed_client.delete("/v1/me", headers=headers)).status_code == 204
    async with transaction() as session:
        assert await session.scalar(select(func.count()).select_from(DataExport)) == 0
    assert (await ask(committed_client, headers)).status_code == 401


def test_archive_holds_no_more_than_what_was_not_taken() -> None:
    archive = Archive()
    archive.begin("rows", ["n", "text"], as_csv=False)
    held = 0
    for number in range(20):
        archive.add([(number * 1_000 + row, f"{new_id()}") for row in range(1_000)])
        archive.take(65_536)
        held = max(held, len(archive._outlet.waiting))
    archive.end()
    archive.close()
    assert held < 2 * 65_536 < archive.size_bytes
