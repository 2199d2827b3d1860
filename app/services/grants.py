"""What the role that the service runs as may do, where it is not the owner of the tables.

Triggers refuse to change the ledger, but a table's owner may drop them. A role that owns nothing cannot: it may only
read and insert where rows are for good.
"""

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import (
    AuditEntry,
    Base,
    ExchangeRate,
    LedgerDay,
    LedgerDayTotal,
    MonthClose,
    Posting,
    SourceVersion,
    Transfer,
)

# Each has a trigger `<table>_append_only`, too.
APPEND_ONLY = tuple(
    str(model.__tablename__)
    for model in (Transfer, Posting, LedgerDay, LedgerDayTotal, MonthClose, ExchangeRate, SourceVersion, AuditEntry)
)

# Whoever may make roles may make itself a member of the owner.
_ROLE = text("""
    SELECT rolsuper OR rolcreaterole OR EXISTS (
        SELECT FROM pg_class WHERE oid = 'postings'::regclass AND pg_has_role(pg_roles.oid, relowner, 'MEMBER')
    ) FROM pg_roles WHERE rolname = :role
""")


class GrantError(Exception):
    """The role does not exist, or has powers that no grant limits; the message is for the operator's terminal."""


async def grant_to(session: AsyncSession, role: str) -> None:
    """Let a role do what the service needs, and no more, in the caller's transaction. Safe to repeat.

    Call it as the owner of the tables after each migration. Raises GrantError.
    """
    powerful = await session.scalar(_ROLE, {"role": role})
    if powerful is None:
        raise GrantError(f"there is no role {role!r}")
    if powerful:
        raise GrantError(
            f"role {role!r} owns the tables, or may make itself their owner: no grant would keep it from the ledger"
        )
    quoted = await _quoted(session, role)
    tables = [table.name for table in Base.metadata.sorted_tables]
    changeable = [name for name in tables if name not in APPEND_ONLY]
    for statement in (
        f"GRANT USAGE ON SCHEMA public TO {quoted}",
        # Anew each time: a table that has become append-only must not keep what was granted before.
        f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {quoted}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {', '.join(changeable)} TO {quoted}",
        f"GRANT SELECT, INSERT ON {', '.join(APPEND_ONLY)} TO {quoted}",
        # Asked for by its own name, to see whether it is empty. Rights on other partitions are those on their table.
        f"GRANT SELECT ON clicks_stray TO {quoted}",
        # For `/readyz`.
        f"GRANT SELECT ON alembic_version TO {quoted}",
    ):
        await session.execute(text(statement))


async def _quoted(session: AsyncSession, role: str) -> str:
    quoted: Any = await session.scalar(text("SELECT quote_ident(:role)"), {"role": role})
    # A colon would be read as the name of a parameter.
    return str(quoted).replace(":", "\\:")
