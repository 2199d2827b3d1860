"""The service as a role that owns nothing: the whole path of money works, and the past cannot be changed."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
import sqlalchemy.exc
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app import db
from app.config import Settings
from app.db import constraint_name, sqlstate, transaction
from app.ids import new_id
from app.main import create_app
from app.models import ExchangeRate, LedgerDay, MonthClose, OrderStatus, StaffKey, StaffRole
from app.services import click_months
from app.services.grants import APPEND_ONLY, GrantError, grant_to
from app.services.ledger import chain
from app.workers.ledger import seal_days, verify_ledger
from app.workers.orders import release_payable
from app.workers.settings import WORKER_NAMES, worker_kind
from tests.conftest import administer, in_process, make_settings
from tests.factories import customer_headers, make_customer, staff_headers
from tests.ledger.past import post_at
from tests.webhooks.world import make_world

PASSWORD = "of-the-tests-alone"
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


@dataclass
class Limited:
    """The service's role, and settings that sign in with it."""

    role: str
    settings: Settings
    owner: Settings


@pytest.fixture
async def new_role() -> AsyncIterator[str]:
    """A role without any right."""
    role = f"service: {new_id().hex[-12:]}"
    await administer(f"CREATE ROLE \"{role}\" LOGIN PASSWORD '{PASSWORD}'")
    yield role
    await administer(f'DROP ROLE "{role}"')


@pytest.fixture
async def limited(new_role: str, doomed_db: Settings) -> Limited:
    """The database opened as the service's role, once `cashback migrate` has granted it what it needs."""
    async with transaction() as session:
        await grant_to(session, new_role)
    url = urlsplit(doomed_db.database_url)
    name = new_role.replace(":", "%3A").replace(" ", "%20")
    address = url._replace(netloc=f"{name}:{PASSWORD}@{url.hostname}:{url.port}").geturl()
    own = make_settings(database_url=address, redis_url=doomed_db.redis_url)
    await db.close_database()
    await db.open_database(own, application_name="tests", pool_size=5, max_overflow=5)
    return Limited(new_role, own, doomed_db)


async def make_one_of_each() -> None:
    """A row in each table that only grows."""
    async with transaction() as session:
        customer = await make_customer(session)
        await post_at(session, YESTERDAY, customer, 100)
        await staff_headers(session, StaffRole.FINANCE)
        rate = {"base": "USD", "quote": "PKR", "effective_on": YESTERDAY.date(), "rate_e12": 1}
        session.add(ExchangeRate(id=new_id(), **rate))
    await seal_days()
    async with transaction() as session:
        day = (await session.scalars(select(LedgerDay))).one()
        staff_id = (await session.scalars(select(StaffKey.id))).one()
        month = YESTERDAY.date().replace(day=1)
        session.add(MonthClose(month=month, report={}, chain_hash=day.hash, closed_by_id=staff_id))


async def refused(statement: str) -> sqlalchemy.exc.DBAPIError:
    with pytest.raises(sqlalchemy.exc.DBAPIError) as error:
        async with transaction() as session:
            await session.execute(text(statement))
    return error.value


async def test_the_whole_path_of_money_works_as_a_role_that_owns_nothing(limited: Limited) -> None:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(in_process(create_app(limited.settings), limited.settings))
        world = await make_world(limited.settings, client, hold_days=0)
        for kind in ("created", "approved"):
            answer = await world.post(kind, amount=100_000, commission=8_000)
            assert answer.status_code == 202
            await world.drain()
        await release_payable()
        order = await world.order()
        assert order.status is OrderStatus.PAYABLE
        assert await world.wallet() == (0, order.cashback_minor)
        await world.post("returned", amount=100_000, commission=8_000)
        await world.drain()
        assert (await world.order()).status is OrderStatus.REVERSED
        async with transaction() as session:
            client.headers.update(await staff_headers(session, StaffRole.FINANCE))
        for path in ("/v1/admin/ledger/trial-balance", f"/v1/admin/orders/{order.id}"):
            assert (await client.get(path)).status_code == 200
        headers = customer_headers(limited.settings, world.customer)
        assert len((await client.get("/v1/me/wallet/statement", headers=headers)).json()["items"]) == 4
    async with transaction() as session:
        await post_at(session, YESTERDAY, world.customer, 5)
    assert await seal_days() == 1
    assert await verify_ledger() == 0


async def test_everything_on_the_schedule_works_as_a_role_that_owns_nothing(limited: Limited) -> None:
    """Months of clicks are then left to the owner, and are no failure."""
    settings = limited.settings.model_copy(update={"click_keep_months": 3, "webhook_raw_keep_months": 3})
    for name in WORKER_NAMES:
        for task in worker_kind(name, settings).schedule:
            await task.run()
    async with transaction() as session:
        assert not await click_months.may_change_months(session)


