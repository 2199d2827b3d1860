"""Writing the audit log: each action of staff with what it changed, in the transaction of the change.

What a row was before and after is read from the table itself: no service has to tell, and whatever way it was written
is seen.
"""

import getpass
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import event, inspect
from sqlalchemy.ext.asyncio import AsyncSession

from app.logs import request_id_var
from app.models import AuditEntry, Base, StaffKey
from app.services.audit import snapshot
from app.services.origin import network_of

_SKIP = "audit_skip"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: a staff key, or (without one) the user of a command line."""

    name: str
    key_id: UUID | None = None
    member_id: UUID | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What an action is about: the row of a table with this key; without a key the one that the action makes."""

    kind: str | None = None
    key: str | None = None
    model: type[Base] | None = None


def staff_actor(key: StaffKey, address: str | None) -> Actor:
    """Return the holder of a key as an actor."""
    return Actor(key.name, key.id, key.member_id, network_of(address))


def command_actor() -> Actor:
    """Return the user whom the operating system runs a command as."""
    try:
        return Actor(getpass.getuser())
    except (KeyError, OSError):  # a container's user may have no name
        return Actor("unknown")


@asynccontextmanager
async def recorded(session: AsyncSession, *, actor: Actor, action: str, target: Target) -> AsyncIterator[None]:
    """Write a row about what is done inside; none when that raises, or was a repeat (`skip`)."""
    model, key = target.model, target.key
    before = None if model is None or key is None else await snapshot.take(session, model, key)
    with _new_keys(session, model if key is None else None) as made:
        yield
    if session.info.pop(_SKIP, False):
        return
    await session.flush()
    key = key or (made[-1] if made else None)
    after = None if model is None or key is None else await snapshot.take(session, model, key)
    was, became = snapshot.differences(before, after)
    session.add(
        AuditEntry(
            member_id=actor.member_id,
            key_id=actor.key_id,
            actor=actor.name,
            action=action,
            target_type=target.kind,
            target_id=key,
            before=was,
            after=became,
            request_id=request_id_var.get(),
            address=actor.address,
        )
    )
    await session.flush()


@asynccontextmanager
async def recorded_command(session: AsyncSession, command: str, target: Target) -> AsyncIterator[None]:
    """Write a row about what a command of ours does, such as `staff create-key`."""
    async with recorded(session, actor=command_actor(), action=f"cli.{command}", target=target):
        yield


def skip(session: AsyncSession) -> None:
    """Leave no row about the action under way: it is a repeat, of which the first time has left one."""
    session.info[_SKIP] = True


@contextmanager
def _new_keys(session: AsyncSession, model: type[Base] | None) -> Iterator[list[str]]:
    """Collect the keys of a model's rows that are added meanwhile, or come back from an INSERT."""
    keys: list[str] = []
    if model is None:
        yield keys
        return

    def note(_: object, row: Any) -> None:  # noqa: ANN401 - whatever the session holds
        if isinstance(row, model) and (identity := inspect(row).identity) is not None:
            keys.append(str(identity[0]))

    # What a SELECT brought back before is in the session and does not load again.
    for name in ("pending_to_persistent", "loaded_as_persistent"):
        event.listen(session.sync_session, name, note)
    try:
        yield keys
    finally:
        for name in ("pending_to_persistent", "loaded_as_persistent"):
            event.remove(session.sync_session, name, note)
