"""Payout methods: confirmed with the password, checked, held, masked, never twice, and wiped in the end."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import Text, func, literal_column, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from app import db
from app.db import transaction
from app.errors import AppError
from app.models import Customer, CustomerStatus, Payout, PayoutMethod, PayoutMethodKind, PayoutStatus
from app.schemas.payouts import NewIban
from app.services.passwords import Passwords
from app.services.payouts import life, methods
from app.services.payouts.accounts import PayoutAccount, open_method
from app.services.tokens import AccessToken
from tests.factories import customer_headers, make_customer, make_payout_method, make_payout_rule
from tests.logs import captured_logs
from tests.payouts.world import PASSWORD, World
from tests.test_auth import until_somebody_waits_for_a_lock

IBAN = {"kind": "iban", "holder": "Ayesha Khan", "iban": "PK36SCBL0000001123456702"}
LOCAL = {
    "kind": "local_account",
    "holder": "Ayesha Khan",
    "country": "PK",
    "bank_code": "HABB",
    "account_number": "0012-3456 7890",
}
WALLET = {"kind": "mobile_wallet", "holder": "Ayesha Khan", "phone": "+92 300 1234567", "provider": "JazzCash"}
EMAIL = {"kind": "email", "holder": "Ayesha Khan", "email": "Ayesha.K@Example.com", "provider": "PayPal"}


async def add(world: World, method: dict[str, Any], **changes: Any) -> httpx.Response:
    headers = {**changes.pop("headers", world.headers), "Content-Type": "application/json"}
    body = {**method, "password": PASSWORD, **changes}
    # httpx's own encoding of JSON cannot send everything that a client can.
    return await world.client.post("/v1/me/payout-methods", content=json.dumps(body), headers=headers)


async def stored(method_id: str) -> PayoutMethod:
    async with transaction() as session:
        return await session.get_one(PayoutMethod, method_id, populate_existing=True)


async def count_methods(world: World) -> int:
    async with transaction() as session:
        found = select(func.count()).where(PayoutMethod.customer_id == world.customer.id)
        return (await session.scalars(found)).one()


@pytest.mark.parametrize(
    ("method", "masked", "account"),
    [
        (
            IBAN,
            "PK •••• 6702",
            PayoutAccount(PayoutMethodKind.IBAN, "Ayesha Khan", country="PK", iban="PK36SCBL0000001123456702"),
        ),
        (
            {**IBAN, "iban": " de89 3704 0044 0532 0130 00"},
            "DE •••• 3000",
            PayoutAccount(
                PayoutMethodKind.IBAN,
                "Ayesha Khan",
                country="DE",
                iban="DE89370400440532013000",
                bic="COBADEFFXXX",
            ),
        ),
        (
            LOCAL,
            "HABB •••• 7890",
            PayoutAccount(
                PayoutMethodKind.LOCAL_ACCOUNT,
                "Ayesha Khan",
                country="PK",
                bank_code="HABB",
                account_number="0012-3456 7890",
            ),
        ),
        (
            WALLET,
            "JazzCash +92 •••• 4567",
            PayoutAccount(PayoutMethodKind.MOBILE_WALLET, "Ayesha Khan", phone="+923001234567", provider="JazzCash"),
        ),
        (
            EMAIL,
            "PayPal a••••@example.com",
            PayoutAccount(PayoutMethodKind.EMAIL, "Ayesha Khan", email="ayesha.k@example.com", provider="PayPal"),
        ),
    ],
)
async def test_each_kind_is_kept_sealed_and_shown_masked(
    world: World, method: dict[str, Any], masked: str, account: PayoutAccount
) -> None:
    answer = await add(world, method)
    assert answer.status_code == 201, answer.text
    shown = answer.json()
    assert set(shown) == {"id", "kind", "masked", "usable_from", "created_at"}
    assert (shown["kind"], shown["masked"]) == (method["kind"], masked)
    assert open_method(world.settings, await stored(shown["id"])) == account
    listed = (await world.client.get("/v1/me/payout-methods", headers=world.headers)).json()["items"]
    assert [item["id"] for item in listed] == [shown["id"], str(world.method.id)]
    assert listed[0] == shown


# --- Step-up


async def test_a_wrong_password_adds_nothing_and_tells_nothing(world: World, session: AsyncSession) -> None:
    await add(world, IBAN)
    without_password = await make_customer(session)
    headers = customer_headers(world.settings, without_password)
    answers = [
        await add(world, WALLET, password="wrong"),
        # Not told either: that the account is there already, that the customer is frozen, that there is no password.
        await add(world, IBAN, password=PASSWORD + " "),
        await add(world, WALLET, headers=headers),
    ]
    await world.change_customer(status=CustomerStatus.FROZEN)
    answers.append(await add(world, WALLET, password="wrong"))
    seen = []
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (403, "step_up_failed")
        assert "WWW-Authenticate" not in answer.headers
        seen.append({name: value for name, value in answer.json().items() if name != "request_id"})
    assert seen == [seen[0]] * 4
    assert await count_methods(world) == 2


async def test_a_frozen_customer_with_the_password_adds_nothing(world: World) -> None:
    await world.change_customer(status=CustomerStatus.FROZEN)
    answer = await add(world, IBAN)
    assert (answer.status_code, answer.json()["code"]) == (403, "payouts_frozen")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"password_hash": "changed"}, "step_up_failed"),
        ({"status": CustomerStatus.FROZEN}, "payouts_frozen"),
        ({"status": CustomerStatus.CLOSED, "closed_at": datetime.now(UTC)}, "invalid_token"),
    ],
)
async def test_what_changes_while_the_password_is_verified_counts(
    world: World, session: AsyncSession, changes: dict[str, Any], code: str
) -> None:
    class Slow(Passwords):
        async def verify(self, password: str, kept: str | None) -> bool:
            right = await super().verify(password, kept)
            await session.execute(update(Customer).values(**changes))
            return right

    wanted = NewIban.model_validate({**IBAN, "password": PASSWORD})
    signed_in = AccessToken(world.customer.id, world.customer.id, expires_at=0)
    with pytest.raises(AppError) as refused:
        await methods.add_method(world.settings, Slow(1), signed_in=signed_in, wanted=wanted)
    assert refused.value.code == code
    assert await count_methods(world) == 1


async def test_no_connection_waits_while_the_password_is_verified(committed_world: World) -> None:
    world = committed_world
    in_use: list[int] = []

    class Watched(Passwords):
        async def verify(self, password: str, kept: str | None) -> bool:
            assert db.engine is not None
            in_use.append(db.engine.pool.checkedout())  # type: ignore[attr-defined]  # of the QueuePool it is
            return await super().verify(password, kept)

    world.client._transport.app.state.passwords = Watched(1)  # type: ignore[attr-defined]  # httpx's ASGITransport
    assert (await add(world, IBAN)).status_code == 201
    assert in_use == [0]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nonsense"}])
async def test_without_a_token_nothing_is_asked(world: World, headers: dict[str, str]) -> None:
    answer = await add(world, IBAN, headers=headers)
    assert answer.status_code == 401
    assert (await world.client.get("/v1/me/payout-methods", headers=headers)).status_code == 401


# --- Checks


@pytest.mark.parametrize(
    ("iban", "kind"),
    [
        ("DE88370400440532013000", "iban_check_digits"),
        ("DE8937040044053201300", "iban_length"),
        ("DE8937040044053201300A", "iban_structure"),
        ("ZZ89370400440532013000", "iban_country"),
        ("US89370400440532013000", "iban_country"),
        ("DE89-3704-0044-0532-0130-00", "iban_structure"),
        ("DE", "iban_structure"),
        ("", "iban_structure"),
        ("DE8937040044053201300٣", "iban_structure"),
        ("x" * 65, "too_long"),
        (None, "string_type"),
        ("DE89\x00370400440532013000", "value_error"),
    ],
)
async def test_an_iban_is_checked_and_the_answer_says_what_is_wrong(world: World, iban: object, kind: str) -> None:
    answer = await add(world, IBAN, iban=iban)
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert (error["loc"], error["type"]) == (["body", "iban", "iban"], kind)
    assert not isinstance(iban, str) or len(iban) < 3 or iban not in answer.text


@pytest.mark.parametrize(
    "phone",
    [
        "03001234567",
        "+92300123456",
        "+9230012345678",
        "+4930123456",
        "+923001234567;ext=5",
        "+999123456789",
        "phone",
        "",
        "9" * 65,
        923001234567,
    ],
)
async def test_only_valid_mobile_numbers_are_taken(world: World, phone: object) -> None:
    answer = await add(world, WALLET, phone=phone)
    assert answer.status_code == 422
    assert [error["loc"] for error in answer.json()["errors"]] == [["body", "mobile_wallet", "phone"]]


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        (IBAN, {"holder": ""}),
        (IBAN, {"holder": " "}),
        (IBAN, {"holder": "x" * 71}),
        (IBAN, {"holder": "\u202eevil"}),
        (IBAN, {"holder": "a\x07b"}),
        (IBAN, {"holder": "a\x00b"}),
        (IBAN, {"holder": "\ud800"}),
        (IBAN, {"password": ""}),
        (IBAN, {"password": "x" * 129}),
        (IBAN, {"password": "\ud800"}),
        (IBAN, {"usable_from": "2020-01-01T00:00:00Z"}),
        (IBAN, {"customer_id": "0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e"}),
        (IBAN, {"account_number": "123456"}),
        (LOCAL, {"country": "Pakistan"}),
        (LOCAL, {"bank_code": "=1"}),
        (LOCAL, {"bank_code": "x" * 36}),
        (LOCAL, {"account_number": "123"}),
        (LOCAL, {"account_number": "1" * 35}),
        (LOCAL, {"account_number": "-1234567"}),
        (LOCAL, {"account_number": "12345678٣"}),
        (LOCAL, {"account_number": 12345678}),
        (WALLET, {"provider": ""}),
        (WALLET, {"provider": "x" * 51}),
        (EMAIL, {"email": "nobody"}),
        (EMAIL, {"provider": None}),
    ],
)
async def test_bad_members_are_named_and_never_echoed(
    world: World, method: dict[str, Any], changes: dict[str, Any]
) -> None:
    answer = await add(world, method, **changes)
    assert answer.status_code == 422
    [(name, value)] = changes.items()
    # Half of a surrogate pair is refused before anybody knows which kind of method it is.
    where = ["body", name] if value == "\ud800" else ["body", method["kind"], name]
    assert [error["loc"] for error in answer.json()["errors"]] == [where]
    assert not isinstance(value, str) or len(value) < 4 or value not in answer.text
    assert PASSWORD not in answer.text


@pytest.mark.parametrize("kind", ["PK36SCBL0000001123456702", "", None, 5, ["iban"]])
async def test_an_unknown_kind_is_refused_without_echo(world: World, kind: object) -> None:
    answer = await add(world, IBAN, kind=kind)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["body"]
    assert "PK36" not in answer.text


@pytest.mark.parametrize(
    ("holder", "kept"),
    [("عائشہ خان", "عائشہ خان"), ("Łukasz O’Neill", "Łukasz O’Neill"), (" Ayesha\n\tKhan ", "Ayesha Khan")],
)
async def test_names_are_taken_in_any_script_and_put_on_one_line(world: World, holder: str, kept: str) -> None:
    shown = (await add(world, IBAN, holder=holder)).json()
    assert open_method(world.settings, await stored(shown["id"])).holder == kept


# --- Hold


async def test_a_new_method_waits_for_the_longest_hold_of_all_rules(world: World, session: AsyncSession) -> None:
    await world.change_rule(method_hold_hours=2)
    await make_payout_rule(session, "EUR", method_hold_hours=72)
    shown = (await add(world, IBAN)).json()
    usable_from = datetime.fromisoformat(shown["usable_from"])
    assert abs(usable_from - datetime.now(UTC) - timedelta(hours=72)) < timedelta(minutes=1)
    held = await world.ask(method_id=shown["id"])
    assert (held.status_code, held.json()["code"]) == (409, "payout_method_held")
    assert held.json()["usable_from"] == shown["usable_from"]
    # What the customer was told stays, whatever the rules become.
    await world.change_rule(method_hold_hours=100)
    listed = await world.client.get("/v1/me/payout-methods", headers=world.headers)
    assert listed.json()["items"][0]["usable_from"] == shown["usable_from"]


async def test_without_a_hold_a_method_is_usable_at_once(world: World) -> None:
    await world.change_rule(method_hold_hours=0)
    shown = (await add(world, IBAN)).json()
    await world.asked(method_id=shown["id"])


# --- Never twice


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (IBAN, {**IBAN, "iban": "pk36 scbl 0000 0011 2345 6702", "holder": "A. Khan"}),
        (LOCAL, {**LOCAL, "account_number": "001234567890", "bank_code": "habb"}),
        (WALLET, {**WALLET, "phone": "+92-300-1234567", "provider": "Jazz Cash"}),
        (EMAIL, {**EMAIL, "email": "ayesha.k@example.COM", "provider": "paypal"}),
    ],
)
async def test_the_same_account_twice_is_refused(world: World, first: dict[str, Any], again: dict[str, Any]) -> None:
    assert (await add(world, first)).status_code == 201
    answer = await add(world, again)
    assert (answer.status_code, answer.json()["code"]) == (409, "payout_method_exists")


async def test_another_customer_may_have_the_same_account_and_it_can_be_told(
    world: World, session: AsyncSession
) -> None:
    password_hash = await Passwords(1).hash(PASSWORD)
    headers = customer_headers(world.settings, await make_customer(session, password_hash=password_hash))
    own, other = await add(world, IBAN), await add(world, IBAN, headers=headers)
    assert [own.status_code, other.status_code] == [201, 201]
    kept = [await stored(answer.json()["id"]) for answer in (own, other)]
    assert kept[0].fingerprint == kept[1].fingerprint
    assert kept[0].details_encrypted != kept[1].details_encrypted
    assert await methods.others_with_account(session, kept[0]) == 1


async def test_the_same_account_ten_times_at_once_is_one_method(committed_world: World) -> None:
    answers = await asyncio.gather(*(add(committed_world, IBAN) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 9
    assert await count_methods(committed_world) == 2


async def test_a_customer_has_so_many_methods_and_no_more(committed_world: World) -> None:
    world = committed_world
    async with transaction() as session:
        # Another request is adding the last one that fits, and has not committed yet.
        customer = await session.get_one(Customer, world.customer.id, with_for_update={"key_share": True})
        for _ in range(methods.MOST_METHODS - 1):
            await make_payout_method(session, world.settings, customer)
        late = asyncio.create_task(add(world, IBAN))
        await until_somebody_waits_for_a_lock()
    refused = await late
    assert (refused.status_code, refused.json()["code"]) == (409, "too_many_payout_methods")
    await world.client.delete(f"/v1/me/payout-methods/{world.method.id}", headers=world.headers)
    assert (await add(world, IBAN)).status_code == 201


# --- Deleted


async def test_a_deleted_method_keeps_its_mask_for_old_payouts_and_nothing_else(world: World) -> None:
    payout = await world.asked()
    await world.decide(payout["id"], "reject")
    url = f"/v1/me/payout-methods/{world.method.id}"
    deleted = await world.client.delete(url, headers=world.headers)
    assert (deleted.status_code, deleted.content) == (204, b"")
    kept = await stored(str(world.method.id))
    assert kept.details_encrypted == b""
    assert kept.deleted_at is not None
    assert (await world.client.get("/v1/me/payout-methods", headers=world.headers)).json()["items"] == []
    shown = await world.client.get(f"/v1/me/payouts/{payout['id']}", headers=world.headers)
    assert shown.json()["method"]["masked"] == world.method.masked
    again = await world.client.delete(url, headers=world.headers)
    assert (again.status_code, again.json()["code"]) == (404, "payout_method_not_found")


@pytest.mark.parametrize("path", [[], [PayoutStatus.APPROVED], [PayoutStatus.APPROVED, PayoutStatus.SENT]])
async def test_a_method_with_an_open_payout_stays(
    world: World, session: AsyncSession, path: list[PayoutStatus]
) -> None:
    payout = await session.get_one(Payout, (await world.asked())["id"])
    for status in path:
        await life.advance(session, payout, status)
    await session.commit()
    answer = await world.client.delete(f"/v1/me/payout-methods/{world.method.id}", headers=world.headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "payout_method_in_use")
    kept = await stored(str(world.method.id))
    assert open_method(world.settings, kept).account_number is not None


async def test_an_account_may_be_entered_anew_after_it_was_deleted_and_waits_again(world: World) -> None:
    first = (await add(world, IBAN)).json()
    await world.client.delete(f"/v1/me/payout-methods/{first['id']}", headers=world.headers)
    second = (await add(world, IBAN)).json()
    assert second["id"] != first["id"]
    assert datetime.fromisoformat(second["usable_from"]) > datetime.now(UTC) + timedelta(hours=23)


async def test_another_customers_method_cannot_be_deleted(world: World, session: AsyncSession) -> None:
    foreign = await make_payout_method(session, world.settings, await make_customer(session))
    answer = await world.client.delete(f"/v1/me/payout-methods/{foreign.id}", headers=world.headers)
    assert (answer.status_code, answer.json()["code"]) == (404, "payout_method_not_found")
    assert foreign.deleted_at is None


async def test_a_method_deleted_while_it_is_asked_for_is_either_deleted_or_used(committed_world: World) -> None:
    world = committed_world
    url = f"/v1/me/payout-methods/{world.method.id}"
    answers = await asyncio.gather(
        *(world.ask() for _ in range(5)),
        world.client.delete(url, headers=world.headers),
        *(world.ask() for _ in range(5)),
    )
    deletion = answers.pop(5)
    taken = [answer for answer in answers if answer.status_code == 201]
    kept = await stored(str(world.method.id))
    assert deletion.status_code == (409 if taken else 204)
    assert (kept.deleted_at is None) == bool(taken)


# --- Nothing in clear


async def everything(session: AsyncSession, table: str) -> Sequence[str]:
    """Each row of a table, as JSON."""
    rows = select(func.to_jsonb(literal_column("t")).cast(Text)).select_from(text(f'"{table}" t'))
    return (await session.scalars(rows)).all()


async def test_no_account_is_readable_in_an_answer_a_log_line_or_a_column(committed_world: World) -> None:
    world = committed_world
    secrets = ["PK36SCBL0000001123456702", "0000001123456702", "0012-3456 7890", "001234567890", "3001234567"]
    secrets += ["ayesha.k", "Ayesha Khan", PASSWORD]
    await world.change_rule(method_hold_hours=0, daily_count=100)
    answers: list[httpx.Response] = []
    with captured_logs() as output:
        for method in (IBAN, LOCAL, WALLET, EMAIL):
            answers.append(await add(world, method))
            answers.append(await add(world, method))
            answers.append(await add(world, method, password="wrong"))
            answers.append(await add(world, method, holder=""))
            payout = await world.asked(method_id=answers[-4].json()["id"])
            answers.append(await world.client.get(f"/v1/me/payouts/{payout['id']}", headers=world.headers))
            answers.append(await world.decide(payout["id"], "approve"))
        answers.append(await world.client.get("/v1/me/payout-methods", headers=world.headers))
        answers.append(await world.client.get("/v1/me/payouts", headers=world.headers))
        answers.append(await world.client.get("/v1/admin/payouts", headers=await world.as_staff()))
    assert [answer.status_code for answer in answers[:6]] == [201, 409, 403, 422, 200, 200]
    logged = output.getvalue()
    assert "/v1/me/payout-methods" in logged
    async with transaction() as session:
        tables = (await session.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))).all()
        rows = [row for table in tables for row in await everything(session, table)]
    assert len(rows) > 20
    for secret in secrets:
        assert not any(secret in answer.text for answer in answers), secret
        assert secret not in logged, secret
        # Bytes are shown in hexadecimal digits.
        assert not any(secret in row or secret.encode().hex() in row for row in rows), secret
