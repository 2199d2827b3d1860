"""What a row is, for the audit log: without secrets and customers' data, since the log can forget nothing."""

import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import LargeBinary, Table, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Base

Snapshot = Mapping[str, Any]

HIDDEN = "[hidden]"
# Customers' data, and what a source sent of them.
_PRIVATE = frozenset({"body", "display_name", "email", "headers", "holder", "masked", "note", "phone", "query"})
_SECRET = re.compile(r"secret|password|token|encrypted|hash|fingerprint|credentials(?!_kind)|etag")
# An address may carry a key before an @ or in its query.
_SECRET_IN_URL = re.compile(r"(?<=://)[^/?#@]*@|\?.*$", re.DOTALL)


async def take(session: AsyncSession, model: type[Base], key: str) -> Snapshot | None:
    """Return a row as it is in this transaction, None where there is none with this key.

    Of bytes only a digest is read: they are secrets or files. What the database computes says nothing of its own.
    """
    table = model.__table__
    if not isinstance(table, Table):
        raise TypeError(f"{model.__name__} is no table")
    (column,) = table.primary_key.columns
    try:
        value = _key(column.type.python_type, key)
    except ValueError:
        return None
    columns = [
        func.md5(each).label(each.name) if isinstance(each.type, LargeBinary) else each
        for each in table.columns
        if each.computed is None
    ]
    row = (await session.execute(select(*columns).where(column == value))).mappings().one_or_none()
    return None if row is None else dict(row)


def differences(before: Snapshot | None, after: Snapshot | None) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return what to keep of a row before and after: the columns that differ, or all where it is on one side only."""
    if before is not None and after is not None:
        names = [name for name in after if name != "updated_at" and before.get(name) != after[name]]
        return {name: _shown(name, before.get(name)) for name in names}, {
            name: _shown(name, after[name]) for name in names
        }
    return _all(before), _all(after)


def _all(row: Snapshot | None) -> dict[str, Any] | None:
    return None if row is None else {name: _shown(name, value) for name, value in row.items()}


def _shown(name: str, value: Any) -> Any:  # noqa: ANN401 - any column's value
    if value is None or isinstance(value, bool | int):
        return value
    if name in _PRIVATE or _SECRET.search(name):
        return HIDDEN
    match value:
        case dict():
            return {str(inner): _shown(str(inner), part) for inner, part in value.items()}
        case list():
            return [_shown(name, part) for part in value]
        case datetime() | date():
            return value.isoformat()
        case _:
            text = str(value)
            return _SECRET_IN_URL.sub("", text) if name.endswith("url") else text


def _key(kind: type[Any], text: str) -> UUID | int | str:
    if kind is UUID:
        return UUID(text)
    if kind is int:
        number = int(text)
        if not 0 <= number < 2**31:
            raise ValueError(text)
        return number
    if kind is str and "\x00" not in text:
        return text
    raise ValueError(text)
