"""Orphans as staff see them, each with whom it may be of."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from app.models import Click, Source, WebhookEvent, WebhookStatus
from app.schemas.common import Money
from app.schemas.orphans import ClaimFit, ClickSeen, OrphanDetail, OrphanPage, OrphanRead, ScoreReason
from app.services.claims.match import claims_for
from app.services.orphans.credit import OrphanNotFoundError
from app.services.pagination import newest_first
from app.services.sources.versions import load_version
from app.services.webhooks.payload import IgnoredError, PayloadError
from app.services.webhooks.read import read_report

_MOST_CLICKS = 20


def orphan_read(event: WebhookEvent) -> OrphanRead:
    """Show an orphan in a list."""
    return OrphanRead(
        id=event.id,
        source_id=event.source_id,
        merchant_id=event.merchant_id,
        order_reference=event.external_order_id,
        kind=event.reported_kind,
        sale=_money(event.reported_sale_minor, event.reported_currency),
        reported_at=event.reported_at,
        received_at=event.received_at,
        status=event.status,
        reason=event.reason,
        discarded_reason=event.discarded_reason,
        matched_click_id=event.matched_click_id,
        order_id=event.order_id,
    )


def click_seen(click: Click, *, counts: bool) -> ClickSeen:
    """Show a click; `counts` says whether a sale would count for it."""
    return ClickSeen(
        id=click.id,
        customer_id=click.customer_id,
        created_at=click.created_at,
        expires_at=click.expires_at,
        counts=counts,
    )


async def list_orphans(
    session: AsyncSession,
    *,
    limit: int,
    cursor: str | None,
    discarded: bool = False,
    source_id: int | None = None,
    merchant_id: int | None = None,
    order_reference: str | None = None,
) -> OrphanPage:
    """Return orphans that wait, or those that were discarded, newest first. Raises InvalidCursorError."""
    status = WebhookStatus.DISCARDED if discarded else WebhookStatus.ORPHANED
    statement = select(WebhookEvent).options(defer(WebhookEvent.body)).where(WebhookEvent.status == status)
    equal = {
        WebhookEvent.source_id: source_id,
        WebhookEvent.merchant_id: merchant_id,
        WebhookEvent.external_order_id: order_reference,
    }
    for column, value in equal.items():
        if value is not None:
            statement = statement.where(column == value)
    rows, next_cursor = await newest_first(session, statement, WebhookEvent.id, limit=limit, cursor=cursor)
    items = [orphan_read(event) for event in rows]
    return OrphanPage(items=items, next_cursor=next_cursor)


async def show_orphan(session: AsyncSession, *, event_id: UUID) -> OrphanDetail:
    """Return an orphan, also one that was credited or discarded. Raises OrphanNotFoundError."""
    row = (
        await session.execute(
            select(WebhookEvent, Source)
            .join(Source, Source.id == WebhookEvent.source_id)
            .where(WebhookEvent.id == event_id)
        )
    ).one_or_none()
    if row is None:
        raise OrphanNotFoundError(event_id)
    event, source = row
    waits = event.status is WebhookStatus.ORPHANED
    if not waits and event.status is not WebhookStatus.DISCARDED and event.matched_click_id is None:
        raise OrphanNotFoundError(event_id)
    fits = await claims_for(session, event) if waits else []
    return OrphanDetail(
        **dict(orphan_read(event)),
        commission=await _commission(session, source, event),
        clicks=await _clicks(session, event) if waits else [],
        claims=[
            ClaimFit(
                claim_id=claim.id,
                customer_id=claim.customer_id,
                status=claim.status,
                order_reference=claim.order_reference,
                ordered_at=claim.ordered_at,
                amount=Money(amount_minor=claim.amount_minor, currency=claim.currency),
                score=found.points,
                reasons=[ScoreReason.model_validate(reason) for reason in found.reasons],
            )
            for claim, found in fits
        ],
    )


async def _clicks(session: AsyncSession, event: WebhookEvent) -> list[ClickSeen]:
    if event.merchant_id is None or event.reported_at is None:
        return []
    statement = Click.before_sale(merchant_id=event.merchant_id, at=event.reported_at).limit(_MOST_CLICKS)
    return [click_seen(click, counts=True) for click in await session.scalars(statement)]


async def _commission(session: AsyncSession, source: Source, event: WebhookEvent) -> Money | None:
    """Read what is not kept beside the raw event."""
    try:
        report = read_report(await load_version(session, source.version_id), event)
    except (PayloadError, IgnoredError):
        return None
    return _money(report.commission_minor, report.currency)


def _money(amount_minor: int | None, currency: str | None) -> Money | None:
    if amount_minor is None or currency is None:
        return None
    return Money(amount_minor=amount_minor, currency=currency)
