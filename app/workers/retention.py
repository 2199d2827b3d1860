"""Keeping the policy of how long clicks and raw events are kept; months of clicks are made ahead."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from app.config import Settings
from app.db import transaction
from app.services import click_months
from app.services.retention import BATCH, due_events, erase_events, first_kept

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a run did, or would do: events erased, and events whose time is over but which something needs."""

    before: datetime
    erased: int
    needed: int


@dataclass(frozen=True, slots=True)
class KeptMonth:
    """A month of clicks whose time is over: why it stays as it is, or how many clicks of it orders need."""

    month: click_months.Month
    undecided_events: int
    kept: int | None = None


def retention(settings: Settings) -> Callable[[], Awaitable[int]]:
    """Return the task `keep_retention` of one worker process."""

    async def keep_retention() -> int:
        """Do what the policy says; returns how many events were erased."""
        if await make_months_ahead() and settings.click_keep_months is not None:
            await drop_clicks(settings, settings.click_keep_months)
        if settings.webhook_raw_keep_months is None:
            return 0
        return (await erase_raw_events(settings.webhook_raw_keep_months)).erased

    return keep_retention


async def make_months_ahead() -> bool:
    """Make the months of clicks to come; returns whether months are ours to make and to drop at all."""
    async with transaction() as session:
        may = await click_months.may_change_months(session)
        if may:
            await click_months.make_ahead(session, now=datetime.now(UTC))
    return may


async def drop_clicks(settings: Settings, months: int, *, is_dry: bool = False) -> list[KeptMonth]:
    """Replace the months of clicks whose time is over by what orders need of them; those that something needs stay."""
    async with transaction() as session:
        due = await click_months.due_months(session, settings, keep_months=months, now=datetime.now(UTC))
    done = []
    for month, undecided in due:
        kept = None if is_dry or undecided else await click_months.compact(month)
        logger.info("month of clicks", extra={"table": month.table, "undecided_events": undecided, "kept": kept})
        done.append(KeptMonth(month, undecided, kept))
    return done


async def erase_raw_events(months: int, *, is_dry: bool = False) -> Kept:
    """Erase the raw bytes of events that are older than so many whole months, a transaction a batch."""
    before, erased, needed, last = first_kept(datetime.now(UTC), months), 0, 0, None
    while True:
        async with transaction() as session:
            due = await due_events(session, before=before, after=last, limit=BATCH)
            going = sum(may_go for _, may_go in due)
            erased += going if is_dry else await erase_events(session, due)
        needed += len(due) - going
        if len(due) < BATCH:
            return Kept(before, erased, needed)
        last, _ = due[-1]
