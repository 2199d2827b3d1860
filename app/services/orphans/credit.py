"""Crediting an orphan to a customer: find or give the promise, then let the ordinary processing make the order.

All in the caller's transaction, so that staff see the outcome at once: what cannot be credited is refused with its
reason and leaves the orphan as it was. Locks are taken in the order: order number, event, claim, order, wallet. The
number comes first because whoever makes an order holds it, and then wakes the events that wait for that order.
"""

from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.errors import ConflictError, NotFoundError
from app.models import CLOCK_SKEW, Click, Customer, CustomerStatus, Order, WebhookEvent, WebhookStatus
from app.services.claims.match import SALES
from app.services.clicks import ClickNotFoundError, promise_for_claim
from app.services.orders.numbers import find_order, lock_spellings
from app.services.webhooks.inbox import replay
from app.services.webhooks.process import process_event


class OrphanNotFoundError(NotFoundError):
    """No event has this id, or it never was an orphan."""

    code = "orphan_not_found"
    title = "Orphan not found"

    def __init__(self, event_id: UUID) -> None:
        super().__init__(f"There is no orphan {event_id}.")


class OrphanNotWaitingError(ConflictError):
    """The event is no orphan any more."""

    code = "orphan_not_waiting"
    title = "Not waiting any more"

    def __init__(self, event: WebhookEvent) -> None:
        order = f", as order {event.order_id}" if event.order_id else ""
        super().__init__(f"The event {event.id} is {event.status.value}{order}: it waits for nobody.")


class OrphanNotCreditableError(ConflictError):
    """The report cannot become the order of this customer."""

    code = "orphan_not_creditable"
    title = "Cannot be credited"

    def __init__(self, event_id: UUID, reason: str) -> None:
        super().__init__(f"The event {event_id} cannot be credited so: {reason}.")


class OrderExistsError(ConflictError):
    """The order that would be made is there already; an order is credited to one customer, once."""

    code = "order_exists"
    title = "Order credited already"

    def __init__(self, order: Order, customer_id: UUID) -> None:
        whose = "this customer" if order.customer_id == customer_id else "another customer"
        super().__init__(f"Order {order.external_id!r} of this shop is credited to {whose} already ({order.id}).")


class CustomerNotActiveError(ConflictError):
    """A frozen or closed account earns nothing."""

    code = "customer_not_active"
    title = "Account not active"

    def __init__(self, customer: Customer) -> None:
        super().__init__(f"The account {customer.id} is {customer.status.value}: it earns no cashback at present.")


class ClickMismatchError(ConflictError):
    """The click is of another customer, or leads to another shop."""

    code = "click_mismatch"
    title = "Click does not fit"

    def __init__(self, click_id: UUID) -> None:
        super().__init__(f"The click {click_id} is not one of this customer to this shop.")


async def lock_orphan(session: AsyncSession, event_id: UUID) -> WebhookEvent:
    """Return an orphan, locked as well as its order number. Raises OrphanNotFoundError and OrphanNotWaitingError."""
    by_id = select(WebhookEvent).where(WebhookEvent.id == event_id).execution_options(populate_existing=True)
    event = await session.scalar(by_id)
    if event is None:
        raise OrphanNotFoundError(event_id)
    await lock_spellings(session, source_id=event.source_id, reference=event.external_order_id or "")
    # Only while it is one: an event that is being processed is held by somebody who waits for the number.
    orphan = await session.scalar(by_id.where(WebhookEvent.status == WebhookStatus.ORPHANED).with_for_update())
    if orphan is None:
        await session.refresh(event)
        raise OrphanNotWaitingError(event)
    return orphan


async def promise(
    session: AsyncSession,
    settings: Settings,
    *,
    customer_id: UUID,
    merchant_id: int,
    at: datetime,
    click_id: UUID | None = None,
) -> Click:
    """Return the click that a sale at a moment is credited by: the one named, the customer's last, or a promise given.

    Raises CustomerNotActiveError, ClickNotFoundError, ClickMismatchError and MerchantWithoutRateError.
    """
    customer = await session.get_one(Customer, customer_id)
    if customer.status is not CustomerStatus.ACTIVE:
        raise CustomerNotActiveError(customer)
    if click_id is not None:
        click = await session.get(Click, click_id)
        if click is None:
            raise ClickNotFoundError(click_id)
        if (click.customer_id, click.merchant_id) != (customer_id, merchant_id):
            raise ClickMismatchError(click_id)
        return click
    own = await session.scalar(Click.before_sale(merchant_id=merchant_id, at=at, customer_id=customer_id).limit(1))
    return own or await promise_for_claim(session, settings, customer_id=customer_id, merchant_id=merchant_id, at=at)


def sale_time(event: WebhookEvent) -> datetime:
    """Return when a locked orphan's sale was. Raises OrphanNotCreditableError when it reports none that was made."""
    if event.reported_kind not in (None, *SALES):
        raise OrphanNotCreditableError(event.id, f"it reports no sale, but that one was {event.reported_kind.value}")
    at = event.reported_at or event.received_at
    if at > datetime.now(UTC) + CLOCK_SKEW:
        raise OrphanNotCreditableError(event.id, "its sale would be in the future")
    return at


async def credit_orphan(session: AsyncSession, settings: Settings, *, event: WebhookEvent, click: Click) -> None:
    """Attribute a locked orphan to a click and process it. Afterwards it has its order, or waits for an exchange rate.

    Raises OrderExistsError and OrphanNotCreditableError.
    """
    if event.merchant_id not in (None, click.merchant_id):
        raise OrphanNotCreditableError(event.id, f"it is of the shop {event.merchant_id}, not of {click.merchant_id}")
    reference = event.external_order_id or ""
    known = await find_order(session, merchant_id=click.merchant_id, reference=reference)
    if known is not None and (known.external_id != reference or known.customer_id != click.customer_id):
        raise OrderExistsError(known, click.customer_id)
    event.matched_click_id = click.id
    await replay(session, event.id)
    await process_event(session, settings, event.id)
    if event.status is not WebhookStatus.PROCESSED and event.waits_for is None:
        raise OrphanNotCreditableError(event.id, event.reason or event.status.value)
