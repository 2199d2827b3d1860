"""Whether the database's schema is one that this code can work with: its own, or a newer one during a rollout."""

import asyncio
import logging
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import sqlalchemy.exc
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import sqlstate
from app.errors import UnavailableError

logger = logging.getLogger(__name__)

_MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"
_VERSION = text("SELECT version_num FROM alembic_version")
_UNDEFINED_TABLE = "42P01"
_LOOK_SECONDS = 0.5


class SchemaTooOldError(UnavailableError):
    """The database waits for migrations that this code needs."""

    code = "schema_too_old"
    title = "Schema too old"

    def __init__(self, found: str | None, needed: str) -> None:
        super().__init__(f"the schema is at {found or 'nothing'}, this version needs {needed}: run `cashback migrate`")


@cache
def known_revisions() -> tuple[str, frozenset[str]]:
    """Return the newest revision that this code knows, and all of them."""
    scripts = ScriptDirectory(str(_MIGRATIONS))
    return scripts.get_current_head() or "", frozenset(script.revision for script in scripts.walk_revisions())


async def require_schema(engine: AsyncEngine | None) -> None:
    """Ask the database for its version. Raises SchemaTooOldError, or what the driver raises when it does not answer.

    Migrations expand before they contract, so a version that this code has never heard of is newer, and serves it.
    """
    if engine is None:
        raise ConnectionError("the engine is not built")
    head, known = known_revisions()
    async with engine.connect() as connection:
        try:
            found = await connection.scalar(_VERSION)
        except sqlalchemy.exc.DBAPIError as error:
            if sqlstate(error) != _UNDEFINED_TABLE:
                raise
            found = None
    if found is None or (found != head and found in known):
        raise SchemaTooOldError(found, head)


async def wait_for_schema(engine: AsyncEngine, *, seconds: float, stop: asyncio.Event) -> None:
    """Wait until the database answers and is migrated, or until `stop`. Raises what was last in the way, when late."""
    deadline = time.monotonic() + seconds
    is_told = False
    while not stop.is_set():
        try:
            await require_schema(engine)
        except (SchemaTooOldError, sqlalchemy.exc.SQLAlchemyError, OSError, TimeoutError) as error:
            if time.monotonic() >= deadline:
                raise
            if not is_told:
                reason = error.detail if isinstance(error, SchemaTooOldError) else type(error).__name__
                logger.warning("waiting for the database", extra={"reason": reason, "at_most_seconds": seconds})
                is_told = True
        else:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                await stop.wait()
