"""Processing one stored event: read it, attribute it to a click, apply it to its order.

All in one transaction that holds the event's row, so that a job that runs twice, or is killed, does no harm.
"""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.ids import new_id
from app.models import OrderReport, Source, WebhookEvent, WebhookStatus
from app.services.claims.follow import follow_event
from app.services.orders.report import NoExchangeRateError, Said, lock_reference, take_reports, withdraw_report
from app.services.sources.versions import CompiledDefinition, load_version
from app.services.webhooks.attribute import Attribution, NotAttributedError, attribute
from app.services.webhooks.payload import IgnoredError, PayloadError, SaleReport
from app.services.webhooks.read import has_several, read_report, split_delivery

_FIRST_RETRY_SECONDS = 2
_MOST_REASON_CHARACTERS = 2000


async def process_event(session: AsyncSession, settings: Settings, event_id: UUID) -> WebhookStatus | None:
    """Process an event that waits; returns its new status, or None when another worker has it or had it."""
    row = (
        await session.execute(
            select(WebhookEvent, Source)
            .join(Source, Source.id == WebhookEvent.source_id)
            .where(WebhookEvent.id == event_id, WebhookEvent.status == WebhookStatus.RECEIVED)
            .with_for_update(skip_locked=True, of=WebhookEvent)
        )
    ).one_or_none()
    if row is None:
        return None
    event, source = row
    version = await load_version(session, source.version_id)
    try:
        if has_several(version, event):
            await split_delivery(session, version, event)
            event.status, event.reason = WebhookStatus.SPLIT, None
        else:
            await _take(session, settings, event, source, version)
            event.status, event.reason, event.waits_for = WebhookStatus.PROCESSED, None, None
        event.version_id = source.version_id
    except (PayloadError, IgnoredError, NoExchangeRateError, NotAttributedError) as error:
        await _set_aside(session, event, error, version_id=source.version_id)
    event.processed_at = datetime.now(UTC)
    await session.flush()
    if event.matched_click_id is not None:
        await follow_event(session, event)
    return event.status


async def note_failure(session: AsyncSession, settings: Settings, event_id: UUID, error: Exception) -> WebhookStatus:
    """Count a failed try, with the wait doubling from 2 s; after `webhook_max_tries` the event is dead."""
    event = await session.get_one(WebhookEvent, event_id, with_for_update=True)
    event.tries += 1
    event.reason = f"{type(error).__name__}: {error}"[:_MOST_REASON_CHARACTERS]
    if event.tries >= settings.webhook_max_tries:
        event.status = WebhookStatus.DEAD
        event.processed_at = datetime.now(UTC)
    else:
        event.next_attempt_at = datetime.now(UTC) + timedelta(seconds=_FIRST_RETRY_SECONDS * 2**event.tries)
    await session.flush()
    return event.status


async def _take(
    session: AsyncSession, settings: Settings, event: WebhookEvent, source: Source, version: CompiledDefinition
) -> None:
    """Read an event and apply it to its order."""
    report = read_report(version, event)
    _note(event, report)
    await lock_reference(session, source_id=source.id, external_id=report.external_order_id)
    # What staff let out of quarantine need not be plausible.
    is_fenced = not version.definition.is_signed and event.released_at is None
    found = await attribute(session, settings, event, source, report, is_fenced=is_fenced)
    await _apply(session, settings, event, report, found)
    event.order_id, event.merchant_id = found.order.id, found.merchant.id


async def _counted(session: AsyncSession, event: WebhookEvent) -> OrderReport | None:
    """Return what was read of an event when it was processed before."""
    if event.order_id is None:
        return None
    return await session.scalar(select(OrderReport).where(OrderReport.webhook_event_id == event.id))


async def _set_aside(session: AsyncSession, event: WebhookEvent, error: Exception, *, version_id: UUID) -> None:
    """Say why an event is not applied, and where it waits."""
    reason = str(error)[:_MOST_REASON_CHARACTERS]
    if await _counted(session, event) is not None:
        # Replayed, and no longer understood. What an earlier version read of it is not taken from anybody.
        event.status = WebhookStatus.PROCESSED
        event.reason = f"what was read of it before still counts; read again: {reason}"[:_MOST_REASON_CHARACTERS]
        return
    event.version_id, event.reason = version_id, reason
    match error:
        case PayloadError():
            event.status = WebhookStatus.REJECTED
        case IgnoredError():
            event.status = WebhookStatus.IGNORED
        case NoExchangeRateError():
            event.status, event.waits_for = WebhookStatus.QUARANTINED, error.waits_for
        case NotAttributedError():
            event.status = error.status


def _note(event: WebhookEvent, report: SaleReport) -> None:
    """Keep with the event what was read, by which it finds its order, or a claim finds it."""
    event.external_order_id, event.reported_kind = report.external_order_id, report.kind
    event.reported_currency, event.reported_sale_minor = report.currency, report.sale_minor
    event.reported_at = report.sold_at


async def _apply(
    session: AsyncSession, settings: Settings, event: WebhookEvent, report: SaleReport, found: Attribution
) -> None:
    """Add the report to its order's and bring the order to what they fold to."""
    # An event that is replayed says again what it said: its report is replaced, not added.
    stored = await _counted(session, event)
    if stored is not None and stored.order_id != found.order.id:
        # It was read as another order's before the source's definition was mended.
        await withdraw_report(session, settings, stored)
        stored = None
    await take_reports(
        session,
        settings,
        found.order,
        [(stored or OrderReport(id=new_id(), webhook_event_id=event.id), said_by(report))],
        click=found.click,
        merchant=found.merchant,
    )


def said_by(report: SaleReport) -> Said:
    """Return what a report says of its order."""
    return Said(
        kind=report.kind,
        occurred_at=report.occurred_at,
        sale_minor=report.sale_minor,
        commission_minor=report.commission_minor,
        part=report.part,
        ordered_at=report.ordered_at,
        is_dated=report.is_dated,
        is_delta=report.is_delta,
        row_id=report.row_id,
    )
