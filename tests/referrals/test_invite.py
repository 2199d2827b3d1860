"""Registering with a code: what is promised, and what is kept of where it came from."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.models import Customer, Referral, ReferralProgram, ReferralStatus
from app.services.origin import Origin
from app.services.referrals.hints import address_hint, device_hint
from tests.factories import make_customer
from tests.referrals.world import client_at, make_program

CODE = "7KD2MQ9X"
LONG_AGO = datetime(2025, 1, 1, tzinfo=UTC)


async def register(client: httpx.AsyncClient, **request: Any) -> httpx.Response:
    body = {"email": "ayesha@example.com", "password": "correct horse battery staple", "referral_code": CODE}
    return await client.post("/v1/customers", json=body, **request)


async def registered(session: AsyncSession) -> Customer:
    return (await session.scalars(Customer.by_email("ayesha@example.com"))).one()


async def test_the_bonuses_are_those_of_the_program_at_registration(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    program = await make_program(session, currency="EUR", referrer_bonus_minor=500, invited_bonus_minor=0)
    referrer = await make_customer(session, referral_code=CODE)
    assert (await register(client)).status_code == 201
    await make_program(session, valid_from=datetime.now(UTC) - timedelta(minutes=1))
    referral = (await session.scalars(select(Referral))).one()
    assert (referral.program_id, referral.referrer_id) == (program.id, referrer.id)
    assert referral.invited_id == (await registered(session)).id
    assert (referral.status, referral.revision, referral.order_id) == (ReferralStatus.WAITING, 0, None)
    assert (referral.currency, referral.referrer_bonus_minor, referral.invited_bonus_minor) == ("EUR", 500, 0)


async def test_without_a_program_in_force_there_is_no_bonus_but_who_invited_is_kept(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    now = datetime.now(UTC)
    await make_program(session, valid_from=now + timedelta(days=1))
    await make_program(session, valid_from=LONG_AGO, valid_to=now - timedelta(days=1))
    referrer = await make_customer(session, referral_code=CODE)
    assert (await register(client)).status_code == 201
    assert (await registered(session)).referred_by_id == referrer.id
    assert (await session.scalars(select(Referral))).all() == []


async def test_of_several_programs_the_one_that_began_last_holds(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    now = datetime.now(UTC)
    last = await make_program(session, valid_from=now - timedelta(days=2), valid_to=now + timedelta(days=1))
    await make_program(session, valid_from=LONG_AGO)
    await make_program(session, valid_from=now - timedelta(days=1), valid_to=now - timedelta(hours=1))
    await make_customer(session, referral_code=CODE)
    assert (await register(client)).status_code == 201
    assert (await session.scalars(select(Referral.program_id))).all() == [last.id]


async def test_without_a_code_nobody_is_promised_anything(client: httpx.AsyncClient, session: AsyncSession) -> None:
    await make_program(session)
    body = {"email": "ayesha@example.com", "password": "correct horse battery staple"}
    assert (await client.post("/v1/customers", json=body)).status_code == 201
    assert (await session.scalars(select(Referral))).all() == []


async def test_address_and_device_are_kept_as_keyed_hashes_only(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    await make_customer(session, referral_code=CODE)
    async with client_at(client, "203.0.113.7") as phone:
        # Whom nobody trusts as a proxy cannot choose an address.
        headers = {"X-Device-ID": "phone-1", "X-Forwarded-For": "198.51.100.1"}
        assert (await register(phone, headers=headers)).status_code == 201
    kept = await registered(session)
    origin = Origin("203.0.113.7", "phone-1")
    assert kept.address_hint == address_hint(settings, origin)
    assert kept.device_hint == device_hint(settings, origin)
    other_key = settings.model_copy(update={"secret_key": settings.encryption_keys[0]})
    assert address_hint(other_key, origin) != kept.address_hint
    for hint in (kept.address_hint, kept.device_hint):
        assert hint is not None
        assert len(hint) == 32
    # A device may be called as an address is: still they are not alike.
    assert device_hint(settings, Origin(device="203.0.113.7")) != kept.address_hint


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("203.0.113.7", "203.0.113.7", True),
        ("203.0.113.7", "203.0.113.8", False),
        ("203.0.113.7", "::ffff:203.0.113.7", True),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
    ],
)
def test_a_household_is_an_ipv4_address_or_an_ipv6_64(settings: Settings, one: str, other: str, *, alike: bool) -> None:
    hints = [address_hint(settings, Origin(address)) for address in (one, other)]
    assert None not in hints
    assert (hints[0] == hints[1]) is alike


@pytest.mark.parametrize("address", [None, "", "testclient", "/run/app.sock", "1.2.3"])
def test_what_is_no_address_gives_no_hint(settings: Settings, address: str | None) -> None:
    assert address_hint(settings, Origin(address)) is None
    assert device_hint(settings, Origin(address)) is None


@pytest.mark.parametrize("device", ["", "x" * 201])
async def test_a_device_id_out_of_bounds_is_refused(
    client: httpx.AsyncClient, session: AsyncSession, device: str
) -> None:
    await make_customer(session, referral_code=CODE)
    answer = await register(client, headers={"X-Device-ID": device})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"][0]["loc"] == ["header", "X-Device-ID"]


async def test_a_browser_may_send_the_device(client: httpx.AsyncClient) -> None:
    answer = await client.options(
        "/v1/customers",
        headers={
            "Origin": "https://shop.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "X-Device-ID",
        },
    )
    assert answer.status_code == 200


async def test_a_program_that_is_ended_before_it_began_never_holds(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    later = datetime.now(UTC) + timedelta(days=1)
    await make_program(session, valid_from=later, valid_to=later)
    await make_customer(session, referral_code=CODE)
    assert (await register(client)).status_code == 201
    assert (await session.scalars(select(Referral))).all() == []
    assert len((await session.scalars(select(ReferralProgram))).all()) == 1
