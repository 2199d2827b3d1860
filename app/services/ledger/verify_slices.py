"""Proving the ledger slice by slice: all in one snapshot for the command, a little at a time for the schedule.

Each slice is one statement over a range of keys in the order of an index, so that neither the time of a slice nor
anybody's memory grows with the tables. A slice sees one snapshot, which holds only whole transactions: money that moves
meanwhile is never taken for a violation.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from time import perf_counter
from typing import Protocol

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import LedgerCheck
from app.services.ledger import chain
from app.services.ledger.verify import (
    INVARIANTS,
    MOST_SHOWN,
    TIMEOUT_SECONDS,
    Invariant,
    Keys,
    Violation,
    driver_connection,
    find,
    without_timeout,
)

# A slice of the command's, in small slices: it has nobody to make way for.
_COMMAND_SLICE = 10
_SMALLEST = {"uuid": "00000000-0000-0000-0000-000000000000", "text": "", "integer": str(-(2**31))}
# Of texts: after every status and type that there is, by any collation.
_LARGEST = {"uuid": "ffffffff-ffff-ffff-ffff-ffffffffffff", "text": "zzzzzzzz", "integer": str(2**31 - 1)}
# PostgreSQL cannot estimate ranges of UUIDs: it takes a small one for a single row, and then joins two slices by a
# nested loop, row by row. A generic plan takes any range for half a percent of the table, and indexes for all of it.
_PLANS = text("""
    SELECT set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_seqscan', 'off', true),
           set_config('max_parallel_workers_per_gather', '0', true)
""")


@dataclass(frozen=True, slots=True)
class Sliced:
    """What a slice had wrong, and where the next one begins; None: this was the last."""

    violations: list[Violation]
    position: str | None


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found wrong with one rule, and how long that took."""

    name: str
    rule: str
    violations: list[Violation]
    seconds: float


class Check(Protocol):
    """A rule that can be checked by slices."""

    @property
    def name(self) -> str:
        """Its name in metrics, logs and `ledger_checks`."""

    @property
    def rule(self) -> str:
        """What must hold, in a sentence."""

    async def check_slice(self, session: AsyncSession, position: str | None, *, size: int) -> Sliced:
        """Check from a position on (None: the beginning), `size` small slices at once."""


@dataclass(frozen=True, slots=True)
class InvariantCheck:
    """An invariant, by ranges of its keys."""

    invariant: Invariant

    @property
    def name(self) -> str:
        """The invariant's name."""
        return self.invariant.name

    @property
    def rule(self) -> str:
        """The invariant's rule."""
        return self.invariant.rule

    async def check_slice(self, session: AsyncSession, position: str | None, *, size: int) -> Sliced:
        """Check the next keys. The last slice ends with the largest key there can be: what comes meanwhile is in it."""
        await session.execute(_PLANS)
        keys = self.invariant.keys
        after = position.split(" ") if position else [_SMALLEST[kind] for kind in keys.types]
        connection = await driver_connection(session)
        cut = await connection.fetchrow(_cut(keys, keys.rows * size), *after, timeout=TIMEOUT_SECONDS)
        until = list(cut) if cut else [_LARGEST[kind] for kind in keys.types]
        found = await find(session, self.invariant, slice_statement(self.invariant), *after, *until)
        return Sliced(found, " ".join(until) if cut else None)


class DaysCheck:
    """The chain of sealed days, a day a slice."""

    name = chain.NAME
    rule = chain.RULE

    async def check_slice(self, session: AsyncSession, position: str | None, *, size: int) -> Sliced:
        """Check the next days."""
        days = await chain.next_days(session, date.fromisoformat(position) if position else None, limit=size)
        found = [violation for day in days for violation in await chain.check_day(session, day)]
        return Sliced(found, days[-1].day.isoformat() if len(days) == size else None)


DAYS = DaysCheck()
CHECKS: tuple[Check, ...] = (*map(InvariantCheck, INVARIANTS), DAYS)


async def verify(
    session: AsyncSession,
    *,
    known: Mapping[date, bytes] | None = None,
    on_progress: Callable[[str, int], None] = lambda *_: None,
) -> AsyncIterator[Checked]:
    """Check everything in one snapshot, and yield the result of each rule when it is known.

    `known` are hashes of days that were noted elsewhere. `on_progress` hears the name of the rule and how many of its
    slices are done. At most about MOST_SHOWN violations of a rule are looked for.
    """
    # Each slice is consistent by itself; one snapshot for all is what an auditor can refer to.
    await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
    await without_timeout(session)
    # What a slice adds up fits, so that nothing is spilled into files.
    await session.execute(text("SET LOCAL work_mem = '64MB'"))
    for check in CHECKS:
        started = perf_counter()
        found: list[Violation] = []
        position, slices = None, 0
        while True:
            on_progress(check.name, slices)
            sliced = await check.check_slice(session, position, size=_COMMAND_SLICE)
            found += sliced.violations
            position, slices = sliced.position, slices + 1
            if position is None or len(found) >= MOST_SHOWN:
                break
        if check is DAYS and known:
            found += await chain.check_known(session, known)
        yield Checked(check.name, check.rule, found, perf_counter() - started)


async def continue_pass(session: AsyncSession, check: Check) -> tuple[list[Violation], bool]:
    """Check the next small slice of a rule, in the caller's transaction, and remember how far that came.

    Returns the violations, and whether this ends a pass over all keys (or another process is at this rule just now).
    """
    await session.execute(insert(LedgerCheck).values(invariant=check.name).on_conflict_do_nothing())
    known: LedgerCheck | None = await session.scalar(
        select(LedgerCheck).where(LedgerCheck.invariant == check.name).with_for_update(skip_locked=True)
    )
    if known is None:
        return [], True
    await without_timeout(session)
    now: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    if known.position is None:
        known.pass_started_at, known.pass_violations = now, 0
    sliced = await check.check_slice(session, known.position, size=1)
    known.position, known.checked_at = sliced.position, now
    known.pass_violations += len(sliced.violations)
    if sliced.position is None:
        known.pass_finished_at, known.violations = now, known.pass_violations
    return sliced.violations, sliced.position is None


def slice_statement(invariant: Invariant) -> str:
    """Return an invariant's statement for the keys above its first parameters, up to and with its last ones."""
    keys = invariant.keys
    above, up_to = _values(keys, 1), _values(keys, len(keys.types) + 1)
    return invariant.within(lambda columns: f"({columns}) > {above} AND ({columns}) <= {up_to}")


def _cut(keys: Keys, rows: int) -> str:
    """Return the statement that finds the last key of a slice, as text; no row when fewer keys are left."""
    columns = ", ".join(f"{keys.table}.{column}" for column in keys.columns)
    shown = ", ".join(f"{keys.table}.{column}::text" for column in keys.columns)
    return (
        f"SELECT {shown} FROM {keys.table} WHERE ({columns}) > {_values(keys, 1)}"  # noqa: S608 - our own constants
        f" ORDER BY {columns} OFFSET {rows - 1} LIMIT 1"
    )


def _values(keys: Keys, first: int) -> str:
    """Return a key as parameters, which come as text: `($1::text::uuid)`."""
    return "(" + ", ".join(f"${number}::text::{kind}" for number, kind in enumerate(keys.types, first)) + ")"
