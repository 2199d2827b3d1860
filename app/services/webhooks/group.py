"""Storing webhooks in groups: the requests that wait at one moment share an INSERT and its commit.

Each waits for the commit of its own group, and each has an outcome of its own. While one group is written, the next
one gathers, so a lone request waits for nobody and a thousand a second are some dozens of commits.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import text

from app.db import is_unavailable, ring_after_commit, transaction
from app.models import Source, WebhookDuplicate, WebhookEvent
from app.services.bulk import arrays_of

# While one waits for the disk, the other is sent.
_WRITERS = 2
_MOST_ROWS = 200
_MOST_BYTES = 4 * 1024 * 1024

_COLUMNS = (
    "id",
    "source_id",
    "dedupe_key",
    "origin",
    "method",
    "query",
    "body",
    "body_sha256",
    "content_type",
    "headers",
    "request_id",
    "status",
)
_SENT = f"{arrays_of(WebhookEvent, _COLUMNS, version_id='uuid', secrets='bytea')} AS sent"
# Whether the source still is what the request was verified against; so what a process remembers is never out of date.
_CURRENT = (
    "sources.id = sent.source_id AND sources.status = 'active' AND sources.version_id = sent.version_id"
    " AND sources.secrets_encrypted IS NOT DISTINCT FROM sent.secrets"
)
# In one order, so that two groups with the same events cannot wait for each other in a circle.
_INSERT = text(
    f"INSERT INTO webhook_events ({', '.join(_COLUMNS)}) SELECT {', '.join(f'sent.{name}' for name in _COLUMNS)}"  # noqa: S608 - names of the models
    f" FROM {_SENT} ({', '.join((*_COLUMNS, 'version_id', 'secrets'))}) JOIN sources ON {_CURRENT}"
    " ORDER BY sent.source_id, sent.dedupe_key ON CONFLICT (source_id, dedupe_key) DO NOTHING RETURNING id"
)
_KEYS = ("id", "source_id", "dedupe_key")
_FIND = text(
    "SELECT sent.id AS sent_id, known.id, known.body_sha256"  # noqa: S608 - names of the models
    f" FROM {arrays_of(WebhookEvent, _KEYS, version_id='uuid', secrets='bytea')} AS sent"
    f" ({', '.join((*_KEYS, 'version_id', 'secrets'))}) JOIN sources ON {_CURRENT}"
    " JOIN webhook_events known ON known.source_id = sent.source_id AND known.dedupe_key = sent.dedupe_key"
)


class Outcome(Enum):
    """What became of a request that was to be stored."""

    NEW = "new"
    SAME = "same"  # was stored before
    OTHER = "other"  # its id was, with another payload
    STALE = "stale"  # its source is not what it was verified against


@dataclass(frozen=True, slots=True)
class Stored:
    """The outcome, and the id of the event that is stored; of a stale one, that which is not."""

    outcome: Outcome
    event_id: UUID


@dataclass(frozen=True, slots=True)
class _Waiting:
    row: dict[str, Any]
    answer: asyncio.Future[Stored]


class _Inbox:
    """The requests of one process that wait to be stored."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._writers: set[asyncio.Task[None]] = set()

    async def store(self, row: dict[str, Any]) -> Stored:
        waiting = _Waiting(row, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if len(self._writers) < _WRITERS:
            task = asyncio.create_task(self._write_waiting(), name="webhook-inbox")
            self._writers.add(task)
            task.add_done_callback(self._writers.discard)
        return await waiting.answer

    async def _write_waiting(self) -> None:
        while group := self._next_group():
            try:
                stored = await _write([waiting.row for waiting in group])
            except Exception as error:  # noqa: BLE001 - handed to whoever waits
                await self._one_by_one(group, error)
                continue
            for waiting in group:
                _answer(waiting, stored[waiting.row["id"]])

    def _next_group(self) -> list[_Waiting]:
        size = rows = 0
        for waiting in self._waiting[:_MOST_ROWS]:
            size += len(waiting.row["body"])
            if rows and size > _MOST_BYTES:
                break
            rows += 1
        group, self._waiting = self._waiting[:rows], self._waiting[rows:]
        return group

    async def _one_by_one(self, group: Sequence[_Waiting], error: Exception) -> None:
        """Find out whose error it is; each has it, when the database cannot be reached."""
        if len(group) == 1 or is_unavailable(error):
            for waiting in group:
                _answer(waiting, error)
            return
        for waiting in group:
            try:
                stored = await _write([waiting.row])
            except Exception as own:  # noqa: BLE001 - handed to whoever waits
                _answer(waiting, own)
            else:
                _answer(waiting, stored[waiting.row["id"]])


_inbox = _Inbox()


async def store(source: Source, row: dict[str, Any]) -> Stored:
    """Store an event of a source in a transaction of its own or its group's; it is durable when this returns.

    `row` has the columns of an event but its `source_id`; `source` is as it was when the request was verified.
    """
    return await _inbox.store(
        {**row, "source_id": source.id, "version_id": source.version_id, "secrets": source.secrets_encrypted}
    )


def _answer(waiting: _Waiting, answer: Stored | Exception) -> None:
    if waiting.answer.done():
        # Nobody waits any more.
        return
    if isinstance(answer, Exception):
        waiting.answer.set_exception(answer)
    else:
        waiting.answer.set_result(answer)


async def _write(rows: Sequence[dict[str, Any]]) -> dict[UUID, Stored]:
    """Store rows in one transaction; returns what became of each, by its id."""
    async with transaction() as session:
        inserted = set(await session.scalars(_INSERT, _arrays(rows, _COLUMNS)))
        stored = {event_id: Stored(Outcome.NEW, event_id) for event_id in inserted}
        if inserted:
            ring_after_commit(session, "drain_webhooks")
        if left := [row for row in rows if row["id"] not in inserted]:
            known = {found.sent_id: found for found in await session.execute(_FIND, _arrays(left, _KEYS))}
            stored |= {row["id"]: _known(row, known.get(row["id"])) for row in left}
            session.add_all(
                WebhookDuplicate(source_id=row["source_id"])
                for row in left
                if stored[row["id"]].outcome is Outcome.SAME
            )
    return stored


def _known(row: dict[str, Any], known: Any) -> Stored:  # noqa: ANN401 - a row of _FIND
    if known is None:
        return Stored(Outcome.STALE, row["id"])
    return Stored(Outcome.SAME if known.body_sha256 == row["body_sha256"] else Outcome.OTHER, known.id)


def _arrays(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    arrays = {name: [row[name] for row in rows] for name in (*names, "version_id", "secrets")}
    if "headers" in arrays:
        arrays["headers"] = [orjson.dumps(headers).decode() for headers in arrays["headers"]]
    return arrays
