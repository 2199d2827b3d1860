"""Rows on their way into `offers`: written by COPY, in batches, each in a short transaction of its own."""

from typing import Any
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import OfferStaging, SyncRun, SyncStatus
from app.services.sync.offers import STAGED_COLUMNS, StagedRow


async def raw_connection(session: AsyncSession) -> Any:  # noqa: ANN401 - asyncpg's, behind a proxy of the pool
    """Return the driver's connection of a session; in its transaction once the session has sent a statement."""
    connection = await session.connection()
    return (await connection.get_raw_connection()).driver_connection


async def copy_rows(session: AsyncSession, *, rows: list[StagedRow]) -> None:
    """Add rows to the staging table."""
    raw = await raw_connection(session)
    await raw.copy_records_to_table(OfferStaging.__tablename__, records=rows, columns=STAGED_COLUMNS)


async def clear(session: AsyncSession, *, attempt_id: UUID | None) -> None:
    """Remove what an attempt has staged."""
    if attempt_id is not None:
        await session.execute(delete(OfferStaging).where(OfferStaging.attempt_id == attempt_id))


async def clear_abandoned(session: AsyncSession) -> int:
    """Remove rows of attempts that are not the valid one of a running run; returns how many there were."""
    valid = select(SyncRun.attempt_id).where(SyncRun.status == SyncStatus.RUNNING, SyncRun.attempt_id.is_not(None))
    result = await session.execute(delete(OfferStaging).where(OfferStaging.attempt_id.not_in(valid)))
    return int(getattr(result, "rowcount", 0))
