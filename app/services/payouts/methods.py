"""Payout methods: added with the password again, usable after a hold, wiped when they are deleted.

The hold of a method is fixed when it is added, as the longest that any currency's rule has then: the customer is told
one time and can rely on it, and no currency is a way around another's hold.
"""

from datetime import UTC, datetime, timedelta
from typing import assert_never
from uuid import UUID

import schwifty
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.errors import ConflictError, ForbiddenError, NotFoundError
from app.models import Customer, CustomerStatus, Payout, PayoutMethod, PayoutRule, PayoutStatus
from app.schemas.payouts import (
    NewEmailWallet,
    NewIban,
    NewLocalAccount,
    NewMobileWallet,
    NewPayoutMethod,
    PayoutMethodPage,
    PayoutMethodRead,
)
from app.services import step_up
from app.services.pagination import newest_first
from app.services.passwords import Passwords
from app.services.payouts.accounts import PayoutAccount, fingerprint, mask, open_method, seal_account
from app.services.tokens import AccessToken, InvalidAccessTokenError

__all__ = ["PayoutAccount", "open_method"]

MOST_METHODS = 10
# Somebody still has to do something about these.
OPEN = (PayoutStatus.REQUESTED, PayoutStatus.APPROVED, PayoutStatus.SENT)


class PayoutsFrozenError(ForbiddenError):
    """A frozen customer withdraws nothing."""

    code = "payouts_frozen"
    title = "Account frozen"

    def __init__(self) -> None:
        super().__init__("This account is frozen: nothing is paid out at present, and no payout method can be added.")


class PayoutMethodNotFoundError(NotFoundError):
    """This customer has no payout method with this id."""

    code = "payout_method_not_found"
    title = "Payout method not found"

    def __init__(self, method_id: UUID) -> None:
        super().__init__(f"You have no payout method {method_id}.")


class PayoutMethodExistsError(ConflictError):
    """The customer has a method with this account already."""

    code = "payout_method_exists"
    title = "Payout method exists"

    def __init__(self) -> None:
        super().__init__("You have a payout method with this account already; delete it first to enter it anew.")


class TooManyPayoutMethodsError(ConflictError):
    """The customer has as many methods as one may have."""

    code = "too_many_payout_methods"
    title = "Too many payout methods"

    def __init__(self) -> None:
        super().__init__(f"You have {MOST_METHODS} payout methods, which is the most; delete one first.")


class PayoutMethodInUseError(ConflictError):
    """A payout to this method is not finished."""

    code = "payout_method_in_use"
    title = "Payout method in use"

    def __init__(self) -> None:
        super().__init__("A payout to this method is under way; delete it once that is over.")


async def add_method(
    settings: Settings, passwords: Passwords, *, signed_in: AccessToken, wanted: NewPayoutMethod
) -> PayoutMethodRead:
    """Add a method, once the customer has stepped up. Opens its transactions itself: none waits while argon2 works.

    Raises what `step_up.confirm` raises, EmailUnverifiedError, PayoutsFrozenError, PayoutMethodExistsError and
    TooManyPayoutMethodsError.
    """
    asking = await step_up.confirm(settings, passwords, signed_in=signed_in, password=wanted.password, code=wanted.code)
    account = _account(wanted)
    async with transaction() as session:
        customer = await session.get_one(Customer, asking.id, with_for_update={"key_share": True})
        match customer.status:
            case CustomerStatus.CLOSED:
                raise InvalidAccessTokenError("The account of this token is closed.")
            case CustomerStatus.FROZEN:
                raise PayoutsFrozenError
            case CustomerStatus.ACTIVE:
                pass
            case _:
                assert_never(customer.status)
        if customer.password_hash != asking.password_hash:  # changed while argon2 worked
            raise step_up.StepUpFailedError
        step_up.require_verified_email(customer)
        return PayoutMethodRead.model_validate(await _insert(session, settings, customer.id, account))


async def list_methods(session: AsyncSession, *, customer_id: UUID, limit: int, cursor: str | None) -> PayoutMethodPage:
    """Return a customer's methods, newest first, without deleted ones. Raises InvalidCursorError."""
    statement = select(PayoutMethod).where(PayoutMethod.customer_id == customer_id, PayoutMethod.deleted_at.is_(None))
    rows, next_cursor = await newest_first(session, statement, PayoutMethod.id, limit=limit, cursor=cursor)
    items = [PayoutMethodRead.model_validate(row) for row in rows]
    return PayoutMethodPage(items=items, next_cursor=next_cursor)


