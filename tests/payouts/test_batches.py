"""Batches over HTTP: closed once, files that never change, and no payout in two of them, whoever races."""

import asyncio
import csv
from dataclasses import replace
from io import StringIO
from typing import Any
from uuid import UUID

import httpx
import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.ids import new_id
from app.main import create_app
from app.models import (
    CustomerStatus,
    Payout,
    PayoutBatch,
    PayoutChange,
    PayoutMethod,
    PayoutMethodKind,
    PayoutProvider,
    PayoutStatus,
    StaffRole,
)
from app.services.payouts import batches
from app.services.payouts.accounts import PayoutAccount, seal_account
from tests.conftest import in_process
from tests.factories import make_customer, make_payout, staff_headers
from tests.payouts.test_pain001 import read, texts

DEBTOR = {"payout_debtor_name": "Cashback Ltd", "payout_debtor_iban": "DE89370400440532013000"}
IBAN = PayoutAccount(
    PayoutMethodKind.IBAN, "Zoë Müller", country="DE", iban="DE75512108001245126199", bic="SOLADEST600"
)


@pytest.fixture
async def finance(session: AsyncSession) -> dict[str, str]:
    return await staff_headers(session, StaffRole.FINANCE)


async def close(client: httpx.AsyncClient, headers: dict[str, str], currency: str = "PKR", **more: Any) -> Any:
    answer = await client.post("/v1/admin/payout-batches", json={"currency": currency, **more}, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def download(
    client: httpx.AsyncClient, headers: dict[str, str], batch_id: str, form: str = "csv"
) -> httpx.Response:
    path = f"/v1/admin/payout-batches/{batch_id}/file"
    return await client.get(path, params={"format": form}, headers=headers)


def lines(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(StringIO(answer.text, newline=""), strict=True))


async def statuses(session: AsyncSession, *payouts: Payout) -> list[PayoutStatus]:
    found = []
    for payout in payouts:
        await session.refresh(payout)
        found.append(payout.status)
    return found


async def test_closing_sends_what_is_approved_in_the_currency_and_nothing_else(
    session: AsyncSession, client: httpx.AsyncClient, settings: Settings, finance: dict[str, str]
) -> None:
    mine = [
        await make_payout(session, settings, amount=60_000),
        await make_payout(session, settings, amount=70_000, fee_minor=500),
    ]
    frozen = await make_customer(session, status=CustomerStatus.FROZEN)
    others = [
        await make_payout(session, settings, currency="EUR"),
        await make_payout(session, settings, provider=PayoutProvider.HTTP),
        await make_payout(session, settings, customer=frozen),
    ]
    batch = await close(client, finance)
    assert batch["payout_count"] == 2
    # What reaches the customers: the fee stays here.
    assert batch["total"] == {"amount_minor": 129_500, "currency": "PKR"}
    assert len(batch["reference"]) <= 35
    assert await statuses(session, *mine) == [PayoutStatus.SENT] * 2
    assert {payout.batch_id for payout in mine} == {UUID(batch["id"])}
    assert await statuses(session, *others) == [PayoutStatus.APPROVED] * 3

    found = lines(await download(client, finance, batch["id"]))
    assert [(row["payout_id"], row["amount"]) for row in found] == [
        (str(mine[0].id), "600.00"),
        (str(mine[1].id), "695.00"),
    ]
    changes = await session.scalars(
        select(PayoutChange).where(PayoutChange.payout_id == mine[0].id, PayoutChange.status == PayoutStatus.SENT)
    )
    assert [str(change.staff_key_id) for change in changes] == [batch["created_by_id"]]


async def test_nothing_approved_is_a_conflict(client: httpx.AsyncClient, finance: dict[str, str]) -> None:
    answer = await client.post("/v1/admin/payout-batches", json={"currency": "PKR"}, headers=finance)
    assert (answer.status_code, answer.json()["code"]) == (409, "no_approved_payouts")
    assert answer.json()["detail"] == "No approved payout in PKR waits for a batch."


async def test_a_batch_is_closed_once_and_the_same_key_gives_it_again(
    session: AsyncSession, client: httpx.AsyncClient, settings: Settings, finance: dict[str, str]
) -> None:
    await make_payout(session, settings)
    keyed = {**finance, "Idempotency-Key": "friday"}
    batch = await close(client, keyed)
    again = await client.post("/v1/admin/payout-batches", json={"currency": "PKR"}, headers=keyed)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert again.json() == batch
    assert (await client.post("/v1/admin/payout-batches", json={"currency": "PKR"}, headers=finance)).status_code == 409


@pytest.mark.parametrize("role", [StaffRole.VIEWER, StaffRole.OPERATOR])
async def test_only_finance_closes_downloads_and_settles(
    session: AsyncSession, client: httpx.AsyncClient, settings: Settings, finance: dict[str, str], role: StaffRole
) -> None:
    payout = await make_payout(session, settings)
    headers = await staff_headers(session, role)
    assert (await client.post("/v1/admin/payout-batches", json={"currency": "PKR"}, headers=headers)).status_code == 403
    batch = await close(client, finance)
    path = f"/v1/admin/payout-batches/{batch['id']}"
    assert (await download(client, headers, batch["id"])).status_code == 403
    assert (await client.post(f"{path}/settle", json={}, headers=headers)).status_code == 403
    settle = f"/v1/admin/payouts/{payout.id}/settle"
    assert (await client.post(settle, json={"status": "paid"}, headers=headers)).status_code == 403
    assert (await client.get(path, headers=headers)).status_code == 200
    assert await statuses(session, payout) == [PayoutStatus.SENT]


async def test_show_and_list_tell_control_sums_that_add_up(
    session: AsyncSession, client: httpx.AsyncClient, settings: Settings, finance: dict[str, str]
) -> None:
    first = await make_payout(session, settings, amount=60_000, fee_minor=1)
    await make_payout(session, settings, amount=70_000)
    await make_payout(session, settings, amount=80_000, currency="EUR")
    batch, euros = await close(client, finance), await close(client, finance, "EUR")
    settled = {"status": "failed", "reason": "account closed"}
    await client.post(f"/v1/admin/payouts/{first.id.hex}/settle", json=settled, headers=finance)

    shown = (await client.get(f"/v1/admin/payout-batches/{batch['id']}", headers=finance)).json()
    assert shown == {
        **batch,
        "parts": [
            {"status": "failed", "payout_count": 1, "total": {"amount_minor": 59_999, "currency": "PKR"}},
            {"status": "sent", "payout_count": 1, "total": {"amount_minor": 70_000, "currency": "PKR"}},
        ],
    }
    listed = (await client.get("/v1/admin/payout-batches", headers=finance)).json()
    assert listed == {"items": [euros, batch], "next_cursor": None}
    page = (await client.get("/v1/admin/payout-batches", params={"limit": 1}, headers=finance)).json()
    assert page["items"] == [euros]
    rest = {"limit": 1, "cursor": page["next_cursor"]}
    assert (await client.get("/v1/admin/payout-batches", params=rest, headers=finance)).json()["items"] == [batch]
    of_currency = await client.get("/v1/admin/payout-batches", params={"currency": "PKR"}, headers=finance)
    assert of_currency.json()["items"] == [batch]
    members = await client.get("/v1/admin/payouts", params={"batch_id": batch["id"]}, headers=finance)
    assert {item["status"] for item in members.json()["items"]} == {"sent", "failed"}


async def test_an_unknown_batch_is_not_found(client: httpx.AsyncClient, finance: dict[str, str]) -> None:
    path = f"/v1/admin/payout-batches/{new_id()}"
    for answer in (
        await client.get(path, headers=finance),
        await client.get(f"{path}/file", params={"format": "csv"}, headers=finance),
        await client.post(f"{path}/settle", json={}, headers=finance),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "payout_batch_not_found")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"currency": "pkr"},
        {"currency": "PKR", "kinds": []},
        {"currency": "PKR", "kinds": ["cash"]},
        {"currency": "PKR", "status": "paid"},
    ],
)
async def test_a_request_that_cannot_be_taken_names_its_fault(
    client: httpx.AsyncClient, finance: dict[str, str], body: dict[str, Any]
) -> None:
    answer = await client.post("/v1/admin/payout-batches", json=body, headers=finance)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


