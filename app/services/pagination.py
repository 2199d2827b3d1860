"""Keyset pages: a cursor is the sort key of the last row that was given, opaque to the client."""

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypeVar, TypeVarTuple
from uuid import UUID

import orjson
from sqlalchemy import Select
from sqlalchemy.engine import Row as FoundRow
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from app.errors import InvalidRequestError

Row = TypeVar("Row")
Entity = TypeVar("Entity")
Found = TypeVarTuple("Found")
IdColumn: TypeAlias = InstrumentedAttribute[UUID]


class InvalidCursorError(InvalidRequestError):
    """A cursor that this list did not give out."""

    code = "invalid_cursor"
    title = "Invalid cursor"

    def __init__(self) -> None:
        super().__init__("The cursor is not one this list gave; start again without it.")


def encode_cursor(*key: str | int | UUID | datetime) -> str:
    """Return the cursor that continues after the row with this sort key."""
    # asyncpg has a UUID class of its own, which orjson does not know.
    return base64.urlsafe_b64encode(orjson.dumps(key, default=str)).decode().rstrip("=")


def decode_cursor(cursor: str, *types: type) -> list[Any]:
    """Return the sort key in a cursor, one value for each type (str, int, UUID or datetime).

    Raises InvalidCursorError for anything that `encode_cursor` with these types did not make.
    """
    try:
        raw = orjson.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        if not isinstance(raw, list) or len(raw) != len(types):
            raise InvalidCursorError
        return [_restore(value, kind) for value, kind in zip(raw, types, strict=True)]
    except (ValueError, TypeError, AttributeError, OverflowError, binascii.Error) as error:
        raise InvalidCursorError from error


def _restore(value: object, kind: type) -> object:
    if kind is datetime:
        moment = datetime.fromisoformat(str(value))
        if moment.tzinfo is None:
            raise InvalidCursorError
        # Here and not in the driver: the first and last hours of the calendar have no time in UTC.
        return moment.astimezone(UTC)
    if kind is UUID:
        return UUID(str(value))
    if kind is int and isinstance(value, bool | float):
        raise InvalidCursorError
    if not isinstance(value, kind):
        raise InvalidCursorError
    if isinstance(value, str) and "\x00" in value:
        raise InvalidCursorError
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidCursorError
    return value


def cut_page(rows: Sequence[Row], limit: int) -> tuple[list[Row], bool]:
    """Split `limit + 1` fetched rows into the page and whether more follow."""
    return list(rows[:limit]), len(rows) > limit


async def newest_first(
    session: AsyncSession,
    statement: Select[Entity],
    key: InstrumentedAttribute[UUID],
    *,
    limit: int,
    cursor: str | None,
) -> tuple[list[Entity], str | None]:
    """Return a page of what a statement selects, the newest first by a UUIDv7 `key` of it, and the next one's cursor.

    Raises InvalidCursorError.
    """
    rows, more = cut_page((await session.scalars(_after(statement, key, limit, cursor))).all(), limit)
    return rows, encode_cursor(getattr(rows[-1], key.key)) if more else None


async def newest_rows(
    session: AsyncSession,
    statement: Select[*Found],
    key: InstrumentedAttribute[UUID],
    *,
    limit: int,
    cursor: str | None,
) -> tuple[list[FoundRow[*Found]], str | None]:
    """Do the same for a statement that selects several things, the entity with the key first."""
    rows, more = cut_page((await session.execute(_after(statement, key, limit, cursor))).all(), limit)
    last: tuple[Any, ...] | None = rows[-1] if more else None
    return rows, encode_cursor(getattr(last[0], key.key)) if last else None


def _after(statement: Select[*Found], key: IdColumn, limit: int, cursor: str | None) -> Select[*Found]:
    if cursor is not None:
        (last,) = decode_cursor(cursor, UUID)
        statement = statement.where(key < last)
    return statement.order_by(key.desc()).limit(limit + 1)
