"""PostgreSQL: the engine of this process, sessions, and the one place where transactions begin and end.

A service flushes and never commits; `transaction()` commits. Work for the job workers is noted on the
session (`ring_after_commit`) and announced only once the commit has succeeded. Hot reads go without: `app/reads.py`.
"""

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any
from weakref import WeakSet

import sqlalchemy.exc
from sqlalchemy import Dialect, Engine, UpdateBase, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, Pool

from app import metrics
from app.config import Settings
from app.ids import new_id

logger = logging.getLogger(__name__)

# Built by the lifespan of an API or worker process (`open_database`), never at import.
engine: AsyncEngine | None = None
AsyncSessionLocal: async_sessionmaker[AsyncSession] = async_sessionmaker(expire_on_commit=False)

# SQLSTATEs that say "this server will not serve you": read-only after a failover, and shutdown in progress.
DISCONNECT_SQLSTATES = frozenset({"25006", "57P01", "57P02", "57P03"})
# SQLSTATE classes and codes that trying the same again can cure.
_RETRYABLE_SQLSTATES = ("08", "40001", "40P01", "53", "55P03", "57", "25006")
_RINGS = "rings"
_LAST = "last"
_CONNECT_SECONDS = 3


@dataclass(frozen=True, slots=True)
class Ring:
    """A word to the job workers: "look now". Only ids travel; the row in PostgreSQL is what must be done."""

    task: str
    args: tuple[str, ...] = ()


def _no_bell(rings: Sequence[Ring]) -> None:
    """Without a doorbell (a command-line tool, say) the workers' sweep finds the rows by itself."""


_bell: Callable[[Sequence[Ring]], None] = _no_bell
# The driver's connections that are cut off in silence.
_open: WeakSet[Any] = WeakSet()
_is_silent = False


def set_bell(bell: Callable[[Sequence[Ring]], None] | None) -> None:
    """Choose what announces committed work; None goes back to leaving it to the sweep."""
    global _bell  # noqa: PLW0603 - one bell a process, set by its lifespan
    _bell = bell or _no_bell


def ring_after_commit(session: AsyncSession, task: str, *args: str) -> None:
    """Announce work to the job workers once this session's transaction has been committed."""
    session.info.setdefault(_RINGS, {})[Ring(task, args)] = None


def before_commit(session: AsyncSession, statement: UpdateBase) -> None:
    """Run a statement as the last of this session's transaction, once however often it is asked for.

    For a row that many transactions change: each then holds its lock for the commit alone, and waits for nobody after.
    """
    session.info.setdefault(_LAST, {})[statement] = None


def create_engine(
    settings: Settings, *, application_name: str, pool_size: int, max_overflow: int, url: str | None = None
) -> AsyncEngine:
    """Build an engine whose every connection carries our timeouts, so that no statement can hang for ever."""
    created = create_async_engine(
        url or settings.sqlalchemy_url,
        pool_size=pool_size,
        max_overflow=max_overflow,
        pool_recycle=settings.db_pool_recycle_seconds,
        pool_timeout=settings.db_pool_timeout_seconds,
        # Parameters hold e-mail addresses and hashes; an exception's text ends up in a log.
        hide_parameters=True,
        connect_args=connect_options(settings, application_name) | _statement_options(settings),
    )
    event.listen(created.sync_engine, "handle_error", _treat_as_disconnect)
    if url is None:
        # First: whoever connects ends the search.
        _heed_silence(created.sync_engine)
    event.listen(created.sync_engine, "do_connect", _connect)
    _detect_dead_connections(created.sync_engine, ping_after_seconds=settings.db_pool_ping_after_idle_seconds)
    _count_connections(created.sync_engine.pool)
    return created


def connect_options(settings: Settings, application_name: str) -> dict[str, Any]:
    """Return what every connection of ours is opened with, whoever opens it."""
    options: dict[str, Any] = {
        "timeout": _CONNECT_SECONDS,
        # The server enforces statement_timeout; this ends the wait when the server itself is gone.
        "command_timeout": settings.db_statement_timeout_seconds + 2,
        "server_settings": {"application_name": application_name, "timezone": "UTC"},
    }
    if settings.db_transaction_pooling:
        # Behind a pooler the next statement may meet another server process; what belongs to one, such as the settings
        # below, is the role's to have: docs/reliability.md.
        return options | {"statement_cache_size": 0}
    options["server_settings"] |= {
        "statement_timeout": _milliseconds(settings.db_statement_timeout_seconds),
        "lock_timeout": _milliseconds(settings.db_lock_timeout_seconds),
        "idle_in_transaction_session_timeout": _milliseconds(settings.db_idle_in_transaction_timeout_seconds),
        "client_connection_check_interval": "5s",
        # Compiling a plan costs more than any of our short statements can win back.
        "jit": "off",
    }
    return options


