"""A small business loaded once, and what statements really do on it: captured as they run, then explained."""

import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson
import pytest
from sqlalchemy import event

from app import db
from app.config import Settings
from benchmarks.scale_data import Loaded, Sizes, load_business
from tests.conftest import copied, make_settings
from tests.servers import database_url, redis_url

SIZES = Sizes(customers=5_000, merchants=40, offers=20_000, orders=6_000)
# Smaller ones are read as a whole, and rightly so.
_BIG_ROWS = 5_000
# Most rows that one node of a plan may read for one call: a slice of the ledger has 2,000 keys, of five lines each.
MOST_ROWS = 20_000
_READS = re.compile(r"\s*(SELECT|WITH(?!.*\b(INSERT|UPDATE|DELETE)\b))", re.DOTALL)
_WRITES = re.compile(r"\s*(WITH|UPDATE|DELETE)\b")
_SETTING = re.compile(r"\bset_config\(|^SET LOCAL ")

Job = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement as the driver sent it."""

    query: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Scan:
    """What a plan reads of a table: how, and how many rows in all, those included that a filter threw away."""

    table: str
    how: str
    rows: int

    def __str__(self) -> str:
        return f"{self.how} of {self.table}, {self.rows} rows"


@dataclass(frozen=True, slots=True)
class Business:
    """The loaded database, and which of its tables are big."""

    settings: Settings
    loaded: Loaded
    big: frozenset[str]

    async def scans(self, work: Job, *, given: Sequence[str] = (), generic: bool = False) -> list[Scan]:
        """Run some work, undo it, and return how its statements read the big tables.

        `given`: statements that make what the work is about. `generic`: explain plans that are made for any parameters,
        which must be texts or numbers.
        """
        assert db.engine is not None
        async with db.engine.connect() as connection:
            raw: Any = (await connection.get_raw_connection()).driver_connection
            statements: list[Statement] = []

            def note(record: asyncpg.connection.LoggedQuery) -> None:
                # The driver's executemany, with a tuple for each time, is SQLAlchemy's too.
                if not (record.args and isinstance(record.args[0], tuple)):
                    statements.append(Statement(record.query, tuple(record.args or ())))

            def note_session(_: Any, __: Any, query: str, parameters: Any, ___: Any, many: bool) -> None:
                statements.extend(Statement(query, tuple(once)) for once in (parameters if many else [parameters]))

            outer = await connection.begin()
            for statement in given:
                await connection.exec_driver_sql(statement)
            db.AsyncSessionLocal.configure(bind=connection, join_transaction_mode="create_savepoint")
            raw.add_query_logger(note)
            event.listen(db.engine.sync_engine, "before_cursor_execute", note_session)
            try:
                await work()
            finally:
                event.remove(db.engine.sync_engine, "before_cursor_execute", note_session)
                raw.remove_query_logger(note)
                db.AsyncSessionLocal.configure(bind=db.engine, join_transaction_mode="conditional_savepoint")
                await outer.rollback()
            assert statements
            # Once more in the same order and from the same state, what writes by its estimates alone.
            again = raw.transaction()
            await again.start()
            try:
                for statement in given:
                    await raw.execute(statement)
                plans = [plan for one in statements if (plan := await _explain(raw, one, generic=generic))]
            finally:
                await again.rollback()
        return [scan for plan in plans for scan in _scans(plan) if scan.table in self.big]

    async def assert_bounded(
        self, work: Job, *, given: Sequence[str] = (), most_rows: int = MOST_ROWS, generic: bool = False
    ) -> None:
        """Hold that some work reads no big table as a whole, and only so many rows in one place."""
        scans = await self.scans(work, given=given, generic=generic)
        assert [str(scan) for scan in scans if scan.how == "Seq Scan" or scan.rows > most_rows] == []


async def _explain(raw: asyncpg.Connection, statement: Statement, *, generic: bool) -> dict[str, Any] | None:
    query, arguments = statement.query, statement.arguments
    if _SETTING.search(query):
        await raw.fetch(query, *arguments)
        return None
    reads = _READS.match(query) is not None
    if not reads and not _WRITES.match(query):
        return None
    if generic and arguments and all(isinstance(one, str | int) for one in arguments):
        await raw.execute("DEALLOCATE ALL")
        await raw.execute(f"PREPARE probe AS {query}")
        query, arguments = f"EXECUTE probe({', '.join(map(_quoted, arguments))})", ()
    shown = await raw.fetchval(f"EXPLAIN ({'ANALYZE, TIMING OFF, ' if reads else ''}FORMAT JSON) {query}", *arguments)
    plan: dict[str, Any] = (orjson.loads(shown) if isinstance(shown, str) else shown)[0]["Plan"]
    return plan


def _quoted(value: str | int) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _scans(plan: dict[str, Any]) -> Iterator[Scan]:
    if "Relation Name" in plan and plan["Node Type"] != "ModifyTable" and plan.get("Actual Loops", 1):
        rows = plan.get("Actual Rows", plan["Plan Rows"]) + plan.get("Rows Removed by Filter", 0)
        yield Scan(plan["Relation Name"], plan["Node Type"], round(rows * plan.get("Actual Loops", 1)))
    for part in plan.get("Plans", ()):
        yield from _scans(part)


@pytest.fixture(scope="session")
async def loaded_business(template: str, worker_number: int) -> AsyncIterator[Business]:
    """The business in a database of its own, made once for a process of tests."""
    async with copied(template) as name:
        settings = make_settings(database_url=database_url(name), redis_url=redis_url(worker_number % 16))
        await db.open_database(settings, application_name="tests", pool_size=2, max_overflow=0)
        try:
            loaded = await load_business(settings, SIZES, is_superuser="DATABASE_URL" not in os.environ)
        finally:
            await db.close_database()
            db.AsyncSessionLocal.configure(bind=None)
        connection = await asyncpg.connect(settings.database_url)
        try:
            rows = await connection.fetch(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
                " AND reltuples >= $1",
                _BIG_ROWS,
            )
        finally:
            await connection.close()
        yield Business(settings, loaded, frozenset(row["relname"] for row in rows))


@pytest.fixture
async def business(loaded_business: Business) -> AsyncIterator[Business]:
    """The same with the database opened, as a worker has it. Nothing that a test does stays."""
    await db.open_database(loaded_business.settings, application_name="tests", pool_size=1, max_overflow=0)
    try:
        yield loaded_business
    finally:
        await db.close_database()
        db.AsyncSessionLocal.configure(bind=None)
