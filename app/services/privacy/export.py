"""Exports: asked for with the password, built by a worker from one snapshot, kept sealed, downloaded piece by piece.

The functions that check a password or build open their transactions themselves: none waits while argon2 works, and the
pieces are committed as they come.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import delete, func, literal, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import AsyncSessionLocal, ring_after_commit, transaction
from app.errors import ConflictError, NotFoundError
from app.ids import new_id
from app.models import Customer, DataExport, DataExportPart, ExportStatus
from app.schemas.privacy import ExportRead
from app.services.passwords import Passwords
from app.services.privacy.archive import Archive
from app.services.privacy.inventory import SECTIONS
from app.services.secrets import seal_bytes, unseal_bytes
from app.services.step_up import StepUpFailedError, confirm_password
from app.services.tokens import AccessToken

FORMAT = 1
_ROWS = 500
_PIECE_BYTES = 256 * 1024
_UNFINISHED = (ExportStatus.QUEUED, ExportStatus.BUILDING)
# A worker that has written nothing for so long has lost its export.
_CLAIM = timedelta(seconds=60)
_MOST_TRIES = 3


class NoExportError(NotFoundError):
    """The customer has asked for none, or its time is over."""

    code = "no_export"
    title = "No export"

    def __init__(self) -> None:
        super().__init__("There is no export; ask for one with POST /v1/me/export.")


class ExportNotReadyError(ConflictError):
    """The export is still being built, or could not be."""

    code = "export_not_ready"
    title = "Export not ready"

    def __init__(self, status: ExportStatus) -> None:
        super().__init__(f"The export is {status.value}; it can be downloaded once it is ready.")


async def request_export(passwords: Passwords, *, signed_in: AccessToken, password: SecretStr) -> ExportRead:
    """Queue an export in place of the one before; one that is on its way is answered with.

    Raises StepUpFailedError, InvalidAccessTokenError (account or session ended) and PasswordQueueFullError.
    """
    asking = await confirm_password(passwords, signed_in=signed_in, password=password)
    customer_id = asking.id
    async with transaction() as session:
        customer = await session.get_one(Customer, customer_id, with_for_update={"key_share": True})
        if customer.password_hash != asking.password_hash:  # changed or closed while argon2 worked
            raise StepUpFailedError
        present = await session.scalar(select(DataExport).where(DataExport.customer_id == customer_id))
        if present is not None and present.status in _UNFINISHED:
            return ExportRead.model_validate(present)
        await forget(session, customer_id=customer_id)
        wanted = DataExport(id=new_id(), customer_id=customer_id)
        session.add(wanted)
        await session.flush()
        ring_after_commit(session, "build_exports")
        return ExportRead.model_validate(wanted)


async def get_export(session: AsyncSession, *, customer_id: UUID) -> ExportRead:
    """Return how the customer's export stands. Raises NoExportError."""
    return ExportRead.model_validate(await _find(session, customer_id))


async def open_download(
    settings: Settings, passwords: Passwords, *, signed_in: AccessToken, password: SecretStr
) -> tuple[int, AsyncIterator[bytes]]:
    """Return the size in bytes of a ready export and its content, piece by piece.

    Raises StepUpFailedError, InvalidAccessTokenError, PasswordQueueFullError, NoExportError and ExportNotReadyError.
    """
    asking = await confirm_password(passwords, signed_in=signed_in, password=password)
    async with transaction() as session:
        found = await _find(session, asking.id)
        if found.status is not ExportStatus.READY or found.size_bytes is None:
            raise ExportNotReadyError(found.status)
        return found.size_bytes, _pieces(settings, found.id)


async def forget(session: AsyncSession, *, customer_id: UUID) -> None:
    """Delete a customer's export with all its pieces."""
    await session.execute(delete(DataExport).where(DataExport.customer_id == customer_id))


