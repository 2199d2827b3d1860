"""Asking for a payout: the rule of its currency, the method's hold, the balance, and the limits of the day.

Races are decided by row locks, taken in the order customer, method, wallet. Shared locks on the first two keep the
account from being closed and the method from being deleted meanwhile. The wallet's, which `life.start` takes, puts
all payouts of a customer in a currency in a line: each counts the day once those before it are committed.
"""

from datetime import UTC, datetime, timedelta
from typing import assert_never

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.errors import ConflictError, FieldError, InvalidRequestError
from app.models import Customer, CustomerStatus, Payout, PayoutMethod, PayoutRule, PayoutStatus
from app.money import format_minor
from app.schemas.common import utc
from app.schemas.payouts import PayoutRead, PayoutRequest
from app.services.payouts import decide, life
from app.services.payouts.methods import PayoutsFrozenError, lock_method, others_with_account
from app.services.payouts.rules import fee_of, rule_for_request
from app.services.payouts.show import payout_read
from app.services.step_up import require_verified_email
from app.services.tokens import InvalidAccessTokenError

# These brought the customer nothing, so they take nothing of the day's limits.
_NOT_COUNTED = (PayoutStatus.FAILED, PayoutStatus.REJECTED)


class PayoutMinimumError(InvalidRequestError):
    """Less than the least amount of one payout."""

    code = "payout_below_minimum"
    title = "Below the minimum"

    def __init__(self, rule: PayoutRule) -> None:
        where: FieldError = {"loc": ["body", "amount_minor"], "msg": "Below the minimum", "type": self.code}
        least = format_minor(rule.minimum_minor, rule.currency)
        super().__init__(f"A payout is of {least} {rule.currency} at least.", errors=[where])


class PayoutKindError(InvalidRequestError):
    """The currency is not paid to methods of this kind."""

    code = "payout_kind_unavailable"
    title = "Not for this kind of method"

    def __init__(self, rule: PayoutRule, method: PayoutMethod) -> None:
        where: FieldError = {"loc": ["body", "method_id"], "msg": "Not for this kind of method", "type": self.code}
        kinds = ", ".join(rule.method_kinds)
        super().__init__(
            f"{rule.currency} is paid to methods of the kinds {kinds}, not to {method.kind.value}.", errors=[where]
        )


class PayoutMethodHeldError(ConflictError):
    """The method is too new; `usable_from` says when its hold is over."""

    code = "payout_method_held"
    title = "Payout method on hold"

    def __init__(self, method: PayoutMethod) -> None:
        usable_from = utc(method.usable_from)
        super().__init__(f"This payout method is new, and can be used from {usable_from} on.")
        self.members = {"usable_from": usable_from}


class PayoutDailyLimitError(ConflictError):
    """More than one customer may have paid out on one day (UTC)."""

    code = "payout_daily_limit"
    title = "Daily limit reached"

    def __init__(self, rule: PayoutRule) -> None:
        most = format_minor(rule.daily_limit_minor, rule.currency)
        super().__init__(f"At most {most} {rule.currency} are paid out to a customer on one day (UTC).")


class PayoutDailyCountError(ConflictError):
    """More payouts than one customer may ask for on one day (UTC)."""

    code = "payout_daily_count"
    title = "Too many payouts today"

    def __init__(self, rule: PayoutRule) -> None:
        super().__init__(f"At most {rule.daily_count} payouts in {rule.currency} a customer on one day (UTC).")


async def request_payout(
    session: AsyncSession, settings: Settings, *, customer: Customer, wanted: PayoutRequest
) -> PayoutRead:
    """Take the amount out of the available balance and wait for a decision, or approve it at once by the rule.

    Raises PayoutsFrozenError, EmailUnverifiedError, PayoutCurrencyError, PayoutMethodNotFoundError, PayoutKindError,
    PayoutMethodHeldError, PayoutMinimumError, InsufficientBalanceError, PayoutDailyLimitError and
    PayoutDailyCountError.
    """
    await _require_active(session, customer)
    rule = await rule_for_request(session, wanted.currency)
    method = await lock_method(session, customer_id=customer.id, method_id=wanted.method_id, share=True)
    if method.kind not in rule.method_kinds:
        raise PayoutKindError(rule, method)
    if method.usable_from > datetime.now(UTC):
        raise PayoutMethodHeldError(method)
    if wanted.amount_minor < rule.minimum_minor:
        raise PayoutMinimumError(rule)
    payout = Payout(
        customer_id=customer.id,
        method_id=method.id,
        currency=rule.currency,
        amount_minor=wanted.amount_minor,
        fee_minor=fee_of(rule, wanted.amount_minor),
        status=PayoutStatus.REQUESTED,
        provider=rule.provider,
    )
    await life.start(session, payout)
    await _keep_limits(session, payout, rule)
    # An account that several customers name is for a person to look at, and much money for two.
    small = payout.amount_minor <= rule.auto_approve_minor
    small = small and not settings.needs_second_person(payout.amount_minor, payout.currency)
    if small and await others_with_account(session, method) == 0:
        await decide.approve(session, payout, staff_key_id=None)
    await session.refresh(payout)
    return payout_read(payout, method)


async def _require_active(session: AsyncSession, customer: Customer) -> None:
    await session.refresh(customer, with_for_update={"read": True})
    match customer.status:
        case CustomerStatus.CLOSED:
            raise InvalidAccessTokenError("The account of this token is closed.")
        case CustomerStatus.FROZEN:
            raise PayoutsFrozenError
        case CustomerStatus.ACTIVE:
            require_verified_email(customer)
        case _:
            assert_never(customer.status)


async def _keep_limits(session: AsyncSession, payout: Payout, rule: PayoutRule) -> None:
    """Count the day with this payout in it. The wallet is locked, so whatever was before it is committed and seen."""
    day = payout.created_at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    count, total_minor = (
        await session.execute(
            select(func.count(), func.sum(Payout.amount_minor)).where(
                Payout.customer_id == payout.customer_id,
                Payout.currency == payout.currency,
                Payout.created_at >= day,
                Payout.created_at < day + timedelta(days=1),
                Payout.status.not_in(_NOT_COUNTED),
            )
        )
    ).one()
    if total_minor > rule.daily_limit_minor:
        raise PayoutDailyLimitError(rule)
    if count > rule.daily_count:
        raise PayoutDailyCountError(rule)
