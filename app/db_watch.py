"""Watches the primary and the replica from within an API process: who is silent, and how far the replica is behind.

Each is asked twice a second, on a connection of its own, where it stands in the write-ahead log. A primary that is
frozen would hold each request until the end of its statement's time; a replica that is dead or stale must not be read.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any

import asyncpg
from sqlalchemy import Dialect, make_url
from sqlalchemy.dialects.postgresql import asyncpg as asyncpg_dialect
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app import db, metrics
from app.config import Settings, sqlalchemy_url

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_SILENCE_SECONDS = 2.0
_MOST_MARKS = 10_000
_POSITION = """
    SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - '0/0')::bigint
"""


class _Server:
    """One server, asked again and again."""

    def __init__(self, settings: Settings, url: str) -> None:
        dialect: Dialect = asyncpg_dialect.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy types it not
        _, options = dialect.create_connect_args(make_url(url))
        self._options: dict[str, Any] = {**options, **db.connect_options(settings, "cashback-watch")}
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self.is_silent = False

    async def ask(self) -> int | None:
        """Return where it stands, or None when it does not say."""
        asking = asyncio.create_task(self._position())
        try:
            # Not a timeout: when our own loop is late, the answer is there as well, and counts.
            await asyncio.wait({asking}, timeout=_SILENCE_SECONDS)
            self.is_silent = not asking.done()
            return None if self.is_silent else asking.result()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self.forget()
            return None
        finally:
            if not asking.done():
                self.forget()
                asking.cancel()
                with contextlib.suppress(Exception, asyncio.CancelledError):
                    await asking

    def forget(self) -> None:
        """Close the connection, without asking."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _position(self) -> int:
        if self._connection is None:
            self._connection = await asyncpg.connect(**self._options)
        position: int = await self._connection.fetchval(_POSITION)
        return position


class Watch:
    """What is known of both servers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._primary = _Server(settings, settings.sqlalchemy_url)
        self._replica: _Server | None = None
        # When the primary was first seen at positions that the replica has not reached.
        self._marks: deque[tuple[float, int]] = deque()
        self._is_fit = False
        self.engine: AsyncEngine | None = None
        if settings.database_replica_url:
            url = sqlalchemy_url(settings.database_replica_url)
            self._replica = _Server(settings, url)
            self.engine = db.create_engine(
                settings,
                application_name="cashback-api-replica",
                pool_size=settings.db_pool_size,
                max_overflow=settings.db_max_overflow,
                url=url,
            )

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch_primary())
                if self._replica is not None:
                    group.create_task(self._watch_replica(self._replica))
        finally:
            db.note_silence(is_silent=False)
            self._primary.forget()
            if self._replica is not None:
                self._replica.forget()

    def engine_for_reads(self) -> AsyncEngine | None:
        """Return the replica's engine, or None where there is none that is near enough to the primary."""
        return self.engine if self._is_fit else None

    def distrust(self) -> None:
        """Leave the replica alone until it is found fit again."""
        self._is_fit = False

    async def _watch_primary(self) -> None:
        was_silent = False
        while True:
            position = await self._primary.ask()
            # A pooler may have no server process for us while it has some for the requests: that is no silence.
            is_silent = self._primary.is_silent and not self._settings.db_transaction_pooling
            if is_silent != was_silent:
                db.note_silence(is_silent=is_silent)
                logger.warning("PostgreSQL is silent" if is_silent else "PostgreSQL answers again")
            was_silent = is_silent
            if position is not None and len(self._marks) < _MOST_MARKS and self._replica is not None:
                self._marks.append((monotonic(), position))
            await asyncio.sleep(_LOOK_SECONDS)

    async def _watch_replica(self, replica: _Server) -> None:
        while True:
            position = await replica.ask()
            while self._marks and position is not None and self._marks[0][1] <= position:
                self._marks.popleft()
            lag = monotonic() - self._marks[0][0] if self._marks else 0.0
            is_fit = position is not None and lag <= self._settings.database_replica_max_lag_seconds
            metrics.REPLICA_LAG.set(lag)
            if is_fit != self._is_fit:
                logger.warning("the replica is read" if is_fit else "the replica is not read", extra={"lag": lag})
            self._is_fit = is_fit
            await asyncio.sleep(_LOOK_SECONDS)


# Of an API process with a lifespan; elsewhere everything is read from the primary.
_watch: Watch | None = None


@asynccontextmanager
async def watching(settings: Settings) -> AsyncIterator[None]:
    """Watch while the block runs."""
    global _watch  # noqa: PLW0603 - one a process, built by its lifespan
    _watch = watch = Watch(settings)
    task = asyncio.create_task(watch.run(), name="db-watch")
    try:
        yield
    finally:
        _watch = None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        if watch.engine is not None:
            await watch.engine.dispose()


def replica_is_fit() -> bool:
    """Whether the replica may be read."""
    return _watch is not None and _watch.engine_for_reads() is not None


def distrust_replica() -> None:
    """Have the replica left alone until it is found fit again."""
    if _watch is not None:
        _watch.distrust()


@asynccontextmanager
async def reading(session: AsyncSession) -> AsyncIterator[AsyncSession]:
    """Yield a session for what may be some seconds old: one on the replica while that is fit, else the one given.

    Nothing of a customer's own is read so: who has just written must find it.
    """
    async with AsyncExitStack() as stack:
        on_replica = await _open_on_replica(stack)
        metrics.READS.labels("primary" if on_replica is None else "replica").inc()
        yield on_replica or session


async def _open_on_replica(stack: AsyncExitStack) -> AsyncSession | None:
    watch = _watch
    engine = watch.engine_for_reads() if watch is not None else None
    if watch is None or engine is None:
        return None
    try:
        # Begun here, so that a failure shows before anything was read.
        connection = await stack.enter_async_context(engine.connect())
    except Exception as error:
        if not db.is_unavailable(error):
            raise
        watch.distrust()
        return None
    session = await stack.enter_async_context(db.AsyncSessionLocal(bind=connection))
    await stack.enter_async_context(session.begin())
    return session
