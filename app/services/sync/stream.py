"""One pass over a feed: fetch into a spool, parse behind it in a thread, hand rows on in batches.

Memory is bounded by a batch or two, whatever the feed's size. Parsing has a thread of its own, so that heartbeats and
other syncs of the process go on.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass
from itertools import islice
from typing import Any
from uuid import UUID

import orjson
from pydantic import ValidationError

from app.config import Settings
from app.models import FeedFormat
from app.schemas.feeds import CsvMapping, JsonMapping
from app.services.sync.addresses import Resolve, system_resolve
from app.services.sync.csv_rows import read_csv
from app.services.sync.errors import UnreadableFeedError
from app.services.sync.fetch import Fetcher, Validators
from app.services.sync.json_rows import JsonReader
from app.services.sync.offers import Defaults, OfferBuilder, StagedRow
from app.services.sync.paging import first_page, next_page
from app.services.sync.presets import mapping_model
from app.services.sync.spool import Spool, SpoolAbortedError
from app.services.sync.tally import Tally

# Rows a batch: enough to make COPY cheap, few enough to be small in memory.
BATCH_ROWS = 2_000
# Raise it when the same feed would become other offers than before.
_READING_VERSION = 1
# A feed that was synced before may be the same: its digest is awaited for this long before any row is parsed.
_HEAD_START_SECONDS = 1.0

Store = Callable[[list[StagedRow]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class FeedDefinition:
    """A feed as it was when its sync was claimed."""

    merchant_id: int
    url: str
    format: FeedFormat
    mapping: dict[str, Any]
    max_loss_basis_points: int
    defaults: Defaults
    category_id: int | None
    # Of the last successful sync.
    validators: Validators
    content_hash: bytes | None

    @property
    def fingerprint(self) -> bytes:
        """What besides the feed's content decides its offers, in 8 bytes; every content hash begins with them."""
        decisive = [_READING_VERSION, self.format, self.mapping, astuple(self.defaults), self.category_id]
        return hashlib.blake2b(orjson.dumps(decisive, option=orjson.OPT_SORT_KEYS), digest_size=8).digest()

    @property
    def may_be_unchanged(self) -> bool:
        """Whether the last successful sync would have made the same offers of the same content."""
        return self.content_hash is not None and self.content_hash.startswith(self.fingerprint)


@dataclass(frozen=True, slots=True)
class Version:
    """What tells this version of a feed from the next."""

    validators: Validators
    content_hash: bytes


async def stream_feed(
    feed: FeedDefinition,
    *,
    attempt_id: UUID,
    settings: Settings,
    tally: Tally,
    store: Store,
    resolve: Resolve = system_resolve,
) -> Version | None:
    """Pass every offer of a feed to `store`; returns its version, or None when it is the one of the last sync.

    None may come after rows were stored. Raises FeedError, OSError when the spool has no room, and what `store` raises.
    """
    mapping = _read_mapping(feed)
    builder = OfferBuilder(mapping, attempt_id=attempt_id, defaults=feed.defaults)
    with Spool(max_bytes=settings.feed_max_bytes) as spool:
        thread = ThreadPoolExecutor(1, thread_name_prefix="parse-feed")
        async with Fetcher(
            allow_private=settings.allow_private_feeds, timeout_seconds=settings.feed_timeout_seconds, resolve=resolve
        ) as fetcher:
            fetching = asyncio.create_task(_fetch_all(fetcher, feed, mapping, spool), name="fetch-feed")
            try:
                if feed.may_be_unchanged:
                    await asyncio.wait({fetching}, timeout=_HEAD_START_SECONDS)
                    if fetching.done() and not _is_new(feed, fetching.result()):
                        return None
                with suppress(SpoolAbortedError):  # then the fetch says why
                    await _pass_on(_rows(mapping, spool, builder, tally), thread, store)
                version = await fetching
                return version if _is_new(feed, version) else None
            finally:
                fetching.cancel()
                spool.abort()
                await asyncio.gather(fetching, return_exceptions=True)
                await asyncio.to_thread(thread.shutdown)


def _is_new(feed: FeedDefinition, version: Version | None) -> bool:
    return version is not None and version.content_hash != feed.content_hash


async def _fetch_all(
    fetcher: Fetcher, feed: FeedDefinition, mapping: CsvMapping | JsonMapping, spool: Spool
) -> Version | None:
    """Fetch every page into the spool; returns the version, None when the server says that nothing is newer."""
    validators = feed.validators if feed.may_be_unchanged else None
    url: str | None = first_page(mapping, feed.url) if isinstance(mapping, JsonMapping) else feed.url
    version = Validators()
    number = 0
    try:
        while url is not None:
            spool.begin_document()
            fetched = await fetcher.fetch(url, write=spool.write, validators=validators)
            if fetched.not_modified:
                spool.abort()
                return None
            page = spool.end_document()
            url = None
            if isinstance(mapping, JsonMapping):
                url = await asyncio.to_thread(
                    next_page, mapping, feed_url=feed.url, url=fetched.url, number=number, page=page
                )
            # The first page's version says nothing of the others.
            version = fetched.validators if number == 0 and url is None else Validators()
            validators = None
            number += 1
    except BaseException:
        spool.abort()
        raise
    spool.finish()
    return Version(version, feed.fingerprint + spool.digest)


def _rows(mapping: CsvMapping | JsonMapping, spool: Spool, builder: OfferBuilder, tally: Tally) -> Iterator[StagedRow]:
    if isinstance(mapping, CsvMapping):
        for document in spool.documents():
            yield from read_csv(document, mapping, builder=builder, tally=tally)
    else:
        reader = JsonReader(mapping, builder=builder, tally=tally)
        for document in spool.documents():
            yield from reader.read(document)


async def _pass_on(rows: Iterator[StagedRow], thread: ThreadPoolExecutor, store: Store) -> None:
    """Store batch after batch; while one is stored, the next is parsed."""
    loop = asyncio.get_running_loop()

    def next_batch() -> list[StagedRow]:
        return list(islice(rows, BATCH_ROWS))

    parsing = loop.run_in_executor(thread, next_batch)
    try:
        while batch := await parsing:
            parsing = loop.run_in_executor(thread, next_batch)
            await store(batch)
    finally:
        # When `store` failed, nobody else looks at what the parsing came to.
        parsing.add_done_callback(lambda done: done.cancelled() or done.exception())


def _read_mapping(feed: FeedDefinition) -> CsvMapping | JsonMapping:
    try:
        return mapping_model(feed.format).model_validate(feed.mapping)
    except ValidationError:
        raise UnreadableFeedError("The feed's mapping cannot be read any more; save the feed again.") from None
