"""Calls a minute to a host, however many workers and feeds call it.

A host's row says when it may be called next; each call moves that on by its feed's interval in one statement, and
waits for the moment it was given. So calls are evenly spaced, and one that is not made after all costs only its turn.
"""

from sqlalchemy import extract, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import FeedHost

_MINUTE_SECONDS = 60.0


async def reserve_call(session: AsyncSession, *, host: str, calls_a_minute: int) -> float:
    """Take the next turn at a host; returns how many seconds there are until then."""
    now = func.clock_timestamp()
    interval = func.make_interval(0, 0, 0, 0, 0, 0, _MINUTE_SECONDS / calls_a_minute)
    statement = (
        insert(FeedHost)
        .values(host=host, next_call_at=now + interval)
        .on_conflict_do_update(
            index_elements=[FeedHost.host], set_={"next_call_at": func.greatest(FeedHost.next_call_at, now) + interval}
        )
        .returning(extract("epoch", FeedHost.next_call_at - interval - now))
    )
    return max(0.0, float((await session.execute(statement)).scalar_one()))
