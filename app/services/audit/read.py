"""Reading the audit log, and taking it out as a table."""

import csv
import io
from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import AuditEntry
from app.schemas.audit import AuditEntryRead, AuditFilter, AuditPage
from app.services.pagination import newest_first
from app.services.report_tables import escape_formula

MOST_EXPORTED = 10_000
_COLUMNS = ("id", "at", "actor", "member_id", "key_id", "action", "target_type", "target_id", "request_id", "address")


async def list_entries(session: AsyncSession, *, limit: int, cursor: str | None, wanted: AuditFilter) -> AuditPage:
    """Return entries, newest first. Raises InvalidCursorError."""
    statement = _matching(wanted).limit(limit + 1)
    rows, next_cursor = await newest_first(session, statement, AuditEntry.id, limit=limit, cursor=cursor)
    items = [AuditEntryRead.model_validate(row) for row in rows]
    return AuditPage(items=items, next_cursor=next_cursor)


async def export_csv(session: AsyncSession, *, wanted: AuditFilter) -> str:
    """Return the newest MOST_EXPORTED entries as CSV, none of whose cells a spreadsheet runs as a formula."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow((*_COLUMNS, "before", "after"))
    for entry in await session.scalars(_matching(wanted).limit(MOST_EXPORTED)):
        shown = AuditEntryRead.model_validate(entry).model_dump(mode="json")
        cells = [*(shown[name] for name in _COLUMNS), _json(entry.before), _json(entry.after)]
        writer.writerow("" if cell is None else escape_formula(cell) for cell in cells)
    return table.getvalue()


def _matching(wanted: AuditFilter) -> Select[AuditEntry]:
    statement = select(AuditEntry).order_by(AuditEntry.id.desc())
    for name in ("member_id", "key_id", "action", "target_type", "target_id"):
        if (value := getattr(wanted, name)) is not None:
            statement = statement.where(getattr(AuditEntry, name) == value)
    if wanted.first is not None:
        statement = statement.where(AuditEntry.at >= wanted.first)
    if wanted.last is not None:
        statement = statement.where(AuditEntry.at < wanted.last)
    return statement


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else orjson.dumps(value).decode()
