"""Keeping the policy of how long raw events are kept."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from app.config import Settings
from app.db import transaction
from app.services.retention import BATCH, due_events, erase_events, first_kept


@dataclass(frozen=True, slots=True)
class Kept:
    """What a run did, or would do: events erased, and events whose time is over but which something needs."""

    before: datetime
    erased: int
    needed: int


def retention(settings: Settings) -> Callable[[], Awaitable[int]]:
    """Return the task `keep_retention` of one worker process."""

    async def keep_retention() -> int:
        """Erase what the policy says; returns how many events."""
        if settings.webhook_raw_keep_months is None:
            return 0
        return (await apply(settings.webhook_raw_keep_months)).erased

    return keep_retention


async def apply(months: int, *, is_dry: bool = False) -> Kept:
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
