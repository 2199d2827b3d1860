r"""The chain of days: each finished day (UTC) is sealed with a hash over its postings and the hash of the day before.

Whoever changes, removes, adds or reorders a posting of the past, or its transfer, changes that day's hash and so every
later one. A hash that was noted elsewhere (each is logged when it is made) proves all days up to its own.

An auditor needs none of this code. A day's hash is SHA-256 over

1. the hash of the day before, 32 bytes; zeros for the first day,
2. the day as `2026-11-25` and a newline,
3. a line for each posting of the day in order of its id, in PostgreSQL's COPY text format (columns separated by tabs,
   `\N` for NULL, backslash escapes): the posting's id, transfer, account, merchant, customer, currency, amount in minor
   units and time; the transfer's type and id of cause, purpose, corrected transfer, details as jsonb prints, and time.
   Times are microseconds since 1970 (UTC).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import LedgerDay, MonthClose, Posting
from app.services.ledger.verify import TIMEOUT_SECONDS, Violation, driver_connection, without_timeout

NAME = "sealed_days"
RULE = "Each sealed day's postings give its hash and totals, and its hash follows from the day before."
# Clocks of a primary and the standby that takes over differ; a day is not sealed before theirs agree that it is over.
MARGIN = timedelta(minutes=10)
BEFORE_FIRST = bytes(32)

# count() keeps PostgreSQL from walking the primary key in search of the smallest; the BRIN index leads to the day.
_ID_RANGE = text(
    "SELECT min(id) AS first, max(id) AS last, count(*) FROM postings WHERE created_at >= :start AND created_at < :end"
)
# In order of the primary key, one transfer looked up at a time: nothing to sort or to hash, whatever a day's size.
# Told by an expression that no index has, the day only filters what the range of ids gives.
_POSTINGS = """
    SELECT p.id, p.transfer_id, p.account, p.merchant_id, p.customer_id, p.currency, p.amount_minor,
           (extract(epoch FROM p.created_at) * 1000000)::bigint, t.*
    FROM postings p
    LEFT JOIN LATERAL (
        SELECT cause_type, cause_id, purpose, corrects_id, details::text,
               (extract(epoch FROM created_at) * 1000000)::bigint
        FROM transfers WHERE id = p.transfer_id OFFSET 0) t ON true
    WHERE p.id BETWEEN $1 AND $2 AND (p.created_at AT TIME ZONE 'UTC')::date = $3
    ORDER BY p.id
"""
_ADD_TOTALS = text("""
    INSERT INTO ledger_day_totals (day, account, merchant_id, currency, postings, debit_minor, credit_minor)
    SELECT :day, account, merchant_id, currency, count(*), sum(greatest(amount_minor, 0)), -sum(least(amount_minor, 0))
    FROM postings WHERE created_at >= :start AND created_at < :end
    GROUP BY account, merchant_id, currency ORDER BY account, merchant_id, currency
""")
_DIFFERENT_TOTALS = text("""
    SELECT account, merchant_id, currency
    FROM (SELECT account, merchant_id, currency, postings, debit_minor AS debit, credit_minor AS credit
          FROM ledger_day_totals WHERE day = :day
          UNION ALL
          SELECT account, merchant_id, currency, -1, -greatest(amount_minor, 0), least(amount_minor, 0)
          FROM postings WHERE created_at >= :start AND created_at < :end) parts
    GROUP BY account, merchant_id, currency HAVING sum(postings) <> 0 OR sum(debit) <> 0 OR sum(credit) <> 0 LIMIT 1
""")
# Who may still add to a day: a transaction that began on it, and one of another role, whose beginning PostgreSQL does
# not show us, that has already written postings. One that has not is refused by the trigger once the day is sealed.
_STILL_WRITING = text("""
    SELECT EXISTS (
        SELECT FROM pg_stat_activity
        WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
          AND xact_start < :end
    ) OR EXISTS (
        SELECT FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.relation = 'postings'::regclass
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND l.pid IS DISTINCT FROM pg_backend_pid() AND a.xact_start IS NULL
    )
""")


@dataclass(frozen=True, slots=True)
class HashedDay:
    """A day's hash and how many postings are in it."""

    postings: int
    hash: bytes


async def seal_next(session: AsyncSession) -> LedgerDay | None:
    """Seal the oldest day that is due, in the caller's transaction; None when none is, or not yet.

    A day is due when it has been over for `MARGIN`, and no transaction is left that could post into it.
    """
    if not await session.scalar(select(func.pg_try_advisory_xact_lock(func.hashtextextended("seal ledger", 3)))):
        return None
    await without_timeout(session)
    last = await last_day(session)
    day = last.day + timedelta(days=1) if last else await _first_day(session)
    if day is None or not await _is_over(session, day):
        return None
    previous_hash = last.hash if last else BEFORE_FIRST
    hashed = await hash_day(session, day, previous_hash=previous_hash)
    sealed = LedgerDay(day=day, postings=hashed.postings, previous_hash=previous_hash, hash=hashed.hash)
    session.add(sealed)
    await session.flush()
    await session.execute(_ADD_TOTALS, {"day": day, **_bounds(day)})
    return sealed


