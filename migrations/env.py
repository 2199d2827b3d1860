"""Runs Alembic over asyncpg. A migration that meets a lock gives up within seconds: the API keeps serving."""

import asyncio
import os
from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

from app.config import sqlalchemy_url
from app.models import Base
from app.models.base import TextEnum

# Shorter than any client's patience: waiting longer would queue every later statement behind us.
LOCK_TIMEOUT = "4s"


def _url() -> str:
    """Take the URL that the caller set on the configuration (`cashback migrate`), or DATABASE_URL."""
    url = context.config.get_main_option("sqlalchemy.url") or os.environ.get("DATABASE_URL")
    if not url:
        raise SystemExit("set DATABASE_URL, or run `cashback migrate`")
    return sqlalchemy_url(url)


def _render_item(kind: str, item: Any, _: AutogenContext) -> str | Literal[False]:  # noqa: ANN401 - Alembic's signature
    """A migration must not import the application: what it imports today may be gone tomorrow."""
    return "sa.Text()" if kind == "type" and isinstance(item, TextEnum) else False


def _include_name(name: str | None, kind: str, _: object) -> bool:
    """Leave partitions out: they come and go by month."""
    return not (kind == "table" and (name or "").startswith("clicks_"))


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_name=_include_name,
        compare_type=True,
        compare_server_default=True,
        transaction_per_migration=True,
        render_item=_render_item,
    )
    with context.begin_transaction():
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
        context.run_migrations()


async def _run_online() -> None:
    engine = create_async_engine(_url(), poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(_run)
        await connection.commit()
    await engine.dispose()


if context.is_offline_mode():
    raise SystemExit("offline mode is not supported: the migrations look at the database")
asyncio.run(_run_online())
