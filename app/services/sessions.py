"""Sessions: a customer's sign-ins by device, shown to that customer and ended one by one or together.

A session and the refresh tokens of its family end in one transaction. Lock the customer's row before: a refresh that is
under way holds it, and the token that it makes must be seen.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFoundError
from app.models import Customer, CustomerSession, RefreshToken
from app.schemas.common import Page
from app.schemas.sessions import SessionRead
from app.services.pagination import newest_first

_LONGEST_USER_AGENT = 256


@dataclass(frozen=True, slots=True)
class Device:
    """What a client says of the device that it signs in on."""

    user_agent: str | None = None
    label: str | None = None

    @property
    def shown_user_agent(self) -> str | None:
        """The user agent, cut to what is worth keeping, without what a terminal or PostgreSQL would choke on."""
        text = "".join(one for one in self.user_agent or "" if one.isprintable())
        return text[:_LONGEST_USER_AGENT] or None


class SessionNotFoundError(NotFoundError):
    """This customer has no such session, or it has ended."""

    code = "session_not_found"
    title = "Session not found"

    def __init__(self, session_id: UUID) -> None:
        super().__init__(f"You have no session {session_id} that lasts.")


async def list_sessions(
    session: AsyncSession, *, customer_id: UUID, current_id: UUID, limit: int, cursor: str | None
) -> Page[SessionRead]:
    """Return the sessions that last, newest first. Raises InvalidCursorError."""
    statement = select(CustomerSession).where(
        CustomerSession.customer_id == customer_id,
        CustomerSession.ended_at.is_(None),
        CustomerSession.expires_at > datetime.now(UTC),
    )
    rows, next_cursor = await newest_first(session, statement, CustomerSession.id, limit=limit, cursor=cursor)
    items = [SessionRead.of(row, current_id=current_id) for row in rows]
    return Page(items=items, next_cursor=next_cursor)


async def end_session(session: AsyncSession, *, customer_id: UUID, session_id: UUID) -> None:
    """End one session of a customer. Raises SessionNotFoundError."""
    await lock_customer(session, customer_id)
    own = select(CustomerSession.id).where(
        CustomerSession.id == session_id,
        CustomerSession.customer_id == customer_id,
        CustomerSession.ended_at.is_(None),
    )
    if await session.scalar(own) is None:
        raise SessionNotFoundError(session_id)
    await end_sessions(session, customer_id=customer_id, only=session_id)


async def end_other_sessions(session: AsyncSession, *, customer_id: UUID, current_id: UUID) -> None:
    """End all sessions of a customer but one."""
    await lock_customer(session, customer_id)
    await end_sessions(session, customer_id=customer_id, keep=current_id)


async def end_sessions(
    session: AsyncSession, *, customer_id: UUID, only: UUID | None = None, keep: UUID | None = None
) -> int:
    """End a customer's sessions with their refresh tokens: all, one, or all but one; returns how many tokens ended."""
    now = datetime.now(UTC)
    sessions = update(CustomerSession).where(
        CustomerSession.customer_id == customer_id, CustomerSession.ended_at.is_(None)
    )
    tokens = update(RefreshToken).where(RefreshToken.customer_id == customer_id, RefreshToken.revoked_at.is_(None))
    if only is not None:
        sessions, tokens = sessions.where(CustomerSession.id == only), tokens.where(RefreshToken.family_id == only)
    if keep is not None:
        sessions, tokens = sessions.where(CustomerSession.id != keep), tokens.where(RefreshToken.family_id != keep)
    await session.execute(sessions.values(ended_at=now).execution_options(synchronize_session=False))
    ended = await session.scalars(tokens.values(revoked_at=now).returning(RefreshToken.id))
    return len(ended.all())


async def lock_customer(session: AsyncSession, customer_id: UUID) -> None:
    """Keep a customer's families as they are until the transaction ends."""
    await session.execute(select(Customer.id).where(Customer.id == customer_id).with_for_update(key_share=True))


async def forget_expired(session: AsyncSession, *, limit: int) -> int:
    """Delete up to `limit` sessions that have expired; returns how many. What it issued is refused then."""
    over = select(CustomerSession.id).where(CustomerSession.expires_at < datetime.now(UTC)).limit(limit)
    deleted = await session.scalars(
        delete(CustomerSession).where(CustomerSession.id.in_(over.scalar_subquery())).returning(CustomerSession.id)
    )
    return len(deleted.all())
