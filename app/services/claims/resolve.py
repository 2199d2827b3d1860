"""Staff decide a claim: credit it with an orphan, credit it by hand, or reject it.

Either way of crediting makes an order by the ordinary path, so that a claim has no postings of its own and what the
shop reports later joins that order. Whoever gives amounts by hand needs the role for adjusting orders.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.errors import ConflictError
from app.models import (
    WAITING,
    Claim,
    ClaimStatus,
    Merchant,
    Order,
    StaffKey,
    StaffRole,
    WebhookEvent,
    reference_key,
)
from app.money import MoneyError
from app.schemas.claims import ClaimApproval
from app.schemas.common import Money
from app.services.claims.file import ClaimExistsError, ClaimNotFoundError, ClaimResolvedError, lock_waiting
from app.services.claims.granted import like_orders
from app.services.claims.match import fit
from app.services.clicks import MerchantWithoutSourceError
from app.services.orders.adjust import report_by_claim
from app.services.orders.numbers import find_order, lock_spellings, spellings
from app.services.orders.report import NoExchangeRateError, wake_orphans
from app.services.orphans.credit import OrderExistsError, credit_orphan, lock_orphan, promise, sale_time
from app.services.staff import require_role


class ClaimWithoutMatchError(ConflictError):
    """No orphan is matched with the claim, and the request names none and no amounts."""

    code = "claim_without_match"
    title = "Nothing to credit"

    def __init__(self, claim_id: UUID) -> None:
        super().__init__(
            f"No orphan is matched with the claim {claim_id}: name one (event_id), or give sale and commission."
        )


class ClaimMatchChangedError(ConflictError):
    """The matched orphan is another one by now."""

    code = "claim_match_changed"
    title = "Match changed"

    def __init__(self, claim_id: UUID) -> None:
        super().__init__(f"The claim {claim_id} was matched with another orphan just now; look at it again.")


class ClaimNotCreditableError(ConflictError):
    """What was given by hand cannot become an order."""

    code = "claim_not_creditable"
    title = "Cannot be credited"

    def __init__(self, claim_id: UUID, reason: str) -> None:
        super().__init__(f"The claim {claim_id} cannot be credited so: {reason}.")


class LikeOrderExistsError(ConflictError):
    """The customer has an order of another number at that shop, which may be the one claimed."""

    code = "like_order_exists"
    title = "May be credited already"

    def __init__(self, order: Order) -> None:
        super().__init__(
            f"Order {order.external_id!r} ({order.id}) of this customer is of a like amount and time. If it is another"
            " purchase, say so (distinct)."
        )


async def approve_claim(
    session: AsyncSession, settings: Settings, *, claim_id: UUID, member: StaffKey, wanted: ClaimApproval
) -> Claim:
    """Credit a claim. Its order exists afterwards, unless the orphan has to wait for an exchange rate.

    Raises StaffRoleRequiredError, ClaimNotFoundError, ClaimResolvedError, the errors above, and those of
    `orphans/credit.py` and of `promise_for_claim`.
    """
    if wanted.sale is not None and wanted.commission is not None:
        require_role(member, StaffRole.FINANCE)
        claim = await _credit_by_hand(session, settings, claim_id, wanted, wanted.sale, wanted.commission)
    else:
        event = await lock_orphan(session, wanted.event_id or await _matched_event_id(session, claim_id))
        claim = await lock_waiting(session, claim_id)
        if wanted.event_id is None and claim.matched_event_id != event.id:
            raise ClaimMatchChangedError(claim_id)
        await _credit_with_orphan(session, settings, claim, event, click_id=wanted.click_id)
    _resolve(claim, ClaimStatus.APPROVED, member=member, note=wanted.note)
    await session.flush()
    return claim


async def reject_claim(session: AsyncSession, *, claim_id: UUID, member: StaffKey, note: str) -> Claim:
    """Decide against a claim that waits. Raises ClaimNotFoundError and ClaimResolvedError."""
    claim = await lock_waiting(session, claim_id)
    _resolve(claim, ClaimStatus.REJECTED, member=member, note=note)
    await session.flush()
    return claim


async def resolve_with(
    session: AsyncSession, claims: Sequence[Claim], *, event: WebhookEvent, member: StaffKey
) -> None:
    """Resolve locked claims of the order that staff credited to their customer from the orphan queue."""
    for claim in claims:
        claim.matched_event_id, claim.order_id = event.id, event.order_id
        _resolve(claim, ClaimStatus.APPROVED, member=member, note=None)
    await session.flush()


def _resolve(claim: Claim, status: ClaimStatus, *, member: StaffKey, note: str | None) -> None:
    claim.status, claim.resolution_note = status, note
    claim.resolved_by_id, claim.resolved_at = member.id, datetime.now(UTC)


async def _matched_event_id(session: AsyncSession, claim_id: UUID) -> UUID:
    """Return the matched orphan of a claim, read without a lock: the claim is locked last."""
    claim = await session.get(Claim, claim_id)
    if claim is None:
        raise ClaimNotFoundError(claim_id)
    if claim.status not in WAITING:
        raise ClaimResolvedError(claim)
    if claim.status is not ClaimStatus.MATCHED or claim.matched_event_id is None:
        raise ClaimWithoutMatchError(claim_id)
    return claim.matched_event_id


async def _credit_with_orphan(
    session: AsyncSession, settings: Settings, claim: Claim, event: WebhookEvent, *, click_id: UUID | None
) -> None:
    click = await promise(
        session,
        settings,
        customer_id=claim.customer_id,
        merchant_id=claim.merchant_id,
        at=sale_time(event),
        click_id=click_id,
    )
    found = await fit(session, claim, event)
    await credit_orphan(session, settings, event=event, click=click)
    claim.order_id, claim.matched_event_id = event.order_id, event.id
    claim.score, claim.score_reasons = found.points, found.reasons


async def _credit_by_hand(
    session: AsyncSession, settings: Settings, claim_id: UUID, wanted: ClaimApproval, sale: Money, commission: Money
) -> Claim:
    unlocked = await session.get(Claim, claim_id)
    if unlocked is None:
        raise ClaimNotFoundError(claim_id)
    reference = wanted.order_reference or unlocked.order_reference
    merchant = await session.get_one(Merchant, unlocked.merchant_id)
    if merchant.source_id is None:
        raise MerchantWithoutSourceError(merchant.id)
    await lock_spellings(session, source_id=merchant.source_id, reference=reference)
    claim = await lock_waiting(session, claim_id)
    if reference != claim.order_reference:
        await _correct_reference(session, claim, reference)
    known = await find_order(session, merchant_id=merchant.id, reference=reference)
    if known is not None:
        raise OrderExistsError(known, claim.customer_id)
    if not wanted.distinct:
        await _refuse_like(session, claim, sale)
    click = await promise(
        session,
        settings,
        customer_id=claim.customer_id,
        merchant_id=merchant.id,
        at=claim.ordered_at,
        click_id=wanted.click_id,
    )
    try:
        order = await report_by_claim(
            session,
            settings,
            claim=claim,
            click=click,
            merchant=merchant,
            sale_minor=sale.amount_minor,
            commission_minor=commission.amount_minor,
            currency=sale.currency,
            approved=wanted.merchant_confirmed,
        )
    except (NoExchangeRateError, MoneyError) as error:
        raise ClaimNotCreditableError(claim.id, str(error)) from error
    # What the shop has reported of it already, perhaps in another spelling, joins it.
    await wake_orphans(session, source_id=merchant.source_id, references=spellings(reference))
    claim.order_id, claim.matched_event_id, claim.score, claim.score_reasons = order.id, None, None, None
    return claim


async def _refuse_like(session: AsyncSession, claim: Claim, sale: Money) -> None:
    like = await session.scalar(like_orders(claim, currency=sale.currency, sale_minor=sale.amount_minor).limit(1))
    if like is not None:
        raise LikeOrderExistsError(like)


async def _correct_reference(session: AsyncSession, claim: Claim, reference: str) -> None:
    other = await session.scalar(
        select(Claim.id).where(
            Claim.merchant_id == claim.merchant_id,
            Claim.reference_key == reference_key(reference),
            Claim.customer_id == claim.customer_id,
            Claim.status.in_((*WAITING, ClaimStatus.APPROVED)),
            Claim.id != claim.id,
        )
    )
    if other is not None:
        raise ClaimExistsError(other)
    claim.order_reference, claim.reference_key = reference, reference_key(reference)
    await session.flush()
