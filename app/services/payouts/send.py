"""Sending payouts to their provider: claimed in one transaction, talked about outside, recorded in another.

Whatever dies in between, nothing is paid twice and nothing is lost. A claim commits `sent` before the provider hears a
word, so an attempt that nobody records is asked about, never guessed at; its lease (`next_attempt_at`) runs out, and
whoever comes next asks the provider first and pays only what it has never heard of, under the same key. An answer
counts only while its attempt (`tries`) is the latest. A payout fails by the provider's word alone.
"""

import logging
import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never
from uuid import UUID

from cryptography.fernet import InvalidToken
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.models import Customer, CustomerStatus, Payout, PayoutChange, PayoutMethod, PayoutProvider, PayoutStatus
from app.services.payouts import life
from app.services.payouts.accounts import open_method
from app.services.payouts.providers import Answer, Instruction, Outcome, Provider

logger = logging.getLogger(__name__)

# So long after it was first sent a payout that the provider does not know may be sent again. Providers forget keys, and
# old payouts too: later, "never heard of it" may be said of one that was paid. Then only people can tell.
RESEND_FOR = timedelta(hours=24)
_FIRST_WAIT = timedelta(seconds=5)
_LONGEST_WAIT = timedelta(minutes=15)
# For the two transactions around the exchange.
_LEASE_MARGIN = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Claim:
    """An attempt that is ours to make until its lease runs out."""

    payout: Payout
    method: PayoutMethod
    attempt: int
    until: datetime
    # Nobody was told of it before, so there is nobody to ask.
    is_first: bool
    may_pay: bool


async def count_due(session: AsyncSession) -> int:
    """Return how many payouts wait for an exchange with the provider."""
    due = (Payout.provider == PayoutProvider.HTTP, Payout.next_attempt_at <= func.now())
    return (await session.scalars(select(func.count()).select_from(Payout).where(*due))).one()


async def claim_due(session: AsyncSession, settings: Settings) -> Claim | None:
    """Take the payout that is due for longest, or return None. A payout nobody was told of becomes `sent`."""
    row = (
        await session.execute(
            select(Payout, PayoutMethod, func.now())
            .join(PayoutMethod, PayoutMethod.id == Payout.method_id)
            .join(Customer, Customer.id == Payout.customer_id)
            .where(
                Payout.provider == PayoutProvider.HTTP,
                Payout.next_attempt_at <= func.now(),
                # A frozen customer's payout stays where it is; one under way is followed all the same.
                (Payout.status != PayoutStatus.APPROVED) | (Customer.status != CustomerStatus.FROZEN),
            )
            .order_by(Payout.next_attempt_at)
            .limit(1)
            .with_for_update(of=Payout, skip_locked=True)
        )
    ).one_or_none()
    if row is None:
        return None
    payout, method, now = row
    is_first = payout.status is PayoutStatus.APPROVED
    # An exchange is one question and one order at most.
    until = now + timedelta(seconds=2 * settings.payout_http_timeout_seconds) + _LEASE_MARGIN
    payout.next_attempt_at = until
    payout.tries += 1
    if is_first:
        await life.advance(session, payout, PayoutStatus.SENT)
        may_pay = True
    else:
        await session.flush()
        may_pay = payout.status is PayoutStatus.SENT and await _first_sent_at(session, payout.id) > now - RESEND_FOR
    return Claim(payout, method, payout.tries, until, is_first, may_pay)


async def exchange(settings: Settings, provider: Provider, claim: Claim) -> Answer:
    """Ask the provider about a payout, and tell it to pay what it has never heard of. Uses no transaction."""
    payout = claim.payout
    answer = Answer(Outcome.UNSEEN) if claim.is_first else await provider.ask(payout.id)
    if answer.outcome is not Outcome.UNSEEN:
        return answer
    if not claim.may_pay:
        return Answer(Outcome.UNSEEN, reason="The provider does not know it, and it is too late to send it once more.")
    try:
        account = open_method(settings, claim.method)
    except InvalidToken:
        return Answer(Outcome.UNKNOWN, reason="None of ENCRYPTION_KEYS opens its account; bring its key back.")
    return await provider.pay(Instruction(payout.id, payout.receives_minor, payout.currency, account))


async def record(session: AsyncSession, claim: Claim, answer: Answer) -> bool:
    """Write down what the provider said; False when a later attempt knows better."""
    row = (
        await session.execute(
            select(Payout, func.now())
            .where(Payout.id == claim.payout.id)
            .with_for_update()
            .execution_options(populate_existing=True)
        )
    ).one()
    payout, now = row
    if payout.tries != claim.attempt:
        return False
    payout.provider_reference = answer.reference or payout.provider_reference
    # Otherwise a callback has come meanwhile, which may tell of more than this answer, or staff have settled it.
    if payout.next_attempt_at == claim.until:
        payout.next_attempt_at = _next_question(payout, answer, now)
    match answer.outcome:
        case Outcome.PAID | Outcome.FAILED:
            await _settle(session, payout, answer)
        case Outcome.PENDING | Outcome.UNKNOWN | Outcome.UNSEEN:
            if payout.status is PayoutStatus.SENT:
                payout.reason = answer.reason
        case _:
            assert_never(answer.outcome)
    await session.flush()
    return True


def _next_question(payout: Payout, answer: Answer, now: datetime) -> datetime | None:
    """Return when to ask again, or None when nothing is open."""
    match answer.outcome:
        case Outcome.PAID:
            # That it stays due keeps a contradiction in sight: see `payouts_contradicted`.
            return now + _LONGEST_WAIT if payout.status is PayoutStatus.FAILED else None
        case Outcome.FAILED:
            return None
        case Outcome.UNKNOWN:
            return now + _wait(payout.tries)
        case Outcome.PENDING | Outcome.UNSEEN:
            return now + _wait(payout.tries) if payout.status is PayoutStatus.SENT else None
        case _:
            assert_never(answer.outcome)


async def _settle(session: AsyncSession, payout: Payout, answer: Answer) -> None:
    wanted = PayoutStatus.PAID if answer.outcome is Outcome.PAID else PayoutStatus.FAILED
    if life.may_become(payout.status, wanted):
        await life.advance(session, payout, wanted, reason=answer.reason)
    elif payout.status is not wanted:
        # The customer has the money twice.
        logger.error("provider says paid of a payout that failed", extra={"payout_id": str(payout.id)})


async def _first_sent_at(session: AsyncSession, payout_id: UUID) -> datetime:
    at = select(func.min(PayoutChange.at)).where(
        PayoutChange.payout_id == payout_id, PayoutChange.status == PayoutStatus.SENT
    )
    return (await session.scalars(at)).one()


def _wait(tries: int) -> timedelta:
    """Return the time to the next question: doubled each time up to the longest, and never the same for all."""
    doubled = min(_FIRST_WAIT * (1 << min(tries - 1, 20)), _LONGEST_WAIT)
    return doubled * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, keeps no secret