# --- Files


def with_settings(settings: Settings, **changes: Any) -> in_process:
    own = settings.model_copy(update=changes)
    return in_process(create_app(own), own)


async def test_both_files_hold_the_same_payouts_and_sums(
    session: AsyncSession, settings: Settings, finance: dict[str, str]
) -> None:
    for amount in (60_000, 70_001):
        await make_payout(session, settings, amount=amount, currency="EUR", account=IBAN)
    async with with_settings(settings, **DEBTOR) as client:
        batch = await close(client, finance, "EUR")
        assert (batch["formats"], batch["pain001_missing"]) == (["csv", "pain001"], None)
        answer = await download(client, finance, batch["id"], "pain001")
        rows = lines(await download(client, finance, batch["id"]))
    assert answer.headers["content-type"] == "application/xml"
    assert answer.headers["content-disposition"] == f'attachment; filename="{batch["reference"]}.xml"'
    assert answer.headers["cache-control"] == "no-store"
    document = read(answer.content)
    payments = "PmtInf/CdtTrfTxInf"
    assert texts(document, f"{payments}/PmtId/EndToEndId") == [row["end_to_end_id"] for row in rows]
    assert texts(document, f"{payments}/Amt/InstdAmt") == [row["amount"] for row in rows] == ["600.00", "700.01"]
    assert texts(document, "GrpHdr/CtrlSum") == ["1300.01"]
    assert texts(document, "GrpHdr/MsgId") == [batch["reference"]]
    assert batch["total"] == {"amount_minor": 130_001, "currency": "EUR"}