async def last_day(session: AsyncSession) -> LedgerDay | None:
    """Return the last sealed day."""
    last: LedgerDay | None = await session.scalar(select(LedgerDay).order_by(LedgerDay.day.desc()).limit(1))
    return last


async def count_due(session: AsyncSession) -> int:
    """Return how many finished days wait to be sealed."""
    last = await session.scalar(select(func.max(LedgerDay.day)))
    if last is None:
        first: datetime | None = await session.scalar(select(Posting.created_at).order_by(Posting.id).limit(1))
        if first is None:
            return 0
        last = first.astimezone(UTC).date() - timedelta(days=1)
    now: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    return max(0, ((now - MARGIN).astimezone(UTC).date() - last).days - 1)


async def hash_day(session: AsyncSession, day: date, *, previous_hash: bytes) -> HashedDay:
    """Hash a day's postings as the top of this module says, streamed: memory does not grow with the day."""
    digest = hashlib.sha256(previous_hash + f"{day.isoformat()}\n".encode())
    ids = (await session.execute(_ID_RANGE, _bounds(day))).one()
    count = 0

    async def take(lines: bytes) -> None:
        nonlocal count
        # Within a line a newline is written as \n.
        count += lines.count(b"\n")
        digest.update(lines)

    if ids.first is not None:
        connection = await driver_connection(session)
        await connection.copy_from_query(_POSTINGS, ids.first, ids.last, day, output=take, timeout=TIMEOUT_SECONDS)
    return HashedDay(count, digest.digest())


async def check_day(session: AsyncSession, day: LedgerDay) -> list[Violation]:
    """Compare a sealed day with its postings, its totals, the day before and its closed month: what differs, if any."""
    found = await _broken_links(session, day)
    hashed = await hash_day(session, day.day, previous_hash=day.previous_hash)
    if hashed.postings != day.postings:
        found.append(f"{day.postings} postings were sealed, {hashed.postings} are there")
    elif hashed.hash != day.hash:
        found.append("its postings or their transfers are not those that were sealed")
    different = (await session.execute(_DIFFERENT_TOTALS, {"day": day.day, **_bounds(day.day)})).first()
    if different is not None:
        found.append(f"its total of {different.account} {different.merchant_id or ''} {different.currency} differs")
    return [Violation(NAME, day.day.isoformat(), detail) for detail in found]


async def check_known(session: AsyncSession, known: Mapping[date, bytes]) -> list[Violation]:
    """Compare days with hashes that were noted outside the database when they were sealed."""
    rows = await session.execute(select(LedgerDay.day, LedgerDay.hash).where(LedgerDay.day.in_(known)))
    stored = {row.day: row.hash for row in rows}
    return [
        Violation(NAME, day.isoformat(), "its hash is not the one noted" if day in stored else "it is not sealed")
        for day, noted in sorted(known.items())
        if stored.get(day) != noted
    ]


async def next_days(session: AsyncSession, after: date | None, *, limit: int) -> list[LedgerDay]:
    """Return the sealed days after one, oldest first."""
    statement = select(LedgerDay).order_by(LedgerDay.day).limit(limit)
    if after is not None:
        statement = statement.where(LedgerDay.day > after)
    # As the database has it now, and not as this session may have seen it.
    return list((await session.scalars(statement.execution_options(populate_existing=True))).all())


def midnight(day: date) -> datetime:
    """Return the beginning of a day, UTC."""
    return datetime.combine(day, time.min, UTC)


def _bounds(day: date) -> dict[str, Any]:
    return {"start": midnight(day), "end": midnight(day) + timedelta(days=1)}


async def _first_day(session: AsyncSession) -> date | None:
    first: datetime | None = await session.scalar(select(func.min(Posting.created_at)))
    return first and first.astimezone(UTC).date()


async def _is_over(session: AsyncSession, day: date) -> bool:
    end = _bounds(day)["end"]
    now: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    return now >= end + MARGIN and not await session.scalar(_STILL_WRITING, {"end": end})


async def _broken_links(session: AsyncSession, day: LedgerDay) -> list[str]:
    found = []
    before = (
        await session.execute(
            select(LedgerDay.day, LedgerDay.hash).where(LedgerDay.day < day.day).order_by(LedgerDay.day.desc()).limit(1)
        )
    ).one_or_none()
    if before is None:
        if day.previous_hash != BEFORE_FIRST:
            found.append("the days before it are missing")
        if await session.scalar(select(Posting.id).where(Posting.created_at < midnight(day.day)).limit(1)):
            found.append("there are postings before it, the first day")
    elif before.day != day.day - timedelta(days=1):
        found.append(f"the days between {before.day} and it are missing")
    elif before.hash != day.previous_hash:
        found.append(f"it does not follow from {before.day}")
    if (day.day + timedelta(days=1)).day == 1:
        closed = await session.scalar(select(MonthClose.chain_hash).where(MonthClose.month == day.day.replace(day=1)))
        if closed not in (None, day.hash):
            found.append("its hash is not the one that the closed month has")
    return found