CHANGES = (
    "UPDATE {table} SET {column} = {column}",
    "DELETE FROM {table}",
    "TRUNCATE {table} CASCADE",
)
DISARMS = (
    "ALTER TABLE {table} DISABLE TRIGGER ALL",
    "ALTER TABLE {table} DISABLE TRIGGER {table}_append_only",
    "DROP TRIGGER {table}_append_only ON {table}",
    "ALTER TABLE {table} RENAME TO gone",
    "DROP TABLE {table} CASCADE",
    "CREATE TRIGGER mine BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION ledger_refuse_change()",
)


def filled(statement: str, table: str) -> str:
    return statement.format(table=table, column={"ledger_days": "day", "month_closes": "month"}.get(table, "id"))


@pytest.mark.parametrize("table", APPEND_ONLY)
async def test_rows_that_are_for_good_cannot_be_changed_by_the_services_role(limited: Limited, table: str) -> None:
    await make_one_of_each()
    for statement in (*CHANGES, *DISARMS):
        assert sqlstate(await refused(filled(statement, table))) == "42501", statement


@pytest.mark.parametrize(
    "statement",
    [
        "SET session_replication_role = replica",
        "SET LOCAL session_replication_role = 'replica'",
        "CREATE OR REPLACE FUNCTION ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "DROP FUNCTION ledger_refuse_sealed_day() CASCADE",
        "CREATE TABLE public.mine (id integer)",
        "DELETE FROM alembic_version",
    ],
)
async def test_the_guards_cannot_be_removed_by_the_services_role(limited: Limited, statement: str) -> None:
    assert sqlstate(await refused(statement)) == "42501"


@pytest.mark.parametrize("table", APPEND_ONLY)
async def test_the_owner_is_refused_by_triggers(doomed_db: Settings, table: str) -> None:
    await make_one_of_each()
    for statement in CHANGES:
        assert constraint_name(await refused(filled(statement, table))) == "ledger_append_only", statement


async def test_the_services_role_cannot_grant_itself_what_it_lacks(limited: Limited) -> None:
    await make_one_of_each()
    async with transaction() as session:
        # PostgreSQL only warns that it grants nothing.
        await session.execute(text("GRANT ALL ON postings TO CURRENT_USER"))
    assert sqlstate(await refused("UPDATE postings SET id = id")) == "42501"


async def test_every_table_with_a_guard_is_known_as_append_only(committed_db: Settings) -> None:
    async with transaction() as session:
        guarded = await session.scalars(
            text("SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname LIKE '%_append_only'")
        )
    assert sorted(guarded) == sorted(APPEND_ONLY)


async def test_a_day_waits_for_another_roles_transaction_whose_beginning_is_hidden(limited: Limited) -> None:
    async with transaction() as session:
        customer = await make_customer(session)
        await post_at(session, YESTERDAY, customer, 100)
    engine = db.create_engine(limited.owner, application_name="tests", pool_size=1, max_overflow=0)
    async with AsyncSession(engine) as other, other.begin():
        await post_at(other, YESTERDAY, customer, 50)
        assert await seal_days() == 0
    assert await seal_days() == 1
    async with transaction() as session:
        (day,) = await chain.next_days(session, None, limit=2)
        assert day.postings == 4
    await engine.dispose()


def migrate(settings: Settings, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli", "migrate", *arguments],
        env={
            "PATH": os.environ["PATH"],
            "ENVIRONMENT": "development",
            "DATABASE_URL": settings.database_url,
            "REDIS_URL": settings.redis_url,
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def test_migrate_grants_and_says_so(new_role: str, doomed_db: Settings) -> None:
    done = await asyncio.to_thread(migrate, doomed_db, "--grant-to", new_role)
    assert done.returncode == 0, done.stderr
    again = await asyncio.to_thread(migrate, doomed_db, APPLICATION_ROLE=new_role)
    assert again.stdout.splitlines()[-1] == f"{new_role} may do what the service needs, and cannot change the ledger"
    async with transaction() as session:
        await session.execute(text("SELECT 1"))
        rights = await session.execute(
            text("""
                SELECT has_table_privilege(:role, 'postings', 'INSERT'),
                       has_table_privilege(:role, 'postings', 'UPDATE'), has_table_privilege(:role, 'wallets', 'UPDATE')
            """),
            {"role": new_role},
        )
        assert tuple(rights.one()) == (True, False, True)


async def test_what_no_grant_would_limit_is_refused(doomed_db: Settings) -> None:
    owner = urlsplit(doomed_db.database_url).username
    done = await asyncio.to_thread(migrate, doomed_db, "--grant-to", str(owner))
    assert done.returncode == 1
    assert "owns the tables" in done.stderr
    async with transaction() as session:
        with pytest.raises(GrantError, match="there is no role 'nobody'"):
            await grant_to(session, "nobody")
