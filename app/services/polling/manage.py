"""Staff's side of polling: what a source needs for it, how it stands, poll now, pause."""

from datetime import UTC, datetime

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import ring_after_commit
from app.errors import ConflictError, FieldError, InvalidRequestError, NotFoundError
from app.models import Poller, Source, SourceStatus
from app.schemas.polling import PollingRead, PollingWrite
from app.schemas.source_polling import Polling
from app.services.polling.claims import TASK
from app.services.polling.fetch import kind_of
from app.services.polling.requests import home_of
from app.services.sources import find_source
from app.services.sources.versions import load_version
from app.services.sync.credentials import seal_credentials


class PollingNotFoundError(NotFoundError):
    """The source's polling has not been set."""

    code = "polling_not_found"
    title = "Polling not set"

    def __init__(self, source_id: int) -> None:
        super().__init__(f"Source {source_id} is not polled; set it with PUT /v1/admin/sources/{source_id}/polling.")


class NotPolledError(ConflictError):
    """The source's definition does not say how it is polled."""

    code = "source_not_polled"
    title = "Source without polling"

    def __init__(self, source: Source) -> None:
        super().__init__(f"The definition of source {source.id} has no polling.")


class PollingPausedError(ConflictError):
    """A paused source, or one that is disabled, is not polled."""

    code = "polling_paused"
    title = "Polling paused"

    def __init__(self, source: Source) -> None:
        super().__init__(f"Source {source.id} is paused or disabled.")


class InvalidPollingError(InvalidRequestError):
    """What was sent does not fit the source's definition."""

    code = "invalid_polling"
    title = "Invalid polling"

    def __init__(self, member: str, message: str) -> None:
        error: FieldError = {"loc": ["body", member], "msg": message, "type": "invalid_polling"}
        super().__init__(f"{member}: {message}.", errors=[error])


async def set_polling(
    session: AsyncSession, settings: Settings, *, source_id: int, wanted: PollingWrite
) -> PollingRead:
    """Set what a source's polling needs; it is due at once.

    Raises SourceNotFoundError, NotPolledError, InvalidPollingError.
    """
    source = await find_source(session, source_id, lock=True)
    polling = await polling_of(session, source)
    unknown = sorted(set(wanted.values) - set(polling.value_names))
    if unknown:
        raise InvalidPollingError("values", f"the definition has no placeholder {', '.join(unknown)}")
    poller = await session.get(Poller, source_id, with_for_update=True)
    if poller is None:
        poller = Poller(source_id=source_id)
        session.add(poller)
    _set_credentials(settings, poller, polling, wanted)
    poller.values = dict(wanted.values)
    poller.interval_seconds = wanted.interval_seconds or polling.every_minutes * 60
    poller.next_poll_at = func.now()
    _enable(poller, enabled=wanted.enabled)
    await session.flush()
    await session.refresh(poller)
    if poller.enabled:
        ring_after_commit(session, TASK, str(source_id))
    return _read(poller, polling)


async def get_polling(session: AsyncSession, *, source_id: int) -> PollingRead:
    """Return how a source's polling stands. Raises SourceNotFoundError, NotPolledError, PollingNotFoundError."""
    _, polling, poller = await load_poller(session, source_id)
    return _read(poller, polling)


async def change_polling(session: AsyncSession, *, source_id: int, enabled: bool) -> PollingRead:
    """Pause a source's polling, at once also where a worker has it, or let it go on.

    Raises SourceNotFoundError, NotPolledError, PollingNotFoundError.
    """
    _, polling, poller = await load_poller(session, source_id, lock=True)
    _enable(poller, enabled=enabled)
    await session.flush()
    await session.refresh(poller)
    if enabled:
        ring_after_commit(session, TASK, str(source_id))
    return _read(poller, polling)


async def poll_now(session: AsyncSession, *, source_id: int) -> PollingRead:
    """Make a source due at once; one that is being polled goes on with that.

    Raises SourceNotFoundError, NotPolledError, PollingNotFoundError, PollingPausedError.
    """
    source, polling, poller = await load_poller(session, source_id, lock=True)
    if not poller.enabled or source.status is not SourceStatus.ACTIVE:
        raise PollingPausedError(source)
    poller.next_poll_at = func.now()
    await session.flush()
    await session.refresh(poller)
    ring_after_commit(session, TASK, str(source_id))
    return _read(poller, polling)


async def load_poller(session: AsyncSession, source_id: int, *, lock: bool = False) -> tuple[Source, Polling, Poller]:
    """Return a source with its polling. Raises SourceNotFoundError, NotPolledError, PollingNotFoundError."""
    source = await find_source(session, source_id)
    polling = await polling_of(session, source)
    poller = await session.get(Poller, source_id, with_for_update=lock)
    if poller is None:
        raise PollingNotFoundError(source_id)
    return source, polling, poller


async def polling_of(session: AsyncSession, source: Source) -> Polling:
    """Return how a source is polled. Raises NotPolledError."""
    polling = (await load_version(session, source.version_id)).definition.polling
    if polling is None:
        raise NotPolledError(source)
    return polling


def _set_credentials(settings: Settings, poller: Poller, polling: Polling, wanted: PollingWrite) -> None:
    if wanted.credentials is not None:
        kind = kind_of(polling)
        if kind is None or wanted.credentials.kind != kind.value:
            raise InvalidPollingError("credentials", f"the definition needs them of the kind {polling.credentials}")
        poller.credentials_kind = kind
        poller.credentials_encrypted = seal_credentials(settings, wanted.credentials)
        poller.credentials_origin = home_of(polling)
    elif "credentials" in wanted.model_fields_set:
        poller.credentials_kind = poller.credentials_encrypted = poller.credentials_origin = None


def _enable(poller: Poller, *, enabled: bool) -> None:
    poller.enabled = enabled
    if not enabled:
        # Whoever polls it can keep nothing more.
        poller.attempt_id = poller.claimed_until = None


def _read(poller: Poller, polling: Polling) -> PollingRead:
    missing = [name for name in polling.value_names if not poller.values.get(name)]
    if polling.credentials != "none" and (
        poller.credentials_encrypted is None or poller.credentials_origin != home_of(polling)
    ):
        missing.append("credentials")
    return PollingRead(
        source_id=poller.source_id,
        enabled=poller.enabled,
        is_running=poller.claimed_until is not None and poller.claimed_until > datetime.now(UTC),
        interval_seconds=poller.interval_seconds,
        values=poller.values,
        missing=missing,
        credentials_kind=poller.credentials_kind,
        next_poll_at=poller.next_poll_at,
        last_attempt_at=poller.last_attempt_at,
        last_success_at=poller.last_success_at,
        failures=poller.failures,
        last_error=poller.last_error,
        watermarks=poller.watermarks,
        fetched=poller.fetched,
        added=poller.added,
        has_unfinished=poller.checkpoint is not None,
    )