async def test_without_a_debtor_there_is_only_a_csv_and_a_reason(
    session: AsyncSession, client: httpx.AsyncClient, settings: Settings, finance: dict[str, str]
) -> None:
    await make_payout(session, settings, currency="EUR", account=IBAN)
    batch = await close(client, finance, "EUR")
    assert batch["formats"] == ["csv"]
    assert batch["pain001_missing"] == "PAYOUT_DEBTOR_NAME and PAYOUT_DEBTOR_IBAN were not set when it was closed."
    answer = await download(client, finance, batch["id"], "pain001")
    assert (answer.status_code, answer.json()["code"]) == (409, "payout_batch_file_missing")
    assert batch["pain001_missing"] in answer.json()["detail"]
    assert len(lines(await download(client, finance, batch["id"]))) == 1


async def test_a_mixed_batch_has_only_a_csv_and_kinds_part_it(
    session: AsyncSession, settings: Settings, finance: dict[str, str]
) -> None:
    async with with_settings(settings, **DEBTOR) as client:
        await make_payout(session, settings, account=IBAN)
        await make_payout(session, settings)
        mixed = await close(client, finance)
        assert (mixed["payout_count"], mixed["formats"]) == (2, ["csv"])
        assert mixed["pain001_missing"] == "1 of its 2 payouts have no IBAN."

        await make_payout(session, settings, account=IBAN)
        await make_payout(session, settings)
        ibans = await close(client, finance, kinds=["iban"])
        assert (ibans["payout_count"], ibans["formats"]) == (1, ["csv", "pain001"])
        rest = await close(client, finance)
        assert (rest["payout_count"], rest["formats"]) == (1, ["csv"])
        none = {"currency": "PKR", "kinds": ["iban", "email"]}
        answer = await client.post("/v1/admin/payout-batches", json=none, headers=finance)
        assert answer.json()["detail"] == "No approved payout in PKR to iban, email waits for a batch."


async def test_files_are_the_same_bytes_for_ever_also_after_a_rotation_of_keys(
    session: AsyncSession, settings: Settings, finance: dict[str, str]
) -> None:
    payout = await make_payout(session, settings, currency="EUR", account=IBAN)
    async with with_settings(settings, **DEBTOR) as client:
        batch = await close(client, finance, "EUR")
        first = {form: (await download(client, finance, batch["id"], form)).content for form in ("csv", "pain001")}
    method = await session.get_one(PayoutMethod, payout.method_id)
    method.details_encrypted = seal_account(settings, replace(IBAN, holder="Somebody else"))
    await session.flush()
    rotated = [SecretStr(Fernet.generate_key().decode()), *settings.encryption_keys]
    # Another key, another debtor, another account: the file is opened, not made again.
    async with with_settings(settings, encryption_keys=rotated, payout_debtor_name="Somebody else") as client:
        for form, content in first.items():
            assert (await download(client, finance, batch["id"], form)).content == content


async def test_files_are_kept_sealed(session: AsyncSession, settings: Settings, finance: dict[str, str]) -> None:
    await make_payout(session, settings, currency="EUR", account=IBAN)
    async with with_settings(settings, **DEBTOR) as client:
        await close(client, finance, "EUR")
    batch = (await session.scalars(select(PayoutBatch))).one()
    assert batch.pain001_encrypted is not None
    for content in (batch.csv_encrypted, batch.pain001_encrypted):
        assert b"DE75512108001245126199" not in content
        assert content.startswith(b"gAAAA")


async def test_an_account_that_no_key_opens_is_named_and_nothing_is_sent(
    session: AsyncSession, client: httpx.AsyncClient, settings: Settings, finance: dict[str, str]
) -> None:
    other = settings.model_copy(update={"encryption_keys": [SecretStr(Fernet.generate_key().decode())]})
    fine, lost = await make_payout(session, settings), await make_payout(session, other)
    answer = await client.post("/v1/admin/payout-batches", json={"currency": "PKR"}, headers=finance)
    assert (answer.status_code, answer.json()["code"]) == (409, "payout_account_unreadable")
    assert str(lost.id) in answer.json()["detail"]
    assert await statuses(session, fine, lost) == [PayoutStatus.APPROVED] * 2


