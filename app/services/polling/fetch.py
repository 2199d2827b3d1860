"""Fetching one page of a source: with its credentials, at its pace, from judged addresses, and never too much.

The same fetcher as for feeds asks; an answer is kept in memory, since its size is bounded, and read in a thread.
"""

import asyncio
import time
from datetime import datetime

from app.config import Settings
from app.db import transaction
from app.models import FeedCredentialsKind
from app.schemas.source_polling import Polling, PollPass
from app.services.polling.claims import PAGE_SECONDS
from app.services.polling.pages import MOST_BYTES, Page, PageReader
from app.services.polling.progress import Position
from app.services.polling.requests import home_of, page_request
from app.services.sync.credentials import open_access
from app.services.sync.errors import FeedError, FetchError, TooLargeError
from app.services.sync.fetch import Fetcher
from app.services.sync.pace import reserve_call
from app.services.sync.retry import Backoff

_TRIES = 4
_RETRY_SECONDS = 0.5


class PageFetcher:
    """Fetches the pages of one source."""

    def __init__(
        self,
        settings: Settings,
        polling: Polling,
        *,
        values: dict[str, str],
        credentials_encrypted: bytes | None,
        credentials_origin: str | None,
    ) -> None:
        self._settings = settings
        self._polling = polling
        self._values = values
        self._sealed = credentials_encrypted
        self._origin = credentials_origin
        self._reader = PageReader(polling)

    async def fetch(self, one: PollPass, position: Position, *, start: datetime, end: datetime) -> Page:
        """Fetch a page of a window. No transaction may be open. Raises FeedError."""
        require_ready(self._polling, self._values, self._sealed, self._origin)
        request = page_request(self._polling, one, position, start=start, end=end, values=self._values)
        _, access = open_access(self._settings, request.url, self._sealed)
        content = bytearray()

        def write(piece: bytes) -> None:
            if len(content) + len(piece) > MOST_BYTES:
                raise TooLargeError(f"The answer is larger than {MOST_BYTES} bytes; ask for smaller pages.")
            content.extend(piece)

        backoff = Backoff(time.monotonic() + PAGE_SECONDS - 1, tries=_TRIES, base_seconds=_RETRY_SECONDS)
        try:
            async with (
                asyncio.timeout(PAGE_SECONDS),
                Fetcher(
                    allow_private=self._settings.allow_private_feeds,
                    timeout_seconds=self._settings.feed_timeout_seconds,
                    backoff=backoff,
                    access=access,
                    pace=self._pace,
                    subject="source",
                ) as fetcher,
            ):
                fetched = await fetcher.fetch(request.url, write=write, restart=content.clear, ask=request.ask)
        except TimeoutError:
            raise FetchError(f"A page took longer than {PAGE_SECONDS} s.") from None
        return await asyncio.to_thread(
            self._reader.read, bytes(content), url=fetched.url, link=fetched.next_url, position=position
        )

    async def _pace(self, host: str) -> None:
        if self._polling.calls_a_minute is None:
            return
        async with transaction() as session:
            seconds = await reserve_call(session, host=host, calls_a_minute=self._polling.calls_a_minute)
        await asyncio.sleep(seconds)


def require_ready(
    polling: Polling, values: dict[str, str], credentials_encrypted: bytes | None, credentials_origin: str | None
) -> None:
    """Refuse to ask without what the definition needs, or to send credentials to another host. Raises FeedError."""
    missing = [name for name in polling.value_names if not values.get(name)]
    if missing:
        raise FeedError(f"The source's polling has no value for {', '.join(missing)}.")
    if polling.credentials != "none" and credentials_encrypted is None:
        raise FeedError("The source's polling has no credentials.")
    if credentials_origin is not None and credentials_origin != home_of(polling):
        raise FeedError(
            f"The source's credentials are for {credentials_origin}; give them again for {home_of(polling)}."
        )


def kind_of(polling: Polling) -> FeedCredentialsKind | None:
    """Return which credentials a polling needs."""
    return None if polling.credentials == "none" else FeedCredentialsKind(polling.credentials)
