"""Filing a claim and taking it back: what customers do themselves."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import ring_after_commit
from app.errors import ConflictError, FieldError, InvalidRequestError, NotFoundError
from app.ids import new_id
from app.models import CLOCK_SKEW, WAITING, Claim, ClaimStatus, Customer, CustomerStatus, Merchant, reference_key
from app.schemas.claims import ClaimCreate
from app.services.catalogue import MerchantNotFoundError
from app.services.clicks import CustomerFrozenError
from app.services.orders.numbers import find_order


class ClaimNotFoundError(NotFoundError):
    """No claim has this id, or it is another customer's."""

    code = "claim_not_found"
    title = "Claim not found"

    def __init__(self, claim_id: UUID) -> None:
        super().__init__(f"There is no claim {claim_id}.")


class ClaimResolvedError(ConflictError):
    """The claim does not wait any more."""

    code = "claim_resolved"
    title = "Claim resolved"

    def __init__(self, claim: Claim) -> None:
        super().__init__(f"The claim {claim.id} is {claim.status.value} already.")


class ClaimExistsError(ConflictError):
    """The customer has a live claim of this order."""

    code = "claim_exists"
    title = "Claimed already"

    def __init__(self, claim_id: UUID) -> None:
        super().__init__(f"There is a claim of this order already: {claim_id}.")


class ClaimLimitError(ConflictError):
    """The customer has as many claims waiting as one may have."""

    code = "claim_limit_reached"
    title = "Too many claims"

    def __init__(self, most: int) -> None:
        super().__init__(f"{most} claims wait for a decision already; file more once some are decided.")


class ClaimTimeError(InvalidRequestError):
    """The order is of the future, or too long ago to be looked into."""

    code = "claim_time_out_of_range"
    title = "Order too old or in the future"

    def __init__(self, max_age_days: int) -> None:
        where: FieldError = {"loc": ["body", "ordered_at"], "msg": "Out of range", "type": self.code}
        super().__init__(f"ordered_at must be in the past, and at most {max_age_days} days ago.", errors=[where])


class OrderTrackedError(ConflictError):
    """The order that is missed is among the customer's own."""

    code = "order_tracked"
    title = "Order is tracked"

    def __init__(self, order_id: UUID) -> None:
        super().__init__(f"This order is tracked; /v1/me/orders/{order_id} says how it stands.")


async def file_claim(session: AsyncSession, settings: Settings, *, customer: Customer, wanted: ClaimCreate) -> Claim:
    """File a claim. It is compared with the orphans once this is committed.

    Raises CustomerFrozenError, MerchantNotFoundError and the errors above.
    """
    if customer.status is not CustomerStatus.ACTIVE:
        raise CustomerFrozenError
    now = datetime.now(UTC)
    if not now - timedelta(days=settings.claim_max_age_days) <= wanted.ordered_at <= now + CLOCK_SKEW:
        raise ClaimTimeError(settings.claim_max_age_days)
    if await session.get(Merchant, wanted.merchant_id) is None:
        raise MerchantNotFoundError(wanted.merchant_id)
    # Of one customer's claims one at a time is filed, so that they are counted right.
    await session.execute(select(Customer.id).where(Customer.id == customer.id).with_for_update(key_share=True))
    await _refuse_repeat(session, settings, customer_id=customer.id, wanted=wanted)
    claim = Claim(
        id=new_id(),
        customer_id=customer.id,
        merchant_id=wanted.merchant_id,
        order_reference=wanted.order_reference,
        reference_key=reference_key(wanted.order_reference),
        ordered_at=wanted.ordered_at,
        amount_minor=wanted.money.amount_minor,
        currency=wanted.money.currency,
        note=wanted.note,
        evidence=[evidence.model_dump(mode="json") for evidence in wanted.evidence],
        status=ClaimStatus.OPEN,
        due_at=now + timedelta(days=settings.claim_sla_days),
        created_at=now,
    )
    session.add(claim)
    await session.flush()
    ring_after_commit(session, "match_claims")
    return claim


async def withdraw_claim(session: AsyncSession, *, customer_id: UUID, claim_id: UUID) -> Claim:
    """Take back a claim that waits. Raises ClaimNotFoundError, also for another customer's, and ClaimResolvedError."""
    claim = await lock_waiting(session, claim_id, customer_id=customer_id)
    claim.status, claim.resolved_at = ClaimStatus.WITHDRAWN, datetime.now(UTC)
    await session.flush()
    return claim


async def forget_customer(session: AsyncSession, customer_id: UUID) -> None:
    """Withdraw what waits, and erase what a customer told about purchases: the account is being closed."""
    claims = await session.scalars(
        select(Claim)
        .where(Claim.customer_id == customer_id)
        .order_by(Claim.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    for claim in claims:
        claim.note, claim.evidence, claim.resolution_note = None, [], None
        if claim.status in WAITING:
            claim.status, claim.resolved_at = ClaimStatus.WITHDRAWN, datetime.now(UTC)
    await session.flush()


async def lock_waiting(session: AsyncSession, claim_id: UUID, *, customer_id: UUID | None = None) -> Claim:
    """Return a claim that waits, locked. Raises ClaimNotFoundError and ClaimResolvedError."""
    statement = select(Claim).where(Claim.id == claim_id).with_for_update()
    if customer_id is not None:
        statement = statement.where(Claim.customer_id == customer_id)
    claim = await session.scalar(statement.execution_options(populate_existing=True))
    if claim is None:
        raise ClaimNotFoundError(claim_id)
    if claim.status not in WAITING:
        raise ClaimResolvedError(claim)
    return claim


async def _refuse_repeat(session: AsyncSession, settings: Settings, *, customer_id: UUID, wanted: ClaimCreate) -> None:
    live = await session.scalar(
        select(Claim.id).where(
            Claim.merchant_id == wanted.merchant_id,
            Claim.reference_key == reference_key(wanted.order_reference),
            Claim.customer_id == customer_id,
            Claim.status.in_((*WAITING, ClaimStatus.APPROVED)),
        )
    )
    if live is not None:
        raise ClaimExistsError(live)
    order = await find_order(session, merchant_id=wanted.merchant_id, reference=wanted.order_reference)
    # That it is another customer's is for staff to know.
    if order is not None and order.customer_id == customer_id:
        raise OrderTrackedError(order.id)
    waiting = await session.scalar(
        select(func.count()).select_from(Claim).where(Claim.customer_id == customer_id, Claim.status.in_(WAITING))
    )
    if (waiting or 0) >= settings.claim_max_open:
        raise ClaimLimitError(settings.claim_max_open)
