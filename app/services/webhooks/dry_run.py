"""Trying a request: it is taken in, attributed, folded and posted as a real one would be, and all of it rolled back.

What is shown is therefore what would happen, and not a second opinion about it.
"""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import undone
from app.ids import new_id
from app.models import CauseType, Merchant, Order, Posting, Source, Transfer, WebhookEvent, WebhookStatus
from app.schemas.common import Money
from app.schemas.dry_run import (
    DryAttribution,
    DryEvent,
    DryOrder,
    DryPosting,
    DryRunRequest,
    DryRunResult,
    MappedEvent,
    PayloadProblem,
    SampleRequest,
)
from app.schemas.orders import ExplanationStep
from app.schemas.source_definitions import SourceDefinition
from app.services.sources.manage import find_source
from app.services.sources.secrets import live_secrets
from app.services.sources.versions import CompiledDefinition, add_version, load_version
from app.services.webhooks.authenticate import holds, without_credentials
from app.services.webhooks.delivery import Delivery, decode, events_in
from app.services.webhooks.intake import message_id
from app.services.webhooks.mapping import Reader, request_document
from app.services.webhooks.payload import IgnoredError, PayloadError, SaleReport
from app.services.webhooks.process import process_event
from app.services.webhooks.read import has_several, read_report, stored_delivery

# Of a request with more events the first ones are tried.
MOST_EVENTS = 50


async def dry_run(
    session: AsyncSession, settings: Settings, *, public_url: str, source_id: int, wanted: DryRunRequest
) -> DryRunResult:
    """Return what would become of a request, leaving nothing behind. Raises SourceNotFoundError."""
    async with undone(session):
        source = await find_source(session, source_id, lock=wanted.definition is not None)
        if wanted.definition is not None:
            await add_version(session, source, wanted.definition, member_id=None)
        version = await load_version(session, source.version_id)
        delivery = _delivery(wanted, f"{public_url}/v1/webhooks/{source.source_key}")
        kept = without_credentials(version.definition, delivery)
        is_proven = holds(version.definition, live_secrets(settings, source), delivery)
        key = message_id(version, delivery, kept)
        seen = await session.scalar(
            select(WebhookEvent.id).where(WebhookEvent.source_id == source.id, WebhookEvent.dedupe_key == key)
        )
        event = _event(source, kept)
        session.add(event)
        await session.flush()
        await process_event(session, settings, event.id)
        tried = [event]
        if has_several(version, event):
            tried = await _process_items(session, settings, event)
        return DryRunResult(
            authentication="holds" if is_proven else "fails",
            duplicate_of=seen,
            status=event.status,
            problems=_problems_of_delivery(version, event),
            events=[await _shown(session, version, one) for one in tried],
        )


def preview(definition: SourceDefinition, wanted: SampleRequest) -> list[DryEvent]:
    """Return how a definition reads a request, without attribution and what follows from it.

    Raises PayloadError when no event can be found in the request.
    """
    version = CompiledDefinition.of(definition)
    kept = without_credentials(definition, _delivery(wanted, ""))
    payload = decode(definition.transport, kept)
    items = [payload] if version.events is None else events_in(payload, version.events)
    request, now = request_document(definition, kept), datetime.now(UTC)
    return [preview_item(version.pushed, item, request, now) for item in items[:MOST_EVENTS]]


def preview_item(reader: Reader, item: Any, request: Any, now: datetime) -> DryEvent:  # noqa: ANN401 - JSON values
    """Return how one event is read, without attribution and what follows from it."""
    mapped, problems = _mapped(lambda: reader.read(item, request, received_at=now))
    status = WebhookStatus.REJECTED if problems else WebhookStatus.IGNORED if mapped is None else WebhookStatus.RECEIVED
    return DryEvent(
        mapped=mapped, problems=problems, status=status, reason=None, attribution=None, order=None, ledger=[]
    )


def _delivery(wanted: SampleRequest, address: str) -> Delivery:
    query = wanted.query_bytes
    return Delivery(
        method=wanted.method,
        url=f"{address}?{query.decode()}" if query else address,
        query=query,
        headers=wanted.sent_headers,
        body=wanted.body_bytes,
    )