async def forget_expired(session: AsyncSession, *, limit: int) -> int:
    """Delete up to `limit` exports whose time is over, and return how many."""
    old = (
        select(DataExport.id)
        .where(DataExport.expires_at <= func.now())
        .order_by(DataExport.expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids = (await session.scalars(old)).all()
    await session.execute(delete(DataExport).where(DataExport.id.in_(ids)))
    return len(ids)


async def build_next(settings: Settings) -> UUID | None:
    """Claim the oldest export that waits, or whose worker is lost, and build it; None when there is none.

    Raises whatever kept it from being built; it is tried again, and given up after three tries.
    """
    async with transaction() as session:
        claimed = await _claim(session)
    if claimed is not None:
        await _build(settings, claimed)
        return claimed.id
    return None


async def _find(session: AsyncSession, customer_id: UUID) -> DataExport:
    found = await session.scalar(
        select(DataExport).where(
            DataExport.customer_id == customer_id,
            or_(DataExport.expires_at.is_(None), DataExport.expires_at > func.now()),
        )
    )
    if found is None:
        raise NoExportError
    return found


async def _pieces(settings: Settings, export_id: UUID) -> AsyncIterator[bytes]:
    # A transaction a piece: a slow download holds no connection.
    number = 0
    while True:
        async with transaction() as session:
            sealed = await session.scalar(
                select(DataExportPart.content_encrypted).where(
                    DataExportPart.export_id == export_id, DataExportPart.number == number
                )
            )
        if sealed is None:
            return
        yield await asyncio.to_thread(unseal_bytes, settings, sealed)
        number += 1


async def _claim(session: AsyncSession) -> DataExport | None:
    claimed: DataExport | None = await session.scalar(
        select(DataExport)
        .where(
            DataExport.status.in_(_UNFINISHED),
            or_(DataExport.claimed_until.is_(None), DataExport.claimed_until < func.now()),
        )
        .order_by(DataExport.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if claimed is None:
        return None
    await session.execute(delete(DataExportPart).where(DataExportPart.export_id == claimed.id))
    claimed.tries += 1
    claimed.attempt_id = new_id()
    claimed.status = ExportStatus.BUILDING if claimed.tries <= _MOST_TRIES else ExportStatus.FAILED
    claimed.claimed_until = datetime.now(UTC) + _CLAIM
    if claimed.status is ExportStatus.FAILED:
        # So that it goes in its time too.
        claimed.expires_at = datetime.now(UTC) + timedelta(days=1)
    await session.flush()
    return claimed


async def _build(settings: Settings, export: DataExport) -> None:
    if export.status is not ExportStatus.BUILDING:
        return
    archive, number = Archive(), 0
    async with AsyncSessionLocal() as session, session.begin():
        # One snapshot: amounts in one file fit those in the other.
        await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        async for _ in _write(session, archive, export.customer_id):
            number = await _store(settings, export, archive, number)
            if number < 0:
                return
    await asyncio.to_thread(archive.close)
    number = await _store(settings, export, archive, number, rest=True)
    if number < 0:
        return
    now = datetime.now(UTC)
    async with transaction() as session:
        await session.execute(
            update(DataExport)
            .where(DataExport.id == export.id, DataExport.attempt_id == export.attempt_id)
            .values(
                status=ExportStatus.READY,
                ready_at=now,
                expires_at=now + timedelta(days=settings.export_days),
                size_bytes=archive.size_bytes,
                claimed_until=None,
            )
        )


async def _write(session: AsyncSession, archive: Archive, customer_id: UUID) -> AsyncIterator[None]:
    """Write all files, and give the caller the chance to store what there is after each batch of rows."""
    made_at = datetime.now(UTC)
    files = {section.name: [column.key for column in section.columns] for section in SECTIONS}
    archive.add_document(
        "export.json", {"format": FORMAT, "customer_id": customer_id, "made_at": made_at, "files": files}
    )
    for section in SECTIONS:
        for as_csv in (False, True):
            archive.begin(section.name, files[section.name], as_csv=as_csv)
            rows = await session.stream(section.statement(customer_id).execution_options(yield_per=_ROWS))
            async for batch in rows.partitions():
                await asyncio.to_thread(archive.add, [tuple(row) for row in batch])
                yield
            archive.end()


async def _store(settings: Settings, export: DataExport, archive: Archive, number: int, *, rest: bool = False) -> int:
    """Store the pieces that are whole; returns the next one's number, -1 when the export is not ours any more."""
    pieces = archive.take(_PIECE_BYTES, rest=rest)
    if not pieces:
        return number
    sealed = await asyncio.to_thread(lambda: [seal_bytes(settings, piece) for piece in pieces])
    async with transaction() as session:
        still_ours = await session.scalar(
            update(DataExport)
            .where(DataExport.id == export.id, DataExport.attempt_id == export.attempt_id)
            .values(claimed_until=func.now() + literal(_CLAIM))
            .returning(DataExport.id)
        )
        if still_ours is None:
            return -1
        await session.execute(
            insert(DataExportPart),
            [
                {"id": new_id(), "export_id": export.id, "number": number + offset, "content_encrypted": content}
                for offset, content in enumerate(sealed)
            ],
        )
    return number + len(pieces)
