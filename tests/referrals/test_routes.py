"""Referrals over HTTP: what a customer sees of those they invited, and what staff make, see and decide."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import transaction
from app.ids import new_id
from app.models import CustomerStatus, OrderStatus, ReferralReason, ReferralStatus, StaffRole
from tests.factories import customer_headers, make_customer, staff_headers
from tests.referrals.world import INVITED_BONUS, REFERRER_BONUS, World, make_invited, make_program

PROGRAMS = "/v1/admin/referral-programs"
PROGRAM = {
    "currency": "PKR",
    "referrer_bonus": {"amount_minor": 50_000, "currency": "PKR"},
    "invited_bonus": {"amount_minor": 25_000, "currency": "PKR"},
    "max_granted": 50,
}
NOTE = {"note": "They are sisters"}


def pkr(amount_minor: int) -> dict[str, Any]:
    return {"amount_minor": amount_minor, "currency": "PKR"}


async def mine(world: World, customer: Any = None, **params: Any) -> dict[str, Any]:
    headers = customer_headers(world.settings, customer or world.referrer)
    answer = await world.client.get("/v1/me/referrals", headers=headers, params=params)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def held(world: World) -> str:
    """Let the bonus be held, as both live at one address; returns the referral's id."""
    for customer in (world.referrer, world.invited):
        await world.change_customer(customer, address_hint=b"home")
    await world.buy()
    return str((await world.referral()).id)


async def test_a_customer_sees_code_who_came_and_what_it_earned(world: World) -> None:
    await world.buy()
    body = await mine(world)
    assert body.pop("items") == [
        {
            "name": "A•••",
            "status": "granted",
            "bonus": pkr(REFERRER_BONUS),
            "registered_at": world.invited.created_at.isoformat().replace("+00:00", "Z"),
        }
    ]
    assert body == {
        "code": world.referrer.referral_code,
        "invited": 1,
        "earned": [pkr(REFERRER_BONUS)],
        "welcome": None,
        "program": {
            "referrer_bonus": pkr(REFERRER_BONUS),
            "invited_bonus": pkr(INVITED_BONUS),
            "minimum_sale": pkr(100_000),
        },
        "next_cursor": None,
    }


async def test_who_was_invited_sees_the_welcome_bonus(world: World) -> None:
    assert (await mine(world, world.invited))["welcome"] == {"status": "waiting", "bonus": pkr(INVITED_BONUS)}
    order = await world.buy()
    body = await mine(world, world.invited)
    assert (body["welcome"], body["earned"], body["invited"]) == (
        {"status": "granted", "bonus": pkr(INVITED_BONUS)},
        [pkr(INVITED_BONUS)],
        0,
    )
    await world.move(order, OrderStatus.REVERSED)
    assert (await mine(world, world.invited))["earned"] == []


async def test_nothing_of_the_invited_is_shown_but_a_letter(world: World) -> None:
    async with transaction() as session:
        await make_invited(session, world.referrer, email="zainab@example.com")
        closed_at = datetime.now(UTC)
        await make_invited(session, world.referrer, status=CustomerStatus.CLOSED, closed_at=closed_at)
    await world.change_customer(world.invited, device_hint=b"phone")
    await world.change_customer(world.referrer, device_hint=b"phone")
    await world.buy()
    headers = customer_headers(world.settings, world.referrer)
    answer = await world.client.get("/v1/me/referrals", headers=headers)
    assert [item["name"] for item in answer.json()["items"]] == ["•••", "Z•••", "A•••"]
    assert answer.json()["items"][-1]["status"] == "refused"
    # Neither who it is, nor what the two have in common.
    for secret in (str(world.invited.id), world.invited.email, "yesha", "ainab", "device", "closed"):
        assert secret not in answer.text.lower()