def _event(source: Source, kept: Delivery) -> WebhookEvent:
    event_id = new_id()
    return WebhookEvent(
        id=event_id,
        source_id=source.id,
        # Of its own, so that it can be tried again and again, also after it has come.
        dedupe_key=f"dry-run:{event_id}",
        method=kept.method,
        query=kept.query,
        body=kept.body,
        body_sha256=hashlib.sha256(kept.payload).digest(),
        content_type=kept.content_type[:200],
        headers=dict(kept.headers),
        status=WebhookStatus.RECEIVED,
    )


async def _process_items(session: AsyncSession, settings: Settings, event: WebhookEvent) -> list[WebhookEvent]:
    items = (
        await session.scalars(
            select(WebhookEvent)
            .where(WebhookEvent.delivery_id == event.id)
            .order_by(WebhookEvent.id)
            .limit(MOST_EVENTS)
        )
    ).all()
    for item in items:
        await process_event(session, settings, item.id)
    return list(items)


async def _shown(session: AsyncSession, version: CompiledDefinition, event: WebhookEvent) -> DryEvent:
    mapped, problems = _mapped(lambda: read_report(version, event))
    order = None if event.order_id is None else await session.get_one(Order, event.order_id)
    return DryEvent(
        mapped=mapped,
        problems=problems,
        status=event.status,
        reason=event.reason,
        attribution=None if order is None else await _attribution(session, order),
        order=None if order is None else _order(order, since=event.id),
        ledger=[] if order is None else await _ledger(session, order, since=event.id),
    )


def _mapped(read: Callable[[], SaleReport]) -> tuple[MappedEvent | None, list[PayloadProblem]]:
    try:
        report = read()
    except PayloadError as error:
        return None, _shown_problems(error)
    except IgnoredError:
        return None, []
    mapped = MappedEvent(
        kind=report.kind,
        order_reference=report.external_order_id,
        click_reference=report.click_reference,
        amount_minor=report.sale_minor,
        commission_minor=report.commission_minor,
        currency=report.currency,
        occurred_at=report.occurred_at,
        is_dated=report.is_dated,
        ordered_at=report.ordered_at,
        part=report.part,
        network_merchant_ref=report.network_merchant_ref,
        is_delta=report.is_delta,
    )
    return mapped, []


def _shown_problems(error: PayloadError) -> list[PayloadProblem]:
    return [PayloadProblem.model_validate(problem) for problem in error.problems]


def _problems_of_delivery(version: CompiledDefinition, event: WebhookEvent) -> list[PayloadProblem]:
    """Say why no events are found in a request that should have several."""
    if version.events is None:
        return []
    try:
        events_in(decode(version.definition.transport, stored_delivery(event)), version.events)
    except PayloadError as error:
        return _shown_problems(error)
    return []


async def _attribution(session: AsyncSession, order: Order) -> DryAttribution:
    merchant = await session.get_one(Merchant, order.merchant_id)
    return DryAttribution(
        click_id=order.click_id, customer_id=order.customer_id, merchant_id=merchant.id, merchant=merchant.name
    )


def _order(order: Order, *, since: UUID) -> DryOrder:
    return DryOrder(
        order_reference=order.external_id,
        is_new=order.id > since,
        status=order.status,
        sale=Money(amount_minor=order.sale_minor, currency=order.currency),
        commission=Money(amount_minor=order.commission_minor, currency=order.currency),
        cashback=Money(amount_minor=order.cashback_minor, currency=order.currency),
        explanation=[ExplanationStep.model_validate(step) for step in order.explanation["steps"]],
    )


async def _ledger(session: AsyncSession, order: Order, *, since: UUID) -> list[DryPosting]:
    """Return what was posted for the order since the event: its row is locked, so by nobody else."""
    rows = await session.scalars(
        select(Posting)
        .join(Transfer, Transfer.id == Posting.transfer_id)
        .where(Transfer.cause_type == CauseType.ORDER, Transfer.cause_id == order.id, Transfer.id > since)
        .order_by(Posting.id)
    )
    return [
        DryPosting(
            account=row.account,
            customer_id=row.customer_id,
            merchant_id=row.merchant_id,
            currency=row.currency,
            amount_minor=row.amount_minor,
        )
        for row in rows
    ]
