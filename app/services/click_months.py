"""Clicks by month: partitions are made ahead, and one whose time is over is replaced by what orders still need of it.

An order is computed from its click for ever, so the clicks that orders came from are copied into a small table, which
takes the month's place; the rest goes with the old one, at once and without a DELETE. `orders.click_id` has no foreign
key, since PostgreSQL lets no partition go that is referred to: whoever makes an order reads its click in the same
transaction, which the swap waits for.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.ids import first_id_at, new_id
from app.models import WebhookEvent, WebhookStatus
from app.services.retention import first_kept

MONTHS_AHEAD = 3
_KEPT = "clicks_kept_"
_WINDOW_ROWS = 20_000
_MOST_COUNTED = 1_000
# A decision about one of these may still lead to any click of its time.
_UNDECIDED = (WebhookStatus.RECEIVED, WebhookStatus.ORPHANED, WebhookStatus.QUARANTINED, WebhookStatus.DEAD)
_BOUNDS = re.compile(r"FOR VALUES FROM \((?:MINVALUE|'([0-9a-f-]{36})')\) TO \('([0-9a-f-]{36})'\)")
_PARTITIONS = text(
    "SELECT child.relname AS name, pg_get_expr(child.relpartbound, child.oid) AS bounds FROM pg_inherits"
    " JOIN pg_class AS child ON child.oid = inhrelid WHERE inhparent = 'clicks'::regclass ORDER BY child.relname"
)


@dataclass(frozen=True, slots=True)
class Month:
    """A partition and its ids: from the first (None: all before), up to and without the last."""

    table: str
    first: UUID | None
    until: UUID

    @property
    def is_compact(self) -> bool:
        """Whether only what orders need is left of it."""
        return self.table.startswith(_KEPT)

    @property
    def ends(self) -> datetime:
        """The moment that its clicks were made before."""
        return _moment(self.until)


async def list_months(session: AsyncSession) -> list[Month]:
    """Return the partitions but for the one of strays, the oldest first."""
    months = []
    for name, bounds in await session.execute(_PARTITIONS):
        if found := _BOUNDS.fullmatch(bounds):
            months.append(Month(name, UUID(found[1]) if found[1] else None, UUID(found[2])))
    return sorted(months, key=lambda month: month.until)


async def may_change_months(session: AsyncSession) -> bool:
    """Whether our role owns the table. One that owns nothing leaves the months to `cashback retention` of the owner."""
    owned = text("SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'clicks'::regclass")
    return bool((await session.execute(owned)).scalar_one())


async def make_ahead(session: AsyncSession, *, now: datetime) -> int:
    """Make the partitions of the months to come, and return how many were missing. Safe to repeat."""
    last = (await list_months(session))[-1].ends
    wanted, made = first_kept(now, -MONTHS_AHEAD - 1), 0
    while last < wanted:
        after = first_kept(last, -1)
        await session.execute(
            text(
                f"CREATE TABLE clicks_{last:%Y_%m} PARTITION OF clicks"
                f" FOR VALUES FROM ('{first_id_at(last)}') TO ('{first_id_at(after)}')"
            )
        )
        last, made = after, made + 1
    return made


async def count_strays(session: AsyncSession) -> int:
    """Count the clicks that no month takes, up to a thousand: there should be none."""
    some = text(f"SELECT count(*) FROM (SELECT FROM clicks_stray LIMIT {_MOST_COUNTED}) AS strays")  # noqa: S608 - a constant
    return int((await session.execute(some)).scalar_one())


async def due_months(
    session: AsyncSession, settings: Settings, *, keep_months: int, now: datetime
) -> Sequence[tuple[Month, int]]:
    """Return the months whose time is over, each with how many undecided events may still lead to its clicks.

    A click is kept at least as long as a sale counts for it and that sale can be claimed, whatever the policy says.
    """
    sale = timedelta(days=settings.click_lifetime_days)
    before = min(first_kept(now, keep_months), now - sale - timedelta(days=settings.claim_max_age_days))
    due = [month for month in await list_months(session) if not month.is_compact and month.ends <= before]
    return [(month, await _count_undecided(session, month, sale)) for month in due]


async def compact(month: Month) -> int:
    """Replace a month by what orders need of it, and return how many clicks that is. Opens its transactions itself.

    Only the swap holds a lock that others notice, for the time of copying what came in the meantime.
    """
    started = datetime.now(UTC)
    kept = f"{_KEPT}{new_id().hex[:12]}"
    await _prepare(month, kept)
    await _copy(month, kept)
    async with transaction() as session:
        for column, table in (("customer_id", "customers"), ("merchant_id", "merchants"), ("offer_id", "offers")):
            # As the parent has them, so that nothing is left to be checked under the lock.
            await _run(
                session,
                f"ALTER TABLE {kept} ADD CONSTRAINT fk_clicks_{column}_{table}"
                f" FOREIGN KEY ({column}) REFERENCES {table} (id)",
            )
        await _forget_addresses(session, kept)
    async with transaction() as session:
        # Whoever makes an order has read its click before, and is waited for; who comes later finds the copy.
        await _run(session, "LOCK TABLE clicks IN ACCESS EXCLUSIVE MODE")
        since = first_id_at(started - timedelta(hours=1))
        await _run(
            session,
            f"INSERT INTO {kept} SELECT * FROM {month.table} AS click"  # noqa: S608 - our own names
            f" WHERE id IN (SELECT click_id FROM orders WHERE id >= '{since}') ON CONFLICT DO NOTHING",
        )
        await _forget_addresses(session, kept)
        await _run(session, f"ALTER TABLE clicks DETACH PARTITION {month.table}")
        await _run(session, f"ALTER TABLE clicks ATTACH PARTITION {kept} FOR VALUES {_bounds(month)}")
        count = int((await session.execute(text(f"SELECT count(*) FROM {kept}"))).scalar_one())  # noqa: S608 - our own names
    async with transaction() as session:
        await _run(session, f"DROP TABLE {month.table}")
    return count


async def _prepare(month: Month, kept: str) -> None:
    lower = "" if month.first is None else f"id >= '{month.first}' AND "
    async with transaction() as session:
        await _run(
            session,
            f"CREATE TABLE {kept} (LIKE clicks INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES"
            f" INCLUDING STORAGE, CONSTRAINT ck_clicks_month CHECK ({lower}id < '{month.until}'))",
        )


async def _copy(month: Month, kept: str) -> None:
    """Copy the clicks that orders came from, a window of ids a transaction."""
    after = UUID(int=0)
    while True:
        async with transaction() as session:
            end = await session.scalar(
                text(
                    f"SELECT id FROM {month.table} WHERE id > '{after}' ORDER BY id"  # noqa: S608 - our own names
                    f" OFFSET {_WINDOW_ROWS - 1} LIMIT 1"
                )
            )
            upper = "" if end is None else f" AND id <= '{end}'"
            await _run(
                session,
                f"INSERT INTO {kept} SELECT * FROM {month.table} AS click WHERE id > '{after}'{upper}"  # noqa: S608 - our own names
                " AND EXISTS (SELECT FROM orders WHERE orders.click_id = click.id)",
            )
        if end is None:
            return
        after = UUID(str(end))


async def _forget_addresses(session: AsyncSession, kept: str) -> None:
    """Erase the addresses' hashes: their time is over, and an account may have been closed since they were copied."""
    await _run(session, f"UPDATE {kept} SET address_hint = NULL WHERE address_hint IS NOT NULL")  # noqa: S608 - see above


async def _count_undecided(session: AsyncSession, month: Month, sale: timedelta) -> int:
    some = select(WebhookEvent.id).where(
        WebhookEvent.status.in_(_UNDECIDED), WebhookEvent.id < first_id_at(month.ends + sale)
    )
    if month.first is not None:
        some = some.where(WebhookEvent.id >= month.first)
    return await session.scalar(select(func.count()).select_from(some.limit(_MOST_COUNTED).subquery())) or 0


def _bounds(month: Month) -> str:
    return f"FROM ({'MINVALUE' if month.first is None else repr(str(month.first))}) TO ('{month.until}')"


def _moment(first_id: UUID) -> datetime:
    return datetime.fromtimestamp((first_id.int >> 80) / 1000, UTC)


async def _run(session: AsyncSession, statement: str) -> None:
    await session.execute(text(statement))
