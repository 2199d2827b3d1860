"""Rows on their way into `offers`: written by COPY, in batches, each in a short transaction of its own."""

from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select
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


async def count(session: AsyncSession, *, run_id: UUID, up_to_row: int) -> int:
    """Count what a run has staged of the rows up to one."""
    statement = select(func.count()).where(OfferStaging.run_id == run_id, OfferStaging.row_number <= up_to_row)
    return (await session.execute(statement)).scalar_one()


async def clear(session: AsyncSession, *, run_id: UUID, after_row: int = 0) -> None:
    """Remove what a run has staged of the rows after one."""
    await session.execute(
        delete(OfferStaging).where(OfferStaging.run_id == run_id, OfferStaging.row_number > after_row)
    )


async def clear_abandoned(session: AsyncSession) -> int:
    """Remove rows of runs that have ended; returns how many there were."""
    unfinished = select(SyncRun.id).where(SyncRun.status.in_([SyncStatus.QUEUED, SyncStatus.RUNNING]))
    result = await session.execute(delete(OfferStaging).where(OfferStaging.run_id.not_in(unfinished)))
    return int(getattr(result, "rowcount", 0))
