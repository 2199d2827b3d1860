"""Staff decide about an orphan: whose it is, or that it is nobody's."""

import logging
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.errors import ConflictError, NotFoundError
from app.models import WAITING, Claim, Click, Customer, StaffKey, WebhookEvent, WebhookStatus, reference_key
from app.schemas.orphans import OrphanMatch
from app.services.claims.resolve import resolve_with
from app.services.clicks import ClickNotFoundError
from app.services.orphans.credit import credit_orphan, lock_orphan, promise, sale_time

logger = logging.getLogger(__name__)


class OrphanCustomerNotFoundError(NotFoundError):
    """No customer has this id."""

    code = "orphan_customer_not_found"
    title = "Customer not found"

    def __init__(self, customer_id: UUID | None) -> None:
        super().__init__(f"There is no customer {customer_id}.")


class OrphanMerchantUnknownError(ConflictError):
    """The report does not say which shop it is of, and the request does not either."""

    code = "orphan_merchant_unknown"
    title = "Which shop?"

    def __init__(self, event_id: UUID) -> None:
        super().__init__(f"The event {event_id} names no shop of its source: give merchant_id, or a click.")


async def match_orphan(
    session: AsyncSession, settings: Settings, *, event_id: UUID, member: StaffKey, wanted: OrphanMatch
) -> WebhookEvent:
    """Credit an orphan to the customer of a click, or to a customer; resolves that customer's claim of the order.

    Raises the errors above, MerchantNotFoundError, MerchantWithoutRateError, and those of `orphans/credit.py`.
    """
    event = await lock_orphan(session, event_id)
    click = await _click(session, settings, event, wanted)
    claims = await session.scalars(
        select(Claim)
        .where(
            Claim.merchant_id == click.merchant_id,
            Claim.reference_key == reference_key(event.external_order_id or ""),
            Claim.customer_id == click.customer_id,
            Claim.status.in_(WAITING),
        )
        .order_by(Claim.id)
        .with_for_update()
    )
    found = claims.all()
    await credit_orphan(session, settings, event=event, click=click)
    await resolve_with(session, found, event=event, member=member)
    logger.info("orphan matched", extra={**_who(event, member), "click_id": str(click.id)})
    return event


async def discard_orphan(session: AsyncSession, *, event_id: UUID, member: StaffKey, reason: str) -> WebhookEvent:
    """Credit an orphan to nobody, until the event is replayed. Raises OrphanNotFoundError and OrphanNotWaitingError."""
    event = await lock_orphan(session, event_id)
    event.status, event.discarded_reason = WebhookStatus.DISCARDED, reason
    await session.flush()
    logger.info("orphan discarded", extra=_who(event, member))
    return event


def _who(event: WebhookEvent, member: StaffKey) -> dict[str, str]:
    return {"event_id": str(event.id), "staff_key_id": str(member.id)}


async def _click(session: AsyncSession, settings: Settings, event: WebhookEvent, wanted: OrphanMatch) -> Click:
    if wanted.click_id is not None:
        click = await session.get(Click, wanted.click_id)
        if click is None:
            raise ClickNotFoundError(wanted.click_id)
        customer_id, merchant_id = click.customer_id, click.merchant_id
    else:
        found = await session.scalar(select(Customer.id).where(Customer.id == wanted.customer_id))
        if found is None:
            raise OrphanCustomerNotFoundError(wanted.customer_id)
        named = wanted.merchant_id or event.merchant_id
        if named is None:
            raise OrphanMerchantUnknownError(event.id)
        customer_id, merchant_id = found, named
    return await promise(
        session,
        settings,
        customer_id=customer_id,
        merchant_id=merchant_id,
        at=sale_time(event),
        click_id=wanted.click_id,
    )
