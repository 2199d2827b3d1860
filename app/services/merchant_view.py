"""What a merchant sees of itself. Every statement names the merchant: another's id is as unknown as none.

A source may report for many merchants. What nobody could read names none of them, so it is shown only where a source
is one merchant's alone.
"""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.ids import first_id_at
from app.models import (
    Alert,
    AlertKind,
    Merchant,
    Order,
    OrderStatus,
    SyncRun,
    WebhookDuplicate,
    WebhookEvent,
    WebhookStatus,
)
from app.schemas.common import Money
from app.schemas.merchant_keys import (
    DeliveryHealth,
    MerchantEventPage,
    MerchantEventRead,
    MerchantOrderPage,
    MerchantOrderRead,
)
from app.schemas.sync import SyncJobDetail
from app.services.orders.adjust import UnknownOrderError
from app.services.pagination import cut_page, decode_cursor, encode_cursor, newest_first
from app.services.sync.runs import SyncJobNotFoundError
from app.services.webhooks.inbox import WebhookEventNotFoundError

_WINDOW = timedelta(days=30)
# How long repeats are kept to be counted.
_KEEP_DUPLICATES = timedelta(days=31)


async def list_events(
    session: AsyncSession,
    *,
    merchant_id: int,
    limit: int,
    cursor: str | None,
    status: WebhookStatus | None = None,
    order_reference: str | None = None,
) -> MerchantEventPage:
    """Return a merchant's events, newest first. Raises InvalidCursorError."""
    own = await _own_events(session, merchant_id)
    statement = select(WebhookEvent).where(own)
    if status is not None:
        statement = statement.where(WebhookEvent.status == status)
    if order_reference is not None:
        statement = statement.where(WebhookEvent.external_order_id == order_reference)
    rows, next_cursor = await newest_first(session, statement, WebhookEvent.id, limit=limit, cursor=cursor)
    items = [MerchantEventRead.model_validate(row) for row in rows]
    return MerchantEventPage(items=items, next_cursor=next_cursor)


async def get_event(session: AsyncSession, *, merchant_id: int, event_id: UUID) -> MerchantEventRead:
    """Return one of a merchant's events. Raises WebhookEventNotFoundError."""
    own = await _own_events(session, merchant_id)
    event = await session.scalar(select(WebhookEvent).where(WebhookEvent.id == event_id, own))
    if event is None:
        raise WebhookEventNotFoundError(event_id)
    return MerchantEventRead.model_validate(event)


async def list_orders(
    session: AsyncSession,
    *,
    merchant_id: int,
    limit: int,
    cursor: str | None,
    status: OrderStatus | None = None,
    order_reference: str | None = None,
) -> MerchantOrderPage:
    """Return a merchant's orders, the latest purchase first. Raises InvalidCursorError."""
    latest = (Order.ordered_at.desc(), Order.id.desc())
    statement = select(Order).where(Order.merchant_id == merchant_id).order_by(*latest).limit(limit + 1)
    if status is not None:
        statement = statement.where(Order.status == status)
    if order_reference is not None:
        statement = statement.where(Order.external_id == order_reference)
    if cursor is not None:
        at, last_id = decode_cursor(cursor, datetime, UUID)
        before = (Order.ordered_at < at) | ((Order.ordered_at == at) & (Order.id < last_id))
        statement = statement.where(before)
    rows, more = cut_page((await session.scalars(statement)).all(), limit)
    last = encode_cursor(rows[-1].ordered_at, rows[-1].id) if more else None
    return MerchantOrderPage(items=[_order(row) for row in rows], next_cursor=last)


async def get_order(session: AsyncSession, *, merchant_id: int, order_id: UUID) -> MerchantOrderRead:
    """Return one of a merchant's orders. Raises UnknownOrderError."""
    order = await session.scalar(select(Order).where(Order.id == order_id, Order.merchant_id == merchant_id))
    if order is None:
        raise UnknownOrderError(order_id)
    return _order(order)


async def get_sync_run(session: AsyncSession, *, merchant_id: int, job_id: UUID) -> SyncJobDetail:
    """Return one of a merchant's syncs. Raises SyncJobNotFoundError."""
    run = await session.scalar(select(SyncRun).where(SyncRun.id == job_id, SyncRun.merchant_id == merchant_id))
    if run is None:
        raise SyncJobNotFoundError(job_id)
    return SyncJobDetail.model_validate(run)


async def delivery_health(session: AsyncSession, *, merchant_id: int) -> DeliveryHealth:
    """Count how a merchant's events arrived lately."""
    since, own = datetime.now(UTC) - _WINDOW, await _own_events(session, merchant_id)
    statement = select(WebhookEvent.status, func.count()).where(own, WebhookEvent.id >= first_id_at(since))
    counts = dict.fromkeys(WebhookStatus, 0)
    for status, count in await session.execute(statement.group_by(WebhookEvent.status)):
        counts[status] = count
    duplicate = None
    if (source_id := await _own_source_id(session, merchant_id)) is not None:
        repeats = select(func.count()).where(
            WebhookDuplicate.source_id == source_id, WebhookDuplicate.received_at >= since
        )
        duplicate = await session.scalar(repeats)
    newest = select(WebhookEvent.received_at).where(own).order_by(WebhookEvent.id.desc()).limit(1)
    silence = select(Alert.opened_at).where(
        Alert.kind == AlertKind.SILENCE, Alert.merchant_id == merchant_id, Alert.closed_at.is_(None)
    )
    return DeliveryHealth(
        since=since,
        accepted=sum(counts.values()),
        duplicate=duplicate,
        by_status=counts,
        last_event_at=await session.scalar(newest),
        silent_since=await session.scalar(silence),
    )


async def forget_duplicates(session: AsyncSession, *, limit: int = 10_000) -> int:
    """Delete up to `limit` repeats that count no more, and return how many."""
    old = (
        select(WebhookDuplicate.id)
        .where(WebhookDuplicate.received_at < datetime.now(UTC) - _KEEP_DUPLICATES)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = delete(WebhookDuplicate).where(WebhookDuplicate.id.in_(old))
    return (await (await session.connection()).execute(statement)).rowcount


async def _own_source_id(session: AsyncSession, merchant_id: int) -> int | None:
    """Return the source of a merchant that reports for nobody else."""
    source_id = select(Merchant.source_id).where(Merchant.id == merchant_id).scalar_subquery()
    users = await session.execute(
        select(Merchant.source_id, Merchant.id).where(Merchant.source_id == source_id).limit(2)
    )
    found = users.all()
    return found[0].source_id if len(found) == 1 else None


async def _own_events(session: AsyncSession, merchant_id: int) -> ColumnElement[bool]:
    source_id = await _own_source_id(session, merchant_id)
    if source_id is None:
        return WebhookEvent.merchant_id == merchant_id
    return (WebhookEvent.source_id == source_id) & (func.coalesce(WebhookEvent.merchant_id, merchant_id) == merchant_id)


def _order(order: Order) -> MerchantOrderRead:
    def money(amount_minor: int) -> Money:
        return Money(amount_minor=amount_minor, currency=order.reported_currency)

    return MerchantOrderRead(
        id=order.id,
        order_reference=order.external_id,
        status=order.status,
        sale=money(order.reported_sale_minor),
        commission=money(order.reported_commission_minor),
        paid=money(order.settled_minor),
        ordered_at=order.ordered_at,
        approved_at=order.approved_at,
        updated_at=order.updated_at,
    )
