"""Keeping what was polled: an item is an event like a pushed one when it says something new, else nothing.

What was last heard of an item is remembered as a digest of all that its source's definition reads of it. So an item
that comes back to what it said before is news again, and one whose other members change is none.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app import metrics
from app.db import ring_after_commit
from app.ids import new_id
from app.models import EventOrigin, PolledItem, Source, WebhookEvent
from app.services.sources.versions import CompiledDefinition
from app.services.webhooks.delivery import write_json

# Rows a statement; PostgreSQL takes 65,535 parameters.
_BATCH = 2_000


@dataclass(frozen=True, slots=True)
class Heard:
    """An item as it came, what tells it from others, and a digest of what is read of it."""

    item_id: str
    content: bytes
    digest: bytes


def hear(version: CompiledDefinition, items: Sequence[Any]) -> list[Heard]:
    """Return what items say, by the definition's `polled` or else its `reading`; of one that occurs twice the last.

    `items` are JSON values as `read_json` reads them. Of thousands it takes a second or so: not for the event loop.
    """
    reader = version.polled or version.pushed
    last: dict[str, Heard] = {}
    for item in items:
        content = write_json(item)
        item_id = reader.event_id(item, None) or f"sha256:{hashlib.sha256(content).hexdigest()}"
        # At the place of its last mention: of two states the later one is the later event.
        last.pop(item_id, None)
        last[item_id] = Heard(item_id, content, reader.digest(item))
    return list(last.values())


async def take_polled(
    session: AsyncSession, source: Source, heard: Sequence[Heard], *, request_id: str | None = None
) -> list[UUID]:
    """Keep the items that say something new as events, as they came; returns the ids of these.

    A pushed event of the same sale is another event; both meet in its order.
    """
    # In one order, whoever comes.
    digests = sorted((one.item_id, one.digest) for one in heard)
    news: set[str] = set()
    for start in range(0, len(digests), _BATCH):
        news |= await _remember(session, source, digests[start : start + _BATCH])
    events = [_event(source, one, request_id) for one in heard if one.item_id in news]
    if events:
        await session.execute(insert(WebhookEvent), events)
        ring_after_commit(session, "drain_webhooks")
    metrics.POLLED_ITEMS.labels(source.preset or "own", "new").inc(len(events))
    metrics.POLLED_ITEMS.labels(source.preset or "own", "known").inc(len(heard) - len(events))
    return [event["id"] for event in events]


async def _remember(session: AsyncSession, source: Source, digests: Sequence[tuple[str, bytes]]) -> set[str]:
    """Note what items say now; returns the ids of those that said something else before, or nothing."""
    statement = insert(PolledItem)
    changed = await session.scalars(
        statement.values(
            [{"source_id": source.id, "item_id": item_id, "digest": digest} for item_id, digest in digests]
        )
        .on_conflict_do_update(
            index_elements=[PolledItem.source_id, PolledItem.item_id],
            set_={"digest": statement.excluded.digest, "revision": PolledItem.revision + 1},
            where=PolledItem.digest != statement.excluded.digest,
        )
        .returning(PolledItem.item_id)
    )
    return set(changed)


def _event(source: Source, heard: Heard, request_id: str | None) -> dict[str, Any]:
    event_id = new_id()
    return {
        "id": event_id,
        "source_id": source.id,
        # What makes it new is remembered elsewhere; its own id keeps the key from being taken by a push.
        "dedupe_key": f"poll:{heard.item_id}:{event_id}",
        "origin": EventOrigin.POLL,
        "method": "GET",
        "query": b"",
        "body": heard.content,
        "body_sha256": hashlib.sha256(heard.content).digest(),
        "content_type": "application/json",
        "headers": {},
        "request_id": request_id,
    }
