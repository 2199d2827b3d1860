"""Idempotency-Key: the first answer to a request is kept in the request's own transaction and given again.

A crash therefore leaves either both the effect and its remembered answer, or neither. An advisory lock, held until
the transaction ends, tells a repeat that comes too early from one that comes later; nobody ever waits for it.
"""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel
from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import ConflictError, InvalidRequestError
from app.models import IdempotencyKey
from app.schemas.proposals import ProposalRead


class IdempotencyKeyReusedError(InvalidRequestError):
    """The key was used before, with another method, path or body."""

    code = "idempotency_key_reused"
    title = "Idempotency key reused"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key came with another request before; use a new key for a new request.")


class IdempotencyInFlightError(ConflictError):
    """A request with this key is being worked on right now."""

    code = "idempotency_in_flight"
    title = "Request in flight"

    def __init__(self) -> None:
        super().__init__("A request with this Idempotency-Key is still being worked on; repeat it in a moment.")


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request that may be a repeat: who sent it (two callers never share a key), its key and its digest."""

    scope: str
    key: str
    request_hash: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it goes out, byte for byte."""

    status: int
    body: bytes
    replayed: bool


def hash_request(method: str, target: str, body: bytes) -> bytes:
    """Return the digest that tells whether two requests are the same; `target` is the path with its query."""
    return hashlib.sha256(b"\n".join((method.encode(), target.encode(), body))).digest()


async def answer_once(
    session: AsyncSession,
    *,
    request: KeyedRequest | None,
    operation: Callable[[], Awaitable[Any]],
    model: type[BaseModel],
    status: int,
    remember: timedelta,
) -> Answer:
    """Run the operation and answer with `model` of its result, or give the first answer again.

    What became a proposal instead is answered as one, with 202. An operation that raises is not remembered. Raises
    IdempotencyKeyReusedError and IdempotencyInFlightError.
    """
    if request is not None and (first := await _first_answer(session, request)) is not None:
        return first
    result = await operation()
    if isinstance(result, ProposalRead) and model is not ProposalRead:
        model, status = ProposalRead, 202
    body = model.model_validate(result).model_dump_json().encode()
    if request is not None:
        await _remember(session, request, status=status, body=body, expires_at=datetime.now(UTC) + remember)
    return Answer(status, body, replayed=False)


async def forget_expired(session: AsyncSession, *, limit: int = 10_000) -> int:
    """Delete up to `limit` answers whose time is over, and return how many; fewer than `limit` were the last."""
    key = (IdempotencyKey.scope, IdempotencyKey.key)
    old = select(*key).where(IdempotencyKey.expires_at <= func.now()).order_by(IdempotencyKey.expires_at).limit(limit)
    statement = delete(IdempotencyKey).where(tuple_(*key).in_(old.with_for_update(skip_locked=True)))
    return (await (await session.connection()).execute(statement)).rowcount


async def _first_answer(session: AsyncSession, request: KeyedRequest) -> Answer | None:
    # Two statements: the second must see what the lock's holder before us committed.
    if not await session.scalar(select(func.pg_try_advisory_xact_lock(_lock_number(request)))):
        raise IdempotencyInFlightError
    row = (
        await session.execute(
            select(IdempotencyKey.request_hash, IdempotencyKey.status_code, IdempotencyKey.body).where(
                IdempotencyKey.scope == request.scope,
                IdempotencyKey.key == request.key,
                IdempotencyKey.expires_at > datetime.now(UTC),
            )
        )
    ).one_or_none()
    if row is None:
        return None
    if row.request_hash != request.request_hash:
        raise IdempotencyKeyReusedError
    return Answer(row.status_code, row.body, replayed=True)


async def _remember(
    session: AsyncSession, request: KeyedRequest, *, status: int, body: bytes, expires_at: datetime
) -> None:
    answer = {
        "request_hash": request.request_hash,
        "status_code": status,
        "body": body,
        "created_at": func.now(),
        "expires_at": expires_at,
    }
    # A row in the way can only be an expired one that was not deleted yet.
    await session.execute(
        insert(IdempotencyKey)
        .values(scope=request.scope, key=request.key, **answer)
        .on_conflict_do_update(index_elements=[IdempotencyKey.scope, IdempotencyKey.key], set_=answer)
    )


def _lock_number(request: KeyedRequest) -> int:
    # `person` keeps these numbers apart from advisory locks that other parts may take.
    digest = hashlib.blake2b(f"{request.scope}\0{request.key}".encode(), digest_size=8, person=b"idempotency-key")
    return int.from_bytes(digest.digest(), signed=True)
