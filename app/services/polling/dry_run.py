"""Trying a poll: one page is fetched and read as it would be, and nothing of it is kept."""

from datetime import UTC, datetime, timedelta

from app.config import Settings
from app.db import transaction
from app.schemas.polling import PollDryRun, PollTrial
from app.schemas.source_polling import Polling, PollPass
from app.services.polling.fetch import PageFetcher
from app.services.polling.manage import InvalidPollingError, NotPolledError, load_poller
from app.services.polling.progress import Position
from app.services.sources.versions import CompiledDefinition, load_version
from app.services.sync.errors import FeedError
from app.services.webhooks.dry_run import MOST_EVENTS, preview_item


async def try_poll(settings: Settings, *, source_id: int, wanted: PollDryRun) -> PollTrial:
    """Return what the first page of a window holds. Its transaction is over before anything is asked for.

    Raises SourceNotFoundError, NotPolledError, PollingNotFoundError, InvalidPollingError.
    """
    async with transaction() as session:
        source, _, poller = await load_poller(session, source_id)
        version = (
            await load_version(session, source.version_id)
            if wanted.definition is None
            else CompiledDefinition.of(wanted.definition)
        )
        if version.definition.polling is None:
            raise NotPolledError(source)
        polling = version.definition.polling
        fetcher = PageFetcher(
            settings,
            polling,
            values=dict(poller.values),
            credentials_encrypted=poller.credentials_encrypted,
            credentials_origin=poller.credentials_origin,
        )
    one = _pass(polling, wanted.polling_pass)
    now = datetime.now(UTC)
    start = max(now - timedelta(hours=wanted.hours), now - timedelta(days=one.longest_days))
    try:
        page = await fetcher.fetch(one, Position(), start=start, end=now)
    except FeedError as error:
        return PollTrial(items=0, has_next_page=False, events=[], error=str(error))
    reader = version.polled or version.pushed
    return PollTrial(
        items=len(page.items),
        has_next_page=page.following is not None,
        events=[preview_item(reader, item, None, now) for item in page.items[:MOST_EVENTS]],
        error=None,
    )


def _pass(polling: Polling, name: str | None) -> PollPass:
    if name is None:
        return polling.passes[0]
    for one in polling.passes:
        if one.name == name:
            return one
    raise InvalidPollingError("pass", f"the definition has {', '.join(one.name for one in polling.passes)}")
