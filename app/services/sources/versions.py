"""Versions of what a source is. They never change, so each is parsed once in a process and then kept."""

from collections import OrderedDict
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.expressions import Expression
from app.ids import new_id
from app.models import Source, SourceVersion
from app.schemas.source_definitions import SourceDefinition
from app.services.webhooks.mapping import Reader

_MOST_KEPT = 1000
_kept: OrderedDict[UUID, "CompiledDefinition"] = OrderedDict()


@dataclass(frozen=True, slots=True)
class CompiledDefinition:
    """A definition, ready to read events. `events` finds them in a request that has several."""

    definition: SourceDefinition
    pushed: Reader
    polled: Reader | None
    events: Expression | None

    @classmethod
    def of(cls, definition: SourceDefinition) -> "CompiledDefinition":
        """Parse a definition's expressions."""
        events = definition.transport.events
        return cls(
            definition,
            Reader(definition.reading),
            None if definition.polled is None else Reader(definition.polled),
            None if events is None else Expression(events),
        )


async def load_version(session: AsyncSession, version_id: UUID) -> CompiledDefinition:
    """Return a version; from this process's memory when it was used lately."""
    if (known := _kept.get(version_id)) is not None:
        _kept.move_to_end(version_id)
        return known
    stored = (await session.scalars(select(SourceVersion.definition).where(SourceVersion.id == version_id))).one()
    compiled = CompiledDefinition.of(SourceDefinition.model_validate(stored))
    _kept[version_id] = compiled
    if len(_kept) > _MOST_KEPT:
        _kept.popitem(last=False)
    return compiled


def first_version(definition: SourceDefinition, *, member_id: UUID | None) -> SourceVersion:
    """Return the version that a new source starts with; the caller gives it the source's id."""
    return SourceVersion(id=new_id(), number=1, definition=_stored(definition), created_by_id=member_id)


async def add_version(
    session: AsyncSession, source: Source, definition: SourceDefinition, *, member_id: UUID | None
) -> SourceVersion:
    """Make a definition the present one of a source, which the caller has locked."""
    last = await session.scalar(select(func.max(SourceVersion.number)).where(SourceVersion.source_id == source.id))
    version = SourceVersion(
        id=new_id(),
        source_id=source.id,
        number=(last or 0) + 1,
        definition=_stored(definition),
        created_by_id=member_id,
    )
    session.add(version)
    source.version_id = version.id
    source.subid_parameter = definition.subid_parameter
    await session.flush()
    return version


def _stored(definition: SourceDefinition) -> dict[str, object]:
    # Without its defaults, which are part of the format and never change: so a person can read it.
    return definition.model_dump(mode="json", by_alias=True, exclude_defaults=True)
