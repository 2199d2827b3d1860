"""Payouts shown: to their customer, and to staff with what helps to decide about them."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFoundError
from app.models import Payout, PayoutChange, PayoutMethod, PayoutProvider, PayoutStatus
from app.schemas.common import Money, Page
from app.schemas.payouts import (
    PayoutAdminDetail,
    PayoutAdminRead,
    PayoutAdminStep,
    PayoutDetail,
    PayoutMethodBrief,
    PayoutRead,
    PayoutStep,
)
from app.services.pagination import cut_page, decode_cursor, encode_cursor
from app.services.payouts.decide import UnknownPayoutError
from app.services.payouts.methods import others_with_account

_ENDED_BADLY = (PayoutStatus.FAILED, PayoutStatus.REJECTED)


class PayoutNotFoundError(NotFoundError):
    """This customer has no payout with this id."""

    code = "payout_not_found"
    title = "Payout not found"

    def __init__(self, payout_id: UUID) -> None:
        super().__init__(f"You have no payout {payout_id}.")


def payout_read(payout: Payout, method: PayoutMethod) -> PayoutRead:
    """Return a payout as its customer sees it."""
    return PayoutRead(**_members(payout, method), reason=_told(payout))


async def list_for_customer(
    session: AsyncSession, *, customer_id: UUID, limit: int, cursor: str | None, status: PayoutStatus | None = None
) -> Page[PayoutRead]:
    """Return a customer's payouts, newest first. Raises InvalidCursorError."""
    statement = _with_methods().where(Payout.customer_id == customer_id)
    if status is not None:
        statement = statement.where(Payout.status == status)
    rows, next_cursor = await _page(session, statement, limit, cursor)
    return Page(items=[payout_read(payout, method) for payout, method in rows], next_cursor=next_cursor)


async def show_to_customer(session: AsyncSession, *, customer_id: UUID, payout_id: UUID) -> PayoutDetail:
    """Return a customer's payout with its states. Raises PayoutNotFoundError, also for another customer's."""
    statement = _with_methods().where(Payout.id == payout_id, Payout.customer_id == customer_id)
    row = (await session.execute(statement)).one_or_none()
    if row is None:
        raise PayoutNotFoundError(payout_id)
    steps = [
        PayoutStep(status=change.status, reason=_told(change), at=change.at)
        for change in await _changes(session, payout_id)
    ]
    return PayoutDetail(**dict(payout_read(row[0], row[1])), steps=steps)


async def list_for_staff(
    session: AsyncSession,
    *,
    limit: int,
    cursor: str | None,
    status: PayoutStatus | None = None,
    currency: str | None = None,
    provider: PayoutProvider | None = None,
    customer_id: UUID | None = None,
    batch_id: UUID | None = None,
) -> Page[PayoutAdminRead]:
    """Return payouts, newest first. Raises InvalidCursorError."""
    statement = _with_methods()
    for column, value in (
        (Payout.status, status),
        (Payout.currency, currency),
        (Payout.provider, provider),
        (Payout.customer_id, customer_id),
        (Payout.batch_id, batch_id),
    ):
        if value is not None:
            statement = statement.where(column == value)
    rows, next_cursor = await _page(session, statement, limit, cursor)
    return Page(
        items=[PayoutAdminRead(**_admin_members(payout, method)) for payout, method in rows], next_cursor=next_cursor
    )


async def show_to_staff(session: AsyncSession, *, payout_id: UUID) -> PayoutAdminDetail:
    """Return a payout with its states and who brought it there. Raises UnknownPayoutError."""
    statement = _with_methods().where(Payout.id == payout_id).execution_options(populate_existing=True)
    row = (await session.execute(statement)).one_or_none()
    if row is None:
        raise UnknownPayoutError(payout_id)
    return PayoutAdminDetail(
        **_admin_members(row[0], row[1]),
        account_shared_with=await others_with_account(session, row[1]),
        steps=[PayoutAdminStep.model_validate(change) for change in await _changes(session, payout_id)],
    )


def _with_methods() -> Select[Payout, PayoutMethod]:
    return select(Payout, PayoutMethod).join(PayoutMethod, PayoutMethod.id == Payout.method_id)


async def _page(
    session: AsyncSession, statement: Select[Payout, PayoutMethod], limit: int, cursor: str | None
) -> tuple[list[tuple[Payout, PayoutMethod]], str | None]:
    if cursor is not None:
        (last_id,) = decode_cursor(cursor, UUID)
        statement = statement.where(Payout.id < last_id)
    found = await session.execute(statement.order_by(Payout.id.desc()).limit(limit + 1))
    rows, more = cut_page([(payout, method) for payout, method in found], limit)
    return rows, encode_cursor(rows[-1][0].id) if more else None


async def _changes(session: AsyncSession, payout_id: UUID) -> Sequence[PayoutChange]:
    # Of one transaction all have one time; their ids then tell which was first.
    statement = select(PayoutChange).where(PayoutChange.payout_id == payout_id)
    return (await session.scalars(statement.order_by(PayoutChange.at, PayoutChange.id))).all()


def _told(about: Payout | PayoutChange) -> str | None:
    """Return the reason where it is the customer's business; that of a payout under way is a note for staff."""
    return about.reason if about.status in _ENDED_BADLY else None


def _members(payout: Payout, method: PayoutMethod) -> dict[str, Any]:
    def money(amount_minor: int) -> Money:
        return Money(amount_minor=amount_minor, currency=payout.currency)

    return {
        "id": payout.id,
        "status": payout.status,
        "amount": money(payout.amount_minor),
        "fee": money(payout.fee_minor),
        "receives": money(payout.amount_minor - payout.fee_minor),
        "method": PayoutMethodBrief.model_validate(method),
        "created_at": payout.created_at,
        "updated_at": payout.updated_at,
    }


def _admin_members(payout: Payout, method: PayoutMethod) -> dict[str, Any]:
    return {
        **_members(payout, method),
        "reason": payout.reason,
        "customer_id": payout.customer_id,
        "provider": payout.provider,
        "provider_reference": payout.provider_reference,
        "batch_id": payout.batch_id,
        "decided_by_id": payout.decided_by_id,
        "next_attempt_at": payout.next_attempt_at,
        "tries": payout.tries,
    }
