"""Batches: all approved payouts of a currency become one pair of files for the bank, once and for ever.

Each payout is locked while its batch is made, and locked ones are left to whoever has them: so two members of staff who
close at the same time get two batches with nothing in common. The files are made in the closing transaction and kept
sealed; a download only opens them.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import assert_never
from uuid import UUID

from cryptography.fernet import InvalidToken
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from app.config import Settings
from app.errors import ConflictError, NotFoundError
from app.ids import new_id
from app.models import Customer, CustomerStatus, Payout, PayoutBatch, PayoutMethod, PayoutProvider, PayoutStatus
from app.schemas.common import Money
from app.schemas.payout_batches import (
    BatchFileFormat,
    PayoutBatchClose,
    PayoutBatchDetail,
    PayoutBatchPage,
    PayoutBatchPart,
    PayoutBatchRead,
)
from app.services.pagination import newest_first
from app.services.payouts import life
from app.services.payouts.accounts import open_method
from app.services.payouts.bank_files import BankTransfer, build_csv
from app.services.payouts.life import Step
from app.services.payouts.pain001 import MOST_MINOR, Debtor, build_pain001
from app.services.secrets import seal_bytes, unseal_bytes

# What the bank and one transaction take at a time; whoever closes again gets the rest.
MOST_PAYOUTS = 5_000
_WITHOUT_FILES = (defer(PayoutBatch.csv_encrypted), defer(PayoutBatch.pain001_encrypted))


class NoApprovedPayoutsError(ConflictError):
    """Nothing waits for the bank, or somebody else is closing a batch of it."""

    code = "no_approved_payouts"
    title = "No approved payouts"

    def __init__(self, wanted: PayoutBatchClose) -> None:
        kinds = f" to {', '.join(wanted.kinds)}" if wanted.kinds else ""
        super().__init__(f"No approved payout in {wanted.currency}{kinds} waits for a batch.")


class PayoutAccountUnreadableError(ConflictError):
    """An account was sealed with a key that is no longer there."""

    code = "payout_account_unreadable"
    title = "Account cannot be decrypted"

    def __init__(self, payout: Payout) -> None:
        super().__init__(f"None of ENCRYPTION_KEYS opens the account of payout {payout.id}; bring its key back.")


class PayoutBatchNotFoundError(NotFoundError):
    """No batch has this id."""

    code = "payout_batch_not_found"
    title = "Payout batch not found"

    def __init__(self, batch_id: UUID) -> None:
        super().__init__(f"There is no payout batch {batch_id}.")


class BatchFileMissingError(ConflictError):
    """The batch has no pain.001; the message says why."""

    code = "payout_batch_file_missing"
    title = "No such file in this batch"

    def __init__(self, batch: PayoutBatch) -> None:
        super().__init__(f"This batch has no pain.001: {batch.pain001_missing} Its CSV has all payouts.")


async def close_batch(
    session: AsyncSession, settings: Settings, *, wanted: PayoutBatchClose, staff_key_id: UUID
) -> PayoutBatchRead:
    """Send up to MOST_PAYOUTS approved payouts, the oldest first, in one batch with its files.

    Payouts of frozen customers stay. Raises NoApprovedPayoutsError and PayoutAccountUnreadableError.
    """
    taken = await _lock_approved(session, wanted)
    if not taken:
        raise NoApprovedPayoutsError(wanted)
    at, batch_id = datetime.now(UTC), new_id()
    reference = f"{at:%Y%m%d}-{wanted.currency}-{batch_id.hex[-12:]}"
    csv_file, pain001, missing = await asyncio.to_thread(_build_files, settings, taken, reference, at)
    batch = PayoutBatch(
        id=batch_id,
        reference=reference,
        currency=wanted.currency,
        payout_count=len(taken),
        total_minor=sum(payout.receives_minor for payout, _ in taken),
        csv_encrypted=csv_file,
        pain001_encrypted=pain001,
        pain001_missing=missing,
        created_by_id=staff_key_id,
        created_at=at,
    )
    session.add(batch)
    await session.flush()
    payouts = [payout for payout, _ in taken]
    await life.advance_all(session, [Step(payout, PayoutStatus.SENT) for payout in payouts], staff_key_id=staff_key_id)
    members = update(Payout).where(Payout.id.in_([payout.id for payout in payouts])).values(batch_id=batch_id)
    await session.execute(members.execution_options(synchronize_session=False))
    return _read(batch)


async def list_batches(
    session: AsyncSession, *, limit: int, cursor: str | None, currency: str | None = None
) -> PayoutBatchPage:
    """Return batches, newest first. Raises InvalidCursorError."""
    statement = select(PayoutBatch).options(*_WITHOUT_FILES)
    if currency is not None:
        statement = statement.where(PayoutBatch.currency == currency)
    rows, next_cursor = await newest_first(session, statement, PayoutBatch.id, limit=limit, cursor=cursor)
    items = [_read(batch) for batch in rows]
    return PayoutBatchPage(items=items, next_cursor=next_cursor)


async def show_batch(session: AsyncSession, *, batch_id: UUID) -> PayoutBatchDetail:
    """Return a batch with counts and sums of its payouts by state. Raises PayoutBatchNotFoundError."""
    batch = await get_batch(session, batch_id)
    rows = await session.execute(
        select(Payout.status, func.count(), func.sum(Payout.amount_minor - Payout.fee_minor))
        .where(Payout.batch_id == batch_id)
        .group_by(Payout.status)
        .order_by(Payout.status)
    )
    parts = [
        PayoutBatchPart(
            status=status, payout_count=count, total=Money(amount_minor=int(total), currency=batch.currency)
        )
        for status, count, total in rows
    ]
    return PayoutBatchDetail(**dict(_read(batch)), parts=parts)


async def get_batch(session: AsyncSession, batch_id: UUID) -> PayoutBatch:
    """Return a batch without its files. Raises PayoutBatchNotFoundError."""
    batch = await session.get(PayoutBatch, batch_id, options=_WITHOUT_FILES)
    if batch is None:
        raise PayoutBatchNotFoundError(batch_id)
    return batch


async def open_file(
    session: AsyncSession, settings: Settings, *, batch_id: UUID, form: BatchFileFormat
) -> tuple[str, bytes]:
    """Return a file's name and its bytes, the same each time.

    Raises PayoutBatchNotFoundError and BatchFileMissingError.
    """
    batch = await session.get(PayoutBatch, batch_id)
    if batch is None:
        raise PayoutBatchNotFoundError(batch_id)
    match form:
        case BatchFileFormat.CSV:
            return f"{batch.reference}.csv", unseal_bytes(settings, batch.csv_encrypted)
        case BatchFileFormat.PAIN001:
            if batch.pain001_encrypted is None:
                raise BatchFileMissingError(batch)
            return f"{batch.reference}.xml", unseal_bytes(settings, batch.pain001_encrypted)
        case _:
            assert_never(form)


async def _lock_approved(session: AsyncSession, wanted: PayoutBatchClose) -> list[tuple[Payout, PayoutMethod]]:
    statement = (
        select(Payout, PayoutMethod)
        .join(PayoutMethod, PayoutMethod.id == Payout.method_id)
        .join(Customer, Customer.id == Payout.customer_id)
        .where(
            Payout.status == PayoutStatus.APPROVED,
            Payout.provider == PayoutProvider.BATCH,
            Payout.currency == wanted.currency,
            Customer.status != CustomerStatus.FROZEN,
        )
        .order_by(Payout.id)
        .limit(MOST_PAYOUTS)
        .with_for_update(of=Payout, skip_locked=True)
    )
    if wanted.kinds is not None:
        statement = statement.where(PayoutMethod.kind.in_(wanted.kinds))
    taken: list[tuple[Payout, PayoutMethod]] = []
    total_minor = 0
    for payout, method in await session.execute(statement):
        total_minor += payout.receives_minor
        if taken and total_minor > MOST_MINOR:
            break
        taken.append((payout, method))
    return taken


def _build_files(
    settings: Settings, taken: Sequence[tuple[Payout, PayoutMethod]], reference: str, at: datetime
) -> tuple[bytes, bytes | None, str | None]:
    """Return the sealed CSV, the sealed pain.001, and why there is none. Takes processor time and asks nobody."""
    transfers = [_transfer(settings, payout, method) for payout, method in taken]
    csv_file = seal_bytes(settings, build_csv(transfers))
    without_iban = sum(transfer.account.iban is None for transfer in transfers)
    if without_iban:
        return csv_file, None, f"{without_iban} of its {len(transfers)} payouts have no IBAN."
    if settings.payout_debtor_name is None or settings.payout_debtor_iban is None:
        return csv_file, None, "PAYOUT_DEBTOR_NAME and PAYOUT_DEBTOR_IBAN were not set when it was closed."
    if sum(transfer.amount_minor for transfer in transfers) > MOST_MINOR:
        return csv_file, None, "its amount has more than the 18 digits that the format takes."
    debtor = Debtor(settings.payout_debtor_name, settings.payout_debtor_iban, settings.payout_debtor_bic)
    return csv_file, seal_bytes(settings, build_pain001(transfers, reference=reference, debtor=debtor, at=at)), None


def _transfer(settings: Settings, payout: Payout, method: PayoutMethod) -> BankTransfer:
    try:
        account = open_method(settings, method)
    except InvalidToken as error:
        raise PayoutAccountUnreadableError(payout) from error
    return BankTransfer(payout.id, payout.receives_minor, payout.currency, account)


def _read(batch: PayoutBatch) -> PayoutBatchRead:
    has_pain001 = batch.pain001_missing is None
    return PayoutBatchRead(
        id=batch.id,
        reference=batch.reference,
        payout_count=batch.payout_count,
        total=Money(amount_minor=batch.total_minor, currency=batch.currency),
        formats=[BatchFileFormat.CSV, *([BatchFileFormat.PAIN001] if has_pain001 else [])],
        pain001_missing=batch.pain001_missing,
        created_by_id=batch.created_by_id,
        created_at=batch.created_at,
    )
