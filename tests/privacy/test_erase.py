"""Closing an account: nobody can be found in any table after, and the books are as they were."""

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.models import Claim, Click, Customer, OrderReport, PayoutMethod, Posting, Wallet, WebhookEvent
from tests.factories import customer_headers, make_customer, staff_headers
from tests.privacy.world import MARK, Person, add_export, empty_tables, make_person, tables_with


@pytest.fixture
async def person(session: AsyncSession, settings: Settings) -> Person:
    made = await make_person(session, settings)
    await add_export(session, made.customer)
    return made


async def close(client: httpx.AsyncClient, settings: Settings, customer: Customer) -> None:
    answer = await client.delete("/v1/me", headers=customer_headers(settings, customer))
    assert answer.status_code == 204, answer.text


async def test_the_person_is_in_every_table_that_can_name_one(session: AsyncSession, person: Person) -> None:
    assert await empty_tables(session) == {"order_boosts"}
    assert await tables_with(session, MARK) == {
        "claims",
        "customer_sessions",
        "customers",
        "data_export_parts",
        "external_identities",
        "idempotency_keys",
        "messages",
        "one_time_tokens",
        "order_reports",
        "order_review_changes",
        "order_reviews",
        "payout_changes",
        "payout_methods",
        "payouts",
        "referrals",
        "webhook_events",
    }


async def test_after_closing_no_table_of_the_database_names_the_person(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, person: Person
) -> None:
    await close(client, settings, person.customer)
    assert await tables_with(session, MARK) == set()
    methods = (await session.scalars(select(PayoutMethod).execution_options(populate_existing=True))).all()
    assert {(method.details_encrypted, method.masked) for method in methods} == {(b"", "erased")}
    assert (await session.scalars(select(Click.address_hint))).all() == [None]
    [claim] = (await session.scalars(select(Claim).execution_options(populate_existing=True))).all()
    assert (claim.note, claim.evidence, claim.resolution_note) == (None, [], None)


async def test_closing_keeps_the_books_and_what_tells_a_gift_to_oneself(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, person: Person
) -> None:
    before = (await session.execute(select(Posting.id, Posting.amount_minor))).all()
    hints, prints = (
        (person.customer.address_hint, person.customer.device_hint),
        set((await session.scalars(select(PayoutMethod.fingerprint))).all()),
    )
    await close(client, settings, person.customer)
    assert (await session.execute(select(Posting.id, Posting.amount_minor))).all() == before
    assert (await session.scalars(select(Wallet.paid_minor))).all() == [4_500]
    await session.refresh(person.customer)
    assert (person.customer.address_hint, person.customer.device_hint) == hints
    assert set((await session.scalars(select(PayoutMethod.fingerprint))).all()) == prints
    reports = (await session.scalars(select(OrderReport).order_by(OrderReport.id))).all()
    assert [report.sale_minor for report in reports] == [100_000, None]


async def test_address_of_a_closed_account_is_free_for_another(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, person: Person
) -> None:
    email = person.customer.email
    await close(client, settings, person.customer)
    again = await make_customer(session, email=email)
    assert again.id != person.customer.id


async def test_erased_event_says_so_and_cannot_be_replayed(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, person: Person
) -> None:
    await close(client, settings, person.customer)
    staff = await staff_headers(session)
    shown = (await client.get(f"/v1/admin/webhook-events/{person.event.id}", headers=staff)).json()
    assert shown["erased_at"].endswith("Z")
    answer = await client.post(f"/v1/admin/webhook-events/{person.event.id}/replay", headers=staff)
    assert (answer.status_code, answer.json()["code"]) == (409, "webhook_event_erased")
    event = await session.get_one(WebhookEvent, person.event.id, populate_existing=True)
    assert (event.body, event.query, event.headers, event.body_sha256) == (b"", b"", {}, b"x" * 32)


async def test_closing_one_account_leaves_everybody_else_as_they_are(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, person: Person
) -> None:
    other = await make_customer(session)
    await close(client, settings, other)
    assert len(await tables_with(session, MARK)) == 16
