"""Hot reads: statements that are compiled once and run by the driver itself, without a session or a transaction.

CPU of a checkout and `SELECT $1`, six callers at once: 72 us by an engine's connection, 54 us by the engine's pool
alone, 33 us by the driver's pool below; 13 us are the statement's own. `make bench ONLY=reads` measures whole requests.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import asyncpg
from sqlalchemy import Dialect, Select, make_url
from sqlalchemy.dialects.postgresql import asyncpg as asyncpg_dialect
from sqlalchemy.ext.asyncio import AsyncConnection

from app import db_watch, metrics
from app.config import Settings, sqlalchemy_url
from app.db import (
    DISCONNECT_SQLSTATES,
    AsyncSessionLocal,
    connect_options,
    cut_off_in_silence,
    require_answers,
    sqlstate,
)

_DIALECT: Dialect = asyncpg_dialect.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy types it not
_CLOSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class _Pool:
    connections: "asyncpg.Pool[asyncpg.Record]"
    timeout_seconds: float
    is_replica: bool


# Built by the lifespan of an API process; elsewhere a read goes by the sessions' connections.
_pool: _Pool | None = None
_replica: _Pool | None = None


async def open_pool(settings: Settings, *, application_name: str) -> None:
    """Build this process's pools; their connections are opened when they are wanted first."""
    global _pool, _replica  # noqa: PLW0603 - one a process, built by its lifespan
    _pool = await _open(settings, settings.sqlalchemy_url, application_name, is_replica=False)
    if settings.database_replica_url:
        url = sqlalchemy_url(settings.database_replica_url)
        _replica = await _open(settings, url, f"{application_name}-replica", is_replica=True)


async def _open(settings: Settings, url: str, application_name: str, *, is_replica: bool) -> _Pool:
    _, options = _DIALECT.create_connect_args(make_url(url))
    # What the URL tells SQLAlchemy alone, as behind a PgBouncer that knows no prepared statements.
    if options.pop("prepared_statement_cache_size", None) == 0:
        options["statement_cache_size"] = 0
    options.pop("prepared_statement_name_func", None)
    connections = await asyncpg.create_pool(
        **options,
        **connect_options(settings, application_name),
        min_size=0,
        max_size=settings.db_read_pool_size,
        max_inactive_connection_lifetime=max(0, settings.db_pool_recycle_seconds),
        reset=_leave_as_it_is,
        init=None if is_replica else _cut_off_in_silence,
    )
    return _Pool(connections, settings.db_pool_timeout_seconds, is_replica)


async def close_pool() -> None:
    """Close every connection of the pools."""
    global _pool, _replica  # noqa: PLW0603 - see open_pool
    for pool in filter(None, (_replica, _pool)):
        with contextlib.suppress(TimeoutError):  # what is still in use is cut off then
            async with asyncio.timeout(_CLOSE_SECONDS):
                await pool.connections.close()
    _pool = _replica = None


@dataclass(frozen=True, slots=True)
class Read:
    """A statement as the driver takes it: SQL, the names of its parameters by position, and those that never change."""

    sql: str
    names: tuple[str, ...]
    constants: Mapping[str, Any]
    # What it reads may be some seconds old, and is nobody's own: it is read from the replica, if that is near enough.
    tolerates_lag: bool

    @classmethod
    def of(cls, statement: Select[*tuple[Any, ...]], *, tolerates_lag: bool = False) -> Self:
        """Compile a statement. Only columns that the driver returns as they are wanted: nothing converts them."""
        compiled: Any = statement.compile(dialect=_DIALECT)
        wanted = dict.fromkeys(name for name, bind in compiled.binds.items() if bind.required)
        state = compiled.construct_expanded_state(wanted)
        constants = {name: value for name, value in state.parameters.items() if name not in wanted}
        return cls(state.statement, tuple(state.positiontup), constants, tolerates_lag)

    async def fetch(self, **parameters: Any) -> list[asyncpg.Record]:  # noqa: ANN401 - what the statement takes
        """Return the rows, of what is committed now. Raises TimeoutError when no connection is free in time.

        A connection that breaks is replaced once: to read twice does no harm, so nobody has to ask beforehand whether
        the server is still there.
        """
        values = {**self.constants, **parameters}
        arguments = [values[name] for name in self.names]
        if _pool is None:
            return await _fetch_beside_sessions(self.sql, arguments)
        if self.tolerates_lag and _replica is not None:
            if (rows := await _fetch_from_replica(_replica, self.sql, arguments)) is not None:
                return rows
            metrics.READS.labels("primary").inc()
        try:
            return await _fetch(_pool, self.sql, arguments)
        except (OSError, asyncpg.InterfaceError, asyncpg.PostgresError) as error:
            if not _is_broken(error):
                raise
        try:
            return await _fetch(_pool, self.sql, arguments)
        except (OSError, asyncpg.InterfaceError) as error:
            if not _is_broken(error):
                raise
            raise ConnectionError("PostgreSQL cannot be reached") from error


async def _fetch_from_replica(pool: _Pool, sql: str, arguments: Sequence[Any]) -> list[asyncpg.Record] | None:
    """Return the rows, or None when the primary is to be asked."""
    if not db_watch.replica_is_fit():
        return None
    try:
        rows = await _fetch(pool, sql, arguments)
    except (OSError, asyncpg.InterfaceError, asyncpg.PostgresError) as error:
        # A replica may cancel a read that stands in the way of what it has to replay: 40001.
        if not (_is_broken(error) or isinstance(error, TimeoutError) or sqlstate(error) == "40001"):
            raise
        db_watch.distrust_replica()
        return None
    metrics.READS.labels("replica").inc()
    return rows


async def _fetch(pool: _Pool, sql: str, arguments: Sequence[Any]) -> list[asyncpg.Record]:
    if not pool.is_replica:
        require_answers()
    async with asyncio.timeout(pool.timeout_seconds):  # the pool's own would make a task of each call
        connection = await pool.connections.acquire()
    metrics.DB_POOL_IN_USE.inc()
    try:
        return await connection.fetch(sql, *arguments)
    finally:
        metrics.DB_POOL_IN_USE.dec()
        await pool.connections.release(connection)


async def _fetch_beside_sessions(sql: str, arguments: Sequence[Any]) -> list[asyncpg.Record]:
    """Read on a connection of the sessions: in a test, within its transaction."""
    bind = AsyncSessionLocal.kw["bind"]
    async with contextlib.AsyncExitStack() as stack:
        if not isinstance(bind, AsyncConnection):
            bind = await stack.enter_async_context(bind.connect())
        driver: Any = (await bind.get_raw_connection()).driver_connection
        rows: list[asyncpg.Record] = await driver.fetch(sql, *arguments)
        return rows


def _is_broken(error: Exception) -> bool:
    """Whether the connection, and not the statement, is at fault."""
    if isinstance(error, asyncpg.PostgresError):
        state = sqlstate(error) or ""
        return state.startswith("08") or state in DISCONNECT_SQLSTATES
    return not isinstance(error, TimeoutError | ValueError)  # a value that does not fit the statement


async def _leave_as_it_is(_: object) -> None:
    """A read leaves nothing behind on its connection; the pool's own way to make sure is a round trip."""


async def _cut_off_in_silence(connection: Any) -> None:  # noqa: ANN401 - the driver's, behind a proxy
    """Let nobody wait on it for a server that does not answer."""
    cut_off_in_silence(connection)