async def test_pages_give_everybody_once_newest_first_also_without_a_program(world: World) -> None:
    async with transaction() as session:
        for letter in "BCD":
            await make_customer(session, referred_by_id=world.referrer.id, display_name=letter)
    seen: list[tuple[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = await mine(world, limit=3, **cursor)
        assert page["invited"] == 4
        seen += [(item["name"], item["status"]) for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == [("D•••", None), ("C•••", None), ("B•••", None), ("A•••", "waiting")]


async def test_without_a_program_nothing_is_promised(world: World) -> None:
    headers = await finance(world)
    answer = await world.client.patch(f"{PROGRAMS}/{world.program.id}", json={}, headers=headers)
    assert answer.status_code == 200
    assert (await mine(world))["program"] is None


async def test_a_stranger_sees_nobody(world: World) -> None:
    async with transaction() as session:
        stranger = await make_customer(session)
    body = await mine(world, stranger)
    assert (body["invited"], body["items"], body["earned"]) == (0, [], [])
    assert (await world.client.get("/v1/me/referrals")).json()["code"] == "sign_in_required"


async def finance(world: World, role: StaffRole = StaffRole.FINANCE) -> dict[str, str]:
    async with transaction() as session:
        return await staff_headers(session, role)


async def test_finance_makes_ends_and_lists_programs(client: httpx.AsyncClient, session: AsyncSession) -> None:
    headers = await staff_headers(session, StaffRole.FINANCE)
    body = {**PROGRAM, "minimum_sale": pkr(200_000), "valid_to": "2099-01-01T00:00:00Z"}
    made = await client.post(PROGRAMS, json=body, headers=headers)
    assert made.status_code == 201, made.text
    assert {name: made.json()[name] for name in body} == body
    ended = await client.patch(
        f"{PROGRAMS}/{made.json()['id']}", json={"valid_to": "2098-01-01T00:00:00Z"}, headers=headers
    )
    assert ended.json() == {**made.json(), "valid_to": "2098-01-01T00:00:00Z"}
    one_sided = {**PROGRAM, "referrer_bonus": None, "valid_from": "2090-01-01T00:00:00Z"}
    second = (await client.post(PROGRAMS, json=one_sided, headers=headers)).json()
    assert (second["referrer_bonus"], second["minimum_sale"]) == (pkr(0), pkr(0))
    # One that has not begun never does.
    cancelled = (await client.patch(f"{PROGRAMS}/{second['id']}", json={}, headers=headers)).json()
    assert cancelled["valid_to"] == cancelled["valid_from"]
    viewer = await staff_headers(session, StaffRole.VIEWER)
    first_page = (await client.get(PROGRAMS, params={"limit": 1}, headers=viewer)).json()
    assert first_page["items"] == [cancelled]
    cursor = {"cursor": first_page["next_cursor"]}
    assert (await client.get(PROGRAMS, params=cursor, headers=viewer)).json() == {
        "items": [ended.json()],
        "next_cursor": None,
    }


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"referrer_bonus": None, "invited_bonus": None}, "invalid_request"),
        ({"referrer_bonus": pkr(0)}, "invalid_request"),
        ({"referrer_bonus": pkr(-1)}, "invalid_request"),
        ({"referrer_bonus": {"amount_minor": 1.5, "currency": "PKR"}}, "invalid_request"),
        ({"referrer_bonus": pkr(2**63 - 1)}, "invalid_request"),
        ({"invited_bonus": {"amount_minor": 1, "currency": "EUR"}}, "invalid_request"),
        ({"minimum_sale": {"amount_minor": 1, "currency": "EUR"}}, "invalid_request"),
        ({"max_granted": 0}, "invalid_request"),
        ({"max_granted": 1_000_001}, "invalid_request"),
        ({"max_granted": True}, "invalid_request"),
        ({"max_granted": None}, "invalid_request"),
        ({"currency": "rupees"}, "invalid_request"),
        ({"created_at": "2026-01-01T00:00:00Z"}, "invalid_request"),
        ({"valid_to": "2020-01-01T00:00:00Z"}, "referral_program_period"),
        ({"valid_from": "2090-01-01T00:00:00Z", "valid_to": "2090-01-01T00:00:00Z"}, "referral_program_period"),
    ],
)
async def test_a_program_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, session: AsyncSession, changes: dict[str, Any], code: str
) -> None:
    headers = await staff_headers(session, StaffRole.FINANCE)
    answer = await client.post(PROGRAMS, json={**PROGRAM, **changes}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text


async def test_a_program_ends_neither_in_the_past_nor_twice_over(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    program = await make_program(session)
    headers = await staff_headers(session, StaffRole.FINANCE)
    url = f"{PROGRAMS}/{program.id}"
    past = {"valid_to": (datetime.now(UTC) - timedelta(days=1)).isoformat()}
    assert (await client.patch(url, json=past, headers=headers)).json()["code"] == "referral_program_period"
    assert (await client.patch(url, json={"max_granted": 1}, headers=headers)).status_code == 422
    missing = await client.patch(f"{PROGRAMS}/{new_id()}", json={}, headers=headers)
    assert (missing.status_code, missing.json()["code"]) == (404, "referral_program_not_found")


async def test_the_same_key_makes_one_program(client: httpx.AsyncClient, session: AsyncSession) -> None:
    headers = {**await staff_headers(session, StaffRole.FINANCE), "Idempotency-Key": "spring"}
    first, again = [await client.post(PROGRAMS, json=PROGRAM, headers=headers) for _ in range(2)]
    assert (again.json(), again.headers["Idempotency-Replayed"]) == (first.json(), "true")
    other = await client.post(PROGRAMS, json={**PROGRAM, "max_granted": 1}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("method", "path", "body", "role"),
    [
        ("POST", PROGRAMS, PROGRAM, StaffRole.OPERATOR),
        ("PATCH", f"{PROGRAMS}/0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e", {}, StaffRole.OPERATOR),
        ("POST", "/v1/admin/referrals/0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e/allow", NOTE, StaffRole.VIEWER),
        ("POST", "/v1/admin/referrals/0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e/refuse", NOTE, StaffRole.VIEWER),
    ],
)
async def test_a_lower_role_may_not(
    client: httpx.AsyncClient, session: AsyncSession, method: str, path: str, body: Any, role: StaffRole
) -> None:
    answer = await client.request(method, path, json=body, headers=await staff_headers(session, role))
    assert answer.status_code == 403
    assert (await client.request(method, path, json=body)).status_code == 401


async def test_staff_list_referrals_by_what_they_look_for(world: World) -> None:
    async with transaction() as session:
        other = await make_invited(session, await make_customer(session))
    await world.buy()
    viewer = await finance(world, StaffRole.VIEWER)

    async def listed(**params: Any) -> list[str]:
        answer = await world.client.get("/v1/admin/referrals", headers=viewer, params=params)
        assert answer.status_code == 200, answer.text
        return [item["invited_id"] for item in answer.json()["items"]]

    first, second = str(world.invited.id), str(other.id)
    assert await listed() == [second, first]
    assert await listed(status="granted") == [first]
    assert await listed(status="held") == []
    assert await listed(referrer_id=str(world.referrer.id)) == [first]
    assert await listed(invited_id=second) == [second]
    assert await listed(program_id=str(world.program.id)) == [second, first]
    assert await listed(program_id=str(new_id())) == []
    page = (await world.client.get("/v1/admin/referrals", headers=viewer, params={"limit": 1})).json()
    assert await listed(cursor=page["next_cursor"]) == [first]
    bad = await world.client.get("/v1/admin/referrals", headers=viewer, params={"status": "lost"})
    assert bad.status_code == 422


async def test_staff_let_a_family_have_its_bonus(world: World) -> None:
    referral_id = await held(world)
    operator = await finance(world, StaffRole.OPERATOR)
    url = f"/v1/admin/referrals/{referral_id}"
    shown = (await world.client.get(url, headers=operator)).json()
    assert (shown["status"], shown["reason"]) == ("held", "same_address")
    allowed = await world.client.post(f"{url}/allow", json=NOTE, headers=operator)
    assert allowed.status_code == 200, allowed.text
    assert (allowed.json()["status"], allowed.json()["reason"], allowed.json()["note"]) == (
        "granted",
        None,
        NOTE["note"],
    )
    assert allowed.json()["decided_by_id"] is not None
    assert await world.available(world.referrer) == REFERRER_BONUS
    assert (await world.client.get(url, headers=operator)).json() == allowed.json()
    for verb in ("allow", "refuse"):
        again = await world.client.post(f"{url}/{verb}", json=NOTE, headers=operator)
        assert (again.status_code, again.json()["code"]) == (409, "referral_granted")


async def test_what_staff_refuse_is_not_granted_until_they_allow_it(world: World) -> None:
    referral_id = await held(world)
    operator = await finance(world, StaffRole.OPERATOR)
    url = f"/v1/admin/referrals/{referral_id}"
    refused = (await world.client.post(f"{url}/refuse", json=NOTE, headers=operator)).json()
    assert (refused["status"], refused["reason"]) == ("refused", "by_staff")
    await world.buy()
    assert (await world.referral()).status is ReferralStatus.REFUSED
    allowed = (await world.client.post(f"{url}/allow", json=NOTE, headers=operator)).json()
    assert allowed["status"] == "granted"


async def test_who_is_allowed_before_the_first_order_is_not_asked_again(world: World) -> None:
    for customer in (world.referrer, world.invited):
        await world.change_customer(customer, address_hint=b"home", device_hint=b"phone")
    operator = await finance(world, StaffRole.OPERATOR)
    url = f"/v1/admin/referrals/{(await world.referral()).id}/allow"
    assert (await world.client.post(url, json=NOTE, headers=operator)).json()["status"] == "waiting"
    await world.buy()
    assert (await world.referral()).status is ReferralStatus.GRANTED


async def test_staff_do_not_lift_the_limit_by_allowing(world: World) -> None:
    referral_id = await held(world)
    async with transaction() as session:
        (await session.merge(world.program)).max_granted = 1
        friend = await make_invited(session, world.referrer)
    await world.buy(friend)
    operator = await finance(world, StaffRole.OPERATOR)
    allowed = await world.client.post(f"/v1/admin/referrals/{referral_id}/allow", json=NOTE, headers=operator)
    assert (allowed.json()["status"], allowed.json()["reason"]) == ("refused", ReferralReason.LIMIT_REACHED)


async def test_deciding_about_what_is_not_there_or_without_a_word_is_refused(world: World) -> None:
    operator = await finance(world, StaffRole.OPERATOR)
    for verb in ("allow", "refuse"):
        missing = await world.client.post(f"/v1/admin/referrals/{new_id()}/{verb}", json=NOTE, headers=operator)
        assert (missing.status_code, missing.json()["code"]) == (404, "referral_not_found")
        for body in ({}, {"note": "x"}, {"note": "long enough", "status": "granted"}):
            url = f"/v1/admin/referrals/{(await world.referral()).id}/{verb}"
            assert (await world.client.post(url, json=body, headers=operator)).status_code == 422
    assert (await world.client.get(f"/v1/admin/referrals/{new_id()}", headers=operator)).status_code == 404


async def test_a_decision_is_made_once_for_its_key(world: World) -> None:
    referral_id = await held(world)
    headers = {**await finance(world, StaffRole.OPERATOR), "Idempotency-Key": "sisters"}
    url = f"/v1/admin/referrals/{referral_id}/allow"
    first, again = [await world.client.post(url, json=NOTE, headers=headers) for _ in range(2)]
    assert (again.json(), again.headers["Idempotency-Replayed"]) == (first.json(), "true")