async def test_a_batch_takes_no_more_than_a_bank_does_the_oldest_first(
    session: AsyncSession,
    client: httpx.AsyncClient,
    settings: Settings,
    finance: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "MOST_PAYOUTS", 2)
    payouts = [await make_payout(session, settings) for _ in range(3)]
    assert (await close(client, finance))["payout_count"] == 2
    assert await statuses(session, *payouts) == [PayoutStatus.SENT, PayoutStatus.SENT, PayoutStatus.APPROVED]
    assert (await close(client, finance))["payout_count"] == 1


async def test_a_batch_stays_within_the_digits_of_a_control_sum(
    session: AsyncSession, settings: Settings, finance: dict[str, str]
) -> None:
    most = 10**18 - 1
    for amount in (most, 60_000, most + 1):
        await make_payout(session, settings, account=IBAN, amount=amount, currency="JPY")
    async with with_settings(settings, **DEBTOR) as client:
        first = await close(client, finance, "JPY")
        assert (first["payout_count"], first["formats"]) == (1, ["csv", "pain001"])
        document = read((await download(client, finance, first["id"], "pain001")).content)
        assert texts(document, "GrpHdr/CtrlSum") == [str(most)]
        assert (await close(client, finance, "JPY"))["payout_count"] == 1
        # One that alone is too large for the format still leaves by CSV.
        last = await close(client, finance, "JPY")
        assert (last["payout_count"], last["formats"]) == (1, ["csv"])
        assert "18 digits" in last["pain001_missing"]


# --- Races


async def test_staff_who_close_at_once_never_put_a_payout_into_two_files(
    committed_client: httpx.AsyncClient, committed_db: Settings
) -> None:
    async with transaction() as session:
        headers = [await staff_headers(session, StaffRole.FINANCE) for _ in range(8)]
        expected = {str((await make_payout(session, committed_db)).id) for _ in range(25)}

    async def race(number: int) -> httpx.Response:
        return await committed_client.post(
            "/v1/admin/payout-batches", json={"currency": "PKR"}, headers=headers[number % 8]
        )

    answers = await asyncio.gather(*(race(number) for number in range(16)))
    closed = [answer.json() for answer in answers if answer.status_code == 201]
    assert {answer.status_code for answer in answers} == {201, 409}
    filed: list[str] = []
    for batch in closed:
        rows = lines(await download(committed_client, headers[0], batch["id"]))
        assert len(rows) == batch["payout_count"]
        filed += [row["payout_id"] for row in rows]
    assert sorted(filed) == sorted(expected)


async def test_batches_that_race_for_a_bounded_share_take_each_payout_once(
    committed_client: httpx.AsyncClient, committed_db: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MOST_PAYOUTS", 3)
    async with transaction() as session:
        headers = await staff_headers(session, StaffRole.FINANCE)
        for _ in range(20):
            await make_payout(session, committed_db)
    for _ in range(10):
        await asyncio.gather(
            *(
                committed_client.post("/v1/admin/payout-batches", json={"currency": "PKR"}, headers=headers)
                for _ in range(4)
            )
        )
    async with transaction() as session:
        found = (await session.scalars(select(PayoutBatch))).all()
        per_batch = dict((await session.execute(select(Payout.batch_id, func.count()).group_by(Payout.batch_id))).all())
    assert per_batch == {batch.id: batch.payout_count for batch in found}
    assert sum(batch.payout_count for batch in found) == 20


async def test_closing_waits_for_nobody_and_leaves_what_somebody_has(
    committed_client: httpx.AsyncClient, committed_db: Settings
) -> None:
    async with transaction() as session:
        headers = await staff_headers(session, StaffRole.FINANCE)
        held, free = [await make_payout(session, committed_db) for _ in range(2)]
    async with transaction() as session:
        await session.get_one(Payout, held.id, with_for_update=True)
        async with asyncio.timeout(3):
            batch = await close(committed_client, headers)
    rows = lines(await download(committed_client, headers, batch["id"]))
    assert [row["payout_id"] for row in rows] == [str(free.id)]


async def test_a_rejection_that_races_with_the_closing_wins_or_loses_whole(
    committed_client: httpx.AsyncClient, committed_db: Settings
) -> None:
    async with transaction() as session:
        headers = await staff_headers(session, StaffRole.FINANCE)
    for _ in range(10):
        async with transaction() as session:
            payout = await make_payout(session, committed_db)
        closing, rejecting = await asyncio.gather(
            committed_client.post("/v1/admin/payout-batches", json={"currency": "PKR"}, headers=headers),
            committed_client.post(
                f"/v1/admin/payouts/{payout.id}/reject", json={"reason": "not yours"}, headers=headers
            ),
        )
        async with transaction() as session:
            status = (await session.get_one(Payout, payout.id)).status
        assert (closing.status_code, rejecting.status_code, status) in {
            (201, 409, PayoutStatus.SENT),
            (409, 200, PayoutStatus.REJECTED),
        }