def _statement_options(settings: Settings) -> dict[str, Any]:
    """Return what SQLAlchemy, beside the driver, must know of prepared statements."""
    if not settings.db_transaction_pooling:
        return {}
    # Names that no other client of the same server process has.
    return {"prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: f"cashback_{new_id().hex}"}


async def open_database(settings: Settings, *, application_name: str, pool_size: int, max_overflow: int) -> AsyncEngine:
    """Build this process's engine and bind the session factory to it."""
    global engine  # noqa: PLW0603 - one engine a process, built by its lifespan
    engine = create_engine(settings, application_name=application_name, pool_size=pool_size, max_overflow=max_overflow)
    AsyncSessionLocal.configure(bind=engine)
    return engine


async def close_database() -> None:
    """Close every pooled connection of this process."""
    global engine  # noqa: PLW0603 - see open_database
    if engine is not None:
        await engine.dispose()
        engine = None


def note_silence(*, is_silent: bool) -> None:
    """Say that this process's server has stopped answering, or answers again.

    While it does not, nobody gets a connection, and whoever waits for an answer is told that there is none: a frozen
    server would hold each request until the end of its statement's time.
    """
    global _is_silent  # noqa: PLW0603 - one server a process
    _is_silent = is_silent
    if is_silent and engine is not None:
        # A pool of none: to part from a server that does not answer takes time, too.
        engine.sync_engine.dispose(close=False)
        for connection in list(_open):
            connection.terminate()


def require_answers() -> None:
    """Raise TimeoutError while the server does not answer."""
    if _is_silent:
        raise TimeoutError("PostgreSQL does not answer")


def cut_off_in_silence(connection: Any) -> None:  # noqa: ANN401 - the driver's
    """Have a connection closed when the server stops answering, so that nobody waits on it."""
    _open.add(connection)


@asynccontextmanager
async def transaction() -> AsyncIterator[AsyncSession]:
    """One unit of work: commits when the block ends, rolls back when it raises, then announces its rings."""
    async with AsyncSessionLocal() as session:
        async with session.begin():
            yield session
            for statement in session.info.pop(_LAST, ()):
                await session.execute(statement)
        if rings := session.info.pop(_RINGS, None):
            _bell(list(rings))


@asynccontextmanager
async def undone(session: AsyncSession) -> AsyncIterator[None]:
    """A part of a transaction of which nothing stays: rolled back when the block ends, and none of it announced."""
    rings = dict(session.info.get(_RINGS, {}))
    savepoint = await session.begin_nested()
    try:
        yield
    finally:
        await savepoint.rollback()
        session.info[_RINGS] = rings


@dataclass(slots=True)
class Trial:
    """Whether nothing of a part of a transaction shall stay."""

    undo: bool = False


@asynccontextmanager
async def tried(session: AsyncSession) -> AsyncIterator[Trial]:
    """A part of a transaction that may say, once it is done, that nothing of it shall stay nor be announced."""
    rings, trial = dict(session.info.get(_RINGS, {})), Trial()
    savepoint = await session.begin_nested()
    try:
        yield trial
    except BaseException:
        trial.undo = True
        raise
    finally:
        if trial.undo:
            await savepoint.rollback()
            session.info[_RINGS] = rings
        else:
            await savepoint.commit()


async def get_db() -> AsyncIterator[AsyncSession]:
    """Provide a request's session. The commit happens before the answer is sent (see `SessionDep`)."""
    async with transaction() as session:
        yield session


async def check_connection_budget(settings: Settings) -> bool:
    """Warn when this host's processes may ask for more connections than the server allows; True when they fit."""
    async with AsyncSessionLocal() as session:
        row = (
            await session.execute(
                text(
                    "SELECT current_setting('max_connections')::int"
                    " - current_setting('superuser_reserved_connections')::int"
                )
            )
        ).scalar_one()
    metrics.DB_CONNECTION_BUDGET.set(settings.connection_budget)
    metrics.DB_CONNECTION_LIMIT.set(row)
    if settings.connection_budget <= row:
        return True
    logger.warning(
        "connection budget exceeds what the server allows: lower DB_POOL_SIZE, DB_MAX_OVERFLOW or WEB_CONCURRENCY,"
        " raise max_connections, or put PgBouncer in between",
        extra={
            "budget": settings.connection_budget,
            "available": row,
            "api_processes": settings.web_concurrency,
            "connections_per_api_process": settings.connections_per_api_process,
            "job_worker_processes": settings.job_worker_processes,
        },
    )
    return False


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of a database error, wherever the driver wrapped it; None for other errors."""
    seen: BaseException | None = getattr(error, "orig", None) or error
    while seen is not None:
        state = getattr(seen, "sqlstate", None)
        if isinstance(state, str):
            return state
        seen = seen.__cause__
    return None


def is_unavailable(error: Exception) -> bool:
    """Whether the database, rather than the statement, is at fault: the same may succeed soon."""
    if isinstance(error, sqlalchemy.exc.TimeoutError | ConnectionError | TimeoutError):
        return True
    state = sqlstate(error)
    if state is not None:
        return state.startswith(_RETRYABLE_SQLSTATES)
    return isinstance(error, sqlalchemy.exc.DBAPIError) and error.connection_invalidated


def constraint_name(error: BaseException) -> str | None:
    """Return the name of the constraint that refused a statement, or None."""
    seen: BaseException | None = getattr(error, "orig", None) or error
    while seen is not None:
        name = getattr(seen, "constraint_name", None)
        if isinstance(name, str):
            return name
        seen = seen.__cause__
    return None


def _milliseconds(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _connect(dialect: Dialect, _: object, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:  # noqa: ANN401 - the driver's
    """Connect; an unknown host, a missing socket and the like become a ConnectionError, which says what is at fault."""
    try:
        return dialect.connect(*arguments, **options)
    except OSError as error:
        if isinstance(error, TimeoutError) and isinstance(options.get("host"), list):
            # The time is for all hosts together, and the first has used it up: the others have their turn first now.
            for one in (options["host"], options["port"]):
                one.append(one.pop(0))
        raise ConnectionError("PostgreSQL cannot be reached") from error


def _treat_as_disconnect(context: object) -> None:
    """Drop the pool after a failover: a read-only primary answers, but will never take a write."""
    original = getattr(context, "original_exception", None)
    if original is not None and sqlstate(original) in DISCONNECT_SQLSTATES:
        context.is_disconnect = True  # type: ignore[attr-defined]  # SQLAlchemy's ExceptionContext


def _detect_dead_connections(engine: Engine, *, ping_after_seconds: float) -> None:
    """Replace a pooled connection that is dead before anyone gets it.

    `pool_pre_ping` would ask the server at each checkout, three round trips on asyncpg. But the event loop has noticed
    a closed socket already, so a restarted server costs no question; only a connection that was idle for a while,
    whose other end may have vanished without a word, is asked.
    """

    def checked_in(_: object, record: ConnectionPoolEntry) -> None:
        record.info["idle_since"] = monotonic()

    def checked_out(connection: DBAPIConnection, record: ConnectionPoolEntry, _: object) -> None:
        if connection.driver_connection.is_closed():
            raise sqlalchemy.exc.DisconnectionError("closed by the server")
        idle_since = record.info.pop("idle_since", None)
        if idle_since is None or monotonic() - idle_since < ping_after_seconds:
            return
        try:
            engine.dialect.do_ping(connection)
        except Exception as error:
            raise sqlalchemy.exc.DisconnectionError("no answer to a ping") from error

    event.listen(engine.pool, "checkin", checked_in)
    event.listen(engine.pool, "checkout", checked_out)


def _count_connections(pool: Pool) -> None:
    def checked_out(*_: object) -> None:
        metrics.DB_POOL_IN_USE.inc()

    def checked_in(*_: object) -> None:
        metrics.DB_POOL_IN_USE.dec()

    event.listen(pool, "checkout", checked_out)
    event.listen(pool, "checkin", checked_in)


def _heed_silence(engine: Engine) -> None:
    """Give no connection to a server that does not answer, and know whom to tell when it stops (`note_silence`)."""

    def connected(connection: DBAPIConnection, _: object) -> None:
        cut_off_in_silence(connection.driver_connection)

    event.listen(engine, "do_connect", lambda *_: require_answers())
    event.listen(engine.pool, "connect", connected)