async def lock_method(session: AsyncSession, *, customer_id: UUID, method_id: UUID, share: bool) -> PayoutMethod:
    """Return a customer's method, locked: shared to pay to it, alone to delete it.

    Raises PayoutMethodNotFoundError, also for another customer's.
    """
    method = await session.scalar(
        select(PayoutMethod)
        .where(PayoutMethod.id == method_id, PayoutMethod.customer_id == customer_id, PayoutMethod.deleted_at.is_(None))
        .with_for_update(read=share)
        .execution_options(populate_existing=True)
    )
    if method is None:
        raise PayoutMethodNotFoundError(method_id)
    return method


async def delete_method(session: AsyncSession, *, customer_id: UUID, method_id: UUID) -> None:
    """Delete a method: its row and mask stay for the payouts it had, its account is wiped.

    Raises PayoutMethodNotFoundError and PayoutMethodInUseError.
    """
    method = await lock_method(session, customer_id=customer_id, method_id=method_id, share=False)
    in_use = select(Payout.id).where(
        Payout.customer_id == customer_id, Payout.method_id == method_id, Payout.status.in_(OPEN)
    )
    if await session.scalar(select(in_use.exists())):
        raise PayoutMethodInUseError
    method.details_encrypted, method.deleted_at = b"", datetime.now(UTC)
    await session.flush()


async def wipe_methods(session: AsyncSession, *, customer_id: UUID) -> None:
    """Delete all methods of a customer who has no open payout and whose row the caller has locked."""
    await session.execute(
        update(PayoutMethod)
        .where(PayoutMethod.customer_id == customer_id, PayoutMethod.deleted_at.is_(None))
        .values(details_encrypted=b"", deleted_at=datetime.now(UTC))
        .execution_options(synchronize_session=False)
    )


async def others_with_account(session: AsyncSession, method: PayoutMethod) -> int:
    """Count the other customers who have or had a method with this account."""
    others = select(func.count(PayoutMethod.customer_id.distinct())).where(
        PayoutMethod.fingerprint == method.fingerprint, PayoutMethod.customer_id != method.customer_id
    )
    return (await session.scalars(others)).one()


async def _insert(session: AsyncSession, settings: Settings, customer_id: UUID, account: PayoutAccount) -> PayoutMethod:
    live = select(func.count()).where(PayoutMethod.customer_id == customer_id, PayoutMethod.deleted_at.is_(None))
    # The customer's row is locked, so nobody adds another one meanwhile.
    if (await session.scalar(live) or 0) >= MOST_METHODS:
        raise TooManyPayoutMethodsError
    hold_hours = await session.scalar(select(func.max(PayoutRule.method_hold_hours))) or 0
    method: PayoutMethod | None = await session.scalar(
        insert(PayoutMethod)
        .values(
            customer_id=customer_id,
            kind=account.kind,
            details_encrypted=seal_account(settings, account),
            masked=mask(account),
            fingerprint=fingerprint(settings, account),
            usable_from=datetime.now(UTC) + timedelta(hours=hold_hours),
        )
        .on_conflict_do_nothing()
        .returning(PayoutMethod)
    )
    if method is None:
        raise PayoutMethodExistsError
    return method


def _account(wanted: NewPayoutMethod) -> PayoutAccount:
    match wanted:
        case NewIban():
            iban = schwifty.IBAN(wanted.iban)
            return PayoutAccount(
                wanted.kind,
                wanted.holder,
                country=iban.country_code,
                iban=iban.compact,
                bic=None if iban.bic is None else str(iban.bic),
            )
        case NewLocalAccount():
            return PayoutAccount(
                wanted.kind,
                wanted.holder,
                country=wanted.country,
                bank_code=wanted.bank_code,
                account_number=wanted.account_number,
            )
        case NewMobileWallet():
            return PayoutAccount(wanted.kind, wanted.holder, phone=wanted.phone, provider=wanted.provider)
        case NewEmailWallet():
            return PayoutAccount(wanted.kind, wanted.holder, email=wanted.email, provider=wanted.provider)
        case _:
            assert_never(wanted)
