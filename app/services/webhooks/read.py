"""Reading stored events: a delivery with several events becomes a row for each, every other one becomes a report."""

import hashlib
from typing import Any, assert_never

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ring_after_commit
from app.ids import new_id
from app.models import EventOrigin, WebhookEvent, WebhookStatus
from app.services.sources.versions import CompiledDefinition
from app.services.webhooks.delivery import Delivery, decode, events_in, read_json, write_json
from app.services.webhooks.intake import item_key
from app.services.webhooks.mapping import request_document
from app.services.webhooks.payload import SaleReport


def stored_delivery(event: WebhookEvent) -> Delivery:
    """Return the request as it was kept."""
    headers = {"content-type": event.content_type, **event.headers}
    return Delivery(event.method, "", event.query, headers, event.body)


def has_several(version: CompiledDefinition, event: WebhookEvent) -> bool:
    """Whether an event is a delivery that reports several."""
    return version.events is not None and event.origin is EventOrigin.PUSH


def read_report(version: CompiledDefinition, event: WebhookEvent) -> SaleReport:
    """Read what an event reports. Raises PayloadError and IgnoredError."""
    delivery = stored_delivery(event)
    request = request_document(version.definition, delivery)
    match event.origin:
        case EventOrigin.PUSH:
            item, reader = decode(version.definition.transport, delivery), version.pushed
        case EventOrigin.ITEM:
            item, reader = read_json(event.body), version.pushed
        case EventOrigin.POLL:
            item, reader = read_json(event.body), version.polled or version.pushed
        case _:
            assert_never(event.origin)
    return reader.read(item, request, received_at=event.received_at)


async def split_delivery(session: AsyncSession, version: CompiledDefinition, event: WebhookEvent) -> int:
    """Make a row of each event in a delivery; returns how many it reports.

    An event that came before, in this delivery or another, is not made again: when a delivery is replayed, its rows are
    processed once more. Raises PayloadError when the events cannot be found.
    """
    rows = _rows(version, event)
    if rows:
        inserted = await session.scalars(
            insert(WebhookEvent)
            .on_conflict_do_nothing(index_elements=[WebhookEvent.source_id, WebhookEvent.dedupe_key])
            .returning(WebhookEvent.id),
            rows,
        )
        made = set(inserted)
        await _keep_contradictions(session, event, [row for row in rows if row["id"] not in made])
    await session.execute(
        update(WebhookEvent)
        .where(
            WebhookEvent.delivery_id == event.id,
            WebhookEvent.status.not_in([WebhookStatus.RECEIVED, WebhookStatus.DISCARDED]),
        )
        .values(status=WebhookStatus.RECEIVED, next_attempt_at=func.now(), tries=0)
    )
    ring_after_commit(session, "drain_webhooks")
    return len(rows)


def _rows(version: CompiledDefinition, event: WebhookEvent) -> list[dict[str, Any]]:
    if version.events is None:
        return []
    delivery = stored_delivery(event)
    items = events_in(decode(version.definition.transport, delivery), version.events)
    request = request_document(version.definition, delivery)
    rows = []
    for item in items:
        content = write_json(item)
        row = {
            "id": new_id(),
            "source_id": event.source_id,
            "dedupe_key": item_key(version.pushed, item, content, request),
            "origin": EventOrigin.ITEM,
            "delivery_id": event.id,
            "method": event.method,
            "query": event.query,
            "body": content,
            "body_sha256": hashlib.sha256(content).digest(),
            "content_type": "application/json",
            "headers": event.headers,
            "request_id": event.request_id,
            # As if each had come by itself.
            "received_at": event.received_at,
            "status": WebhookStatus.RECEIVED,
        }
        rows.append(row)
    return rows


async def _keep_contradictions(session: AsyncSession, event: WebhookEvent, rows: list[dict[str, Any]]) -> None:
    """Keep what has the id of another event and says something else; it will be quarantined."""
    if not rows:
        return
    known = await session.execute(
        select(WebhookEvent.id, WebhookEvent.dedupe_key, WebhookEvent.body_sha256).where(
            WebhookEvent.source_id == event.source_id,
            WebhookEvent.dedupe_key.in_([row["dedupe_key"] for row in rows]),
        )
    )
    by_key = {row.dedupe_key: row for row in known}
    contradictions = [
        {
            **row,
            "dedupe_key": f"{row['dedupe_key']}~{row['body_sha256'].hex()}",
            "contradicts_id": by_key[row["dedupe_key"]].id,
        }
        for row in rows
        if by_key[row["dedupe_key"]].body_sha256 != row["body_sha256"]
    ]
    if contradictions:
        await session.execute(
            insert(WebhookEvent).on_conflict_do_nothing(
                index_elements=[WebhookEvent.source_id, WebhookEvent.dedupe_key]
            ),
            contradictions,
        )
