"""Re-encrypting what is sealed with the newest of ENCRYPTION_KEYS, so that an older key can be retired."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.fernet import InvalidToken
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from app.config import Settings
from app.models import DataExportPart, Feed, NotificationEndpoint, PayoutBatch, PayoutMethod, Poller, SigningKey, Source
from app.services.payouts.accounts import fingerprint, open_method
from app.services.secrets import seal_bytes, unseal_bytes

BATCH = 200
# Every column that holds what `services/secrets.py` sealed for longer than an hour; each table has one key column.
SEALED: Sequence[InstrumentedAttribute[Any]] = (
    Source.secrets_encrypted,
    NotificationEndpoint.secrets_encrypted,
    PayoutMethod.details_encrypted,
    PayoutBatch.csv_encrypted,
    PayoutBatch.pain001_encrypted,
    Feed.credentials_encrypted,
    Poller.credentials_encrypted,
    DataExportPart.content_encrypted,
    SigningKey.private_encrypted,
)


@dataclass(slots=True)
class Resealed:
    """What became of one batch of rows: the last id that was looked at, and the ids that no key opens."""

    last_id: Any = None
    done: int = 0
    unreadable: list[str] = field(default_factory=list)


async def reseal_batch(
    session: AsyncSession, settings: Settings, column: InstrumentedAttribute[Any], *, after: object = None
) -> Resealed:
    """Re-encrypt the next rows by key of a column of SEALED; `last_id` is None when there were none. Safe to repeat.

    A payout method's fingerprint is made anew with it, so that it also follows a new SECRET_KEY.
    """
    model: Any = column.class_
    (key,) = model.__mapper__.primary_key
    statement = select(model).where(column.is_not(None), column != b"").order_by(key).limit(BATCH)
    if after is not None:
        statement = statement.where(key > after)
    result = Resealed()
    # Locked, as whoever rotates a signing secret meanwhile writes the same column.
    rows = await session.scalars(statement.with_for_update().execution_options(populate_existing=True))
    for row in rows.all():
        result.last_id = getattr(row, key.key)
        try:
            if isinstance(row, PayoutMethod):
                await _renew_fingerprint(session, settings, row)
            setattr(row, column.key, seal_bytes(settings, unseal_bytes(settings, getattr(row, column.key))))
        except InvalidToken:
            result.unreadable.append(str(result.last_id))
        else:
            result.done += 1
    await session.flush()
    return result


async def _renew_fingerprint(session: AsyncSession, settings: Settings, method: PayoutMethod) -> None:
    renewed = fingerprint(settings, open_method(settings, method))
    if renewed == method.fingerprint:
        return
    # Under a new SECRET_KEY the customer may have added the account again, unnoticed; both stay as they are.
    again = select(PayoutMethod.id).where(
        PayoutMethod.customer_id == method.customer_id,
        PayoutMethod.fingerprint == renewed,
        PayoutMethod.deleted_at.is_(None),
    )
    if not await session.scalar(select(again.exists())):
        method.fingerprint = renewed
