"""Transactions: nothing is promised before its commit, nothing waits for ever, and the ledger only grows."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
import sqlalchemy.exc
from fastapi import FastAPI
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.types import Message, Scope

from app import db, metrics
from app.config import Settings
from app.db import Ring, ring_after_commit
from app.dependencies import SessionDep
from app.errors import NotFoundError
from app.ids import new_id
from app.main import create_app
from app.models import Account, Base, CauseType, Posting, StaffKey, StaffRole, Transfer
from app.services import staff

CURRENCY = "PKR"


def transfer_of(*lines: tuple[int, str]) -> list[Transfer | Posting]:
    """A transfer with lines (amount, currency) on the cash account."""
    transfer = Transfer(id=new_id(), cause_type=CauseType.ADJUSTMENT, cause_id=new_id(), purpose="test", details={})
    postings = [
        Posting(transfer_id=transfer.id, account=Account.CASH, amount_minor=amount, currency=currency)
        for amount, currency in lines
    ]
    return [transfer, *postings]


async def post(session: AsyncSession, *lines: tuple[int, str]) -> UUID:
    transfer, *postings = transfer_of(*lines)
    session.add(transfer)
    await session.flush()
    session.add_all(postings)
    await session.flush()
    assert isinstance(transfer, Transfer)
    return transfer.id


async def add_in_savepoint(session: AsyncSession, row: Base) -> None:
    async with session.begin_nested():
        session.add(row)


async def write_key(name: str, *, rolled_back: bool = False) -> None:
    async with db.transaction() as session:
        async with session.begin_nested():
            await staff.create_key(session, name=name, role=StaffRole.VIEWER)
            ring_after_commit(session, "look", name)
        if rolled_back:
            raise NotFoundError("rolled back")


@pytest.fixture
def rung() -> Iterator[list[Ring]]:
    """What was announced to the workers."""
    heard: list[Ring] = []

    def bell(rings: Sequence[Ring]) -> None:
        heard.extend(rings)

    db.set_bell(bell)
    yield heard
    db.set_bell(None)


@pytest.fixture
def application(committed_db: Settings) -> FastAPI:
    """The application with routes that write, on a database where every commit is real."""
    app = create_app(committed_db)

    @app.post("/unbalanced", status_code=201)
    async def unbalanced(session: SessionDep) -> str:
        await post(session, (100, CURRENCY), (-99, CURRENCY))
        ring_after_commit(session, "never")
        return "done"

    @app.post("/keys/{name}", status_code=201)
    async def write(session: SessionDep, name: str) -> str:
        await staff.create_key(session, name=name, role=StaffRole.VIEWER)
        ring_after_commit(session, "look", name)
        if name == "refused":
            raise NotFoundError("nothing")
        if name == "broken":
            raise RuntimeError("broken")
        return name

    return app


@pytest.fixture
async def http(application: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def count(model: type[Any]) -> int:
    async with db.transaction() as session:
        found: int = (await session.execute(select(func.count()).select_from(model))).scalar_one()
        return found


async def test_failed_commit_is_never_a_success(http: httpx.AsyncClient, rung: list[Ring]) -> None:
    answer = await http.post("/unbalanced")
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal_error"
    assert await count(Transfer) == 0
    assert rung == []


async def test_answer_is_sent_only_after_the_commit(application: FastAPI, rung: list[Ring]) -> None:
    seen: list[int] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            seen.extend([await count(StaffKey), len(rung)])

    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": "/keys/one",
        "raw_path": b"/keys/one",
        "query_string": b"",
        "headers": [],
        "client": None,
        "server": None,
        "scheme": "http",
        "root_path": "",
        "http_version": "1.1",
    }
    await application(scope, receive, send)
    assert seen == [1, 1]


async def test_rings_sound_after_a_commit_and_never_after_a_rollback(http: httpx.AsyncClient, rung: list[Ring]) -> None:
    assert (await http.post("/keys/one")).status_code == 201
    assert rung == [Ring("look", ("one",))]
    assert (await http.post("/keys/refused")).status_code == 404
    assert (await http.post("/keys/broken")).status_code == 500
    assert rung == [Ring("look", ("one",))]
    assert await count(StaffKey) == 1


async def test_ring_of_a_savepoint_waits_for_the_whole_transaction(committed_db: Settings, rung: list[Ring]) -> None:
    with pytest.raises(NotFoundError):
        await write_key("lost", rolled_back=True)
    assert rung == []
    async with db.transaction() as session:
        ring_after_commit(session, "look", "a")
        ring_after_commit(session, "look", "a")
        ring_after_commit(session, "look", "b")
        assert rung == []
    assert rung == [Ring("look", ("a",)), Ring("look", ("b",))]


async def test_cancelled_transaction_is_rolled_back_and_gives_its_connection_back(committed_db: Settings) -> None:
    inside = asyncio.Event()

    async def hold() -> None:
        async with db.transaction() as session:
            await staff.create_key(session, name="lost", role=StaffRole.VIEWER)
            inside.set()
            await asyncio.Event().wait()

    in_use = metrics.DB_POOL_IN_USE._value.get()
    task = asyncio.create_task(hold())
    await inside.wait()
    assert metrics.DB_POOL_IN_USE._value.get() == in_use + 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert metrics.DB_POOL_IN_USE._value.get() == in_use
    assert await count(StaffKey) == 0


@pytest.mark.parametrize(
    "lines",
    [
        [(100, CURRENCY), (-99, CURRENCY)],
        [(100, CURRENCY), (-100, "JPY")],
        [(100, CURRENCY), (-100, CURRENCY), (5, "JPY"), (-4, "JPY")],
        [(100, CURRENCY)],
        [],
    ],
)
async def test_unbalanced_transfer_is_refused_at_commit(committed_db: Settings, lines: list[tuple[int, str]]) -> None:
    transaction = db.transaction()
    session = await transaction.__aenter__()
    await post(session, *lines)  # until here nothing is wrong: lines may follow
    with pytest.raises(sqlalchemy.exc.IntegrityError) as refused:
        await transaction.__aexit__(None, None, None)
    assert db.constraint_name(refused.value) == "ledger_balance"
    assert db.sqlstate(refused.value) == "23514"
    assert not db.is_unavailable(refused.value)
    assert await count(Transfer) == 0


async def test_line_added_later_must_balance_too(committed_db: Settings) -> None:
    async with db.transaction() as session:
        transfer_id = await post(session, (100, CURRENCY), (-100, CURRENCY))
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        async with db.transaction() as session:
            session.add(Posting(transfer_id=transfer_id, account=Account.CASH, amount_minor=1, currency=CURRENCY))
    assert await count(Posting) == 2


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE postings SET amount_minor = amount_minor + 1",
        "UPDATE postings SET amount_minor = amount_minor WHERE false",
        "DELETE FROM postings",
        "TRUNCATE postings",
        "MERGE INTO postings p USING transfers t ON p.transfer_id = t.id WHEN MATCHED THEN DELETE",
        "UPDATE transfers SET purpose = 'another'",
        "INSERT INTO transfers SELECT * FROM transfers ON CONFLICT (id) DO UPDATE SET purpose = 'another'",
        "DELETE FROM transfers",
        "TRUNCATE transfers CASCADE",
    ],
)
async def test_ledger_takes_no_update_delete_or_truncate(session: AsyncSession, statement: str) -> None:
    await post(session, (100, CURRENCY), (-100, CURRENCY))
    # As after a commit; a table whose deferred checks are still to come cannot be truncated anyhow.
    await session.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
    with pytest.raises(sqlalchemy.exc.DBAPIError) as refused:
        async with session.begin_nested():
            await session.execute(text(statement))
    assert db.constraint_name(refused.value) == "ledger_append_only"
    assert (await session.execute(select(func.sum(func.abs(Posting.amount_minor))))).scalar_one() == 200


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"amount_minor": 0}, "ck_postings_amount"),
        ({"currency": "pkr"}, "ck_postings_currency"),
        ({"account": Account.CUSTOMER_PENDING}, "ck_postings_dimension"),
        ({"account": Account.MARGIN}, "ck_postings_dimension"),
        ({"transfer_id": UUID(int=0)}, "fk_postings_transfer_id_transfers"),
    ],
)
async def test_posting_that_cannot_be_is_refused_by_the_database(
    session: AsyncSession, changes: dict[str, Any], constraint: str
) -> None:
    transfer_id = await post(session, (100, CURRENCY), (-100, CURRENCY))
    line = {"transfer_id": transfer_id, "account": Account.CASH, "amount_minor": 1, "currency": CURRENCY, **changes}
    with pytest.raises(sqlalchemy.exc.IntegrityError) as refused:
        await add_in_savepoint(session, Posting(**line))
    assert db.constraint_name(refused.value) == constraint


async def test_same_cause_and_purpose_is_posted_once(session: AsyncSession) -> None:
    first = await session.get_one(Transfer, await post(session, (5, CURRENCY), (-5, CURRENCY)))
    repeat = Transfer(cause_type=first.cause_type, cause_id=first.cause_id, purpose=first.purpose, details={})
    with pytest.raises(sqlalchemy.exc.IntegrityError) as refused:
        await add_in_savepoint(session, repeat)
    assert db.constraint_name(refused.value) == "uq_transfers_cause_type_cause_id_purpose"


async def test_every_connection_carries_our_timeouts(committed_db: Settings) -> None:
    shown = {}
    async with db.transaction() as session:
        for name in (
            "statement_timeout",
            "lock_timeout",
            "idle_in_transaction_session_timeout",
            "client_connection_check_interval",
            "timezone",
            "application_name",
            "jit",
        ):
            shown[name] = (await session.execute(text(f"SHOW {name}"))).scalar_one()
    assert shown == {
        "statement_timeout": "10s",
        "lock_timeout": "5s",
        "idle_in_transaction_session_timeout": "30s",
        "client_connection_check_interval": "5s",
        "timezone": "UTC",
        "application_name": "tests",
        "jit": "off",
    }


@pytest.mark.parametrize(
    ("change", "statement", "state"),
    [
        ({"db_statement_timeout_seconds": 0.05}, "SELECT pg_sleep(10)", "57014"),
        ({"db_lock_timeout_seconds": 0.05}, "LOCK TABLE staff_keys IN ACCESS EXCLUSIVE MODE", "55P03"),
    ],
)
async def test_server_ends_what_takes_too_long_and_the_client_may_try_again(
    committed_db: Settings, change: dict[str, float], statement: str, state: str
) -> None:
    impatient = committed_db.model_copy(update=change)
    engine = db.create_engine(impatient, application_name="impatient", pool_size=1, max_overflow=0)
    try:
        async with db.transaction() as session:
            await session.execute(select(StaffKey))  # holds a lock that the second statement has to wait for
            async with engine.connect() as connection:
                with pytest.raises(sqlalchemy.exc.DBAPIError) as ended:
                    await connection.execute(text(statement))
        assert db.sqlstate(ended.value) == state
        assert db.is_unavailable(ended.value)
    finally:
        await engine.dispose()


async def test_connection_that_the_server_ended_is_replaced_unnoticed(committed_db: Settings) -> None:
    async with db.transaction() as session:
        pid = (await session.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    administrator = await asyncpg.connect(committed_db.database_url)
    try:
        assert await administrator.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
    finally:
        await administrator.close()
    async with db.transaction() as session:
        assert (await session.execute(text("SELECT pg_backend_pid()"))).scalar_one() != pid


async def test_read_only_primary_is_left_for_a_new_connection(committed_db: Settings) -> None:
    first = None

    async def write_to_a_standby() -> None:
        nonlocal first
        async with db.transaction() as session:
            first = (await session.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            await session.execute(text("SET TRANSACTION READ ONLY"))
            await staff.create_key(session, name="x", role=StaffRole.VIEWER)

    with pytest.raises(sqlalchemy.exc.DBAPIError) as refused:
        await write_to_a_standby()
    assert db.sqlstate(refused.value) == "25006"
    assert db.is_unavailable(refused.value)
    async with db.transaction() as session:
        assert (await session.execute(text("SELECT pg_backend_pid()"))).scalar_one() != first


async def test_errors_name_no_parameters(committed_db: Settings) -> None:
    with pytest.raises(sqlalchemy.exc.DBAPIError) as refused:
        async with db.transaction() as session:
            await session.execute(text("SELECT 1 / length(:secret)"), {"secret": ""})
    assert "SQL parameters hidden" in str(refused.value)
    with pytest.raises(sqlalchemy.exc.DBAPIError) as refused:
        async with db.transaction() as session:
            await session.execute(text("SELECT no_such_function(:secret)"), {"secret": "hunter2"})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(("processes", "fits"), [(1, True), (256, False)])
async def test_connection_budget_beyond_the_server_is_warned_about(
    committed_db: Settings, caplog: pytest.LogCaptureFixture, processes: int, fits: bool
) -> None:
    settings = committed_db.model_copy(update={"web_concurrency": processes})
    with caplog.at_level(logging.WARNING, logger="app.db"):
        assert await db.check_connection_budget(settings) is fits
    assert metrics.DB_CONNECTION_BUDGET._value.get() == settings.connection_budget
    assert metrics.DB_CONNECTION_LIMIT._value.get() > 0
    warnings = [record for record in caplog.records if "connection budget" in record.message]
    assert len(warnings) == (0 if fits else 1)
    for record in warnings:
        assert record.__dict__["budget"] == settings.connection_budget
        assert record.__dict__["api_processes"] == processes


async def test_without_a_bell_committed_work_is_left_to_the_sweep(committed_db: Settings) -> None:
    db.set_bell(None)
    async with db.transaction() as session:
        await staff.create_key(session, name="quiet", role=StaffRole.VIEWER)
        ring_after_commit(session, "look")
    assert await count(StaffKey) == 1


@pytest.mark.parametrize("idle_seconds", [0.0, 3600.0])
async def test_a_connection_that_the_server_ended_is_not_handed_out(
    committed_db: Settings, idle_seconds: float
) -> None:
    settings = committed_db.model_copy(update={"db_pool_ping_after_idle_seconds": idle_seconds})
    engine = db.create_engine(settings, application_name="ended", pool_size=3, max_overflow=0)
    connections = [await engine.connect() for _ in range(3)]
    for connection in connections:
        await connection.execute(text("SELECT 1"))
        await connection.close()
    async with db.transaction() as session:
        ended = await session.scalars(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ended'")
        )
        assert ended.all() == [True] * 3
    async with asyncio.timeout(10):
        while True:
            async with db.transaction() as session:
                left = await session.scalars(
                    text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ended'")
                )
                if left.one() == 0:
                    break
    for _ in range(3):
        async with engine.connect() as connection:
            assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
    await engine.dispose()
