"""One pass over a feed: fetch into a spool, parse behind it in a thread, hand rows on in batches.

Memory is bounded by a batch or two, whatever the feed's size. Parsing has a thread of its own, so that heartbeats and
other syncs of the process go on.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from pydantic import ValidationError

from app.config import Settings
from app.money import BASIS_POINTS
from app.schemas.feed_mappings import AnyMapping
from app.services.sync.addresses import Resolve, system_resolve
from app.services.sync.assemble import assemble
from app.services.sync.checkpoint import Checkpoint
from app.services.sync.credentials import open_access
from app.services.sync.definition import FeedDefinition
from app.services.sync.errors import UnreadableFeedError
from app.services.sync.fetch import Fetcher, Validators, no_pace
from app.services.sync.offers import OfferBuilder, StagedRow
from app.services.sync.paging import Page, announced_total, first_page, next_page
from app.services.sync.presets import mapping_model
from app.services.sync.readers import RowReader, reader_for
from app.services.sync.retry import Backoff
from app.services.sync.spool import DocumentReader, Spool, SpoolAbortedError
from app.services.sync.tally import Tally
from app.services.sync.unzip import Unzip

# Rows a batch: enough to make COPY cheap, few enough to be small in memory.
BATCH_ROWS = 2_000
# Up to so long before a second try, and twice as long before each further one.
RETRY_SECONDS = 0.5
# A feed that was synced before may be the same: its digest is awaited for this long before any row is parsed.
_HEAD_START_SECONDS = 1.0
# Of the items that a feed of pages announces; some come and go while they are read.
_COMPLETE_BASIS_POINTS = 9_900


@dataclass(frozen=True, slots=True)
class Version:
    """What tells this version of a feed from the next."""

    validators: Validators
    content_hash: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows to stage; with a checkpoint, all before it are staged once these are."""

    rows: list[StagedRow]
    checkpoint: Checkpoint | None = None


Store = Callable[[Batch], Awaitable[None]]


@dataclass(slots=True)
class _Pass:
    """What the stages of one pass share."""

    feed: FeedDefinition
    mapping: AnyMapping
    reader: RowReader
    builder: OfferBuilder
    tally: Tally
    spool: Spool
    resume: Checkpoint | None
    # As the last page says.
    total: int | None = None


async def stream_feed(
    feed: FeedDefinition,
    *,
    run_id: UUID,
    settings: Settings,
    tally: Tally,
    store: Store,
    resume: Checkpoint | None = None,
    pace: Callable[[str], Awaitable[None]] = no_pace,
    resolve: Resolve = system_resolve,
) -> Version | None:
    """Pass every offer of a feed to `store`; returns its version, or None when it is the one of the last sync.

    With `resume` it goes on where another pass had to stop, whose counts `tally` has. None may come after rows were
    stored. Raises FeedError, OSError when the spool has no room, and what `store` raises.
    """
    mapping = _read_mapping(feed)
    url, access = open_access(settings, feed.url, feed.credentials_encrypted)
    limits = feed.limits
    builder = OfferBuilder(mapping, run_id=run_id, defaults=feed.defaults)
    done = (bytes.fromhex(resume.digest), resume.size) if resume is not None else (b"", 0)
    fetcher = Fetcher(
        allow_private=settings.allow_private_feeds,
        timeout_seconds=settings.feed_timeout_seconds,
        backoff=Backoff(deadline=time.monotonic() + limits.max_seconds, base_seconds=RETRY_SECONDS),
        access=access,
        pace=pace,
        resolve=resolve,
    )
    with Spool(max_bytes=limits.max_bytes, digest=done[0], size=done[1]) as spool:
        going = _Pass(feed, mapping, reader_for(mapping), builder, tally, spool, resume)
        thread = ThreadPoolExecutor(1, thread_name_prefix="parse-feed")
        async with fetcher:
            fetching = asyncio.create_task(_fetch_all(fetcher, going, url), name="fetch-feed")
            try:
                if feed.may_be_unchanged:
                    await asyncio.wait({fetching}, timeout=_HEAD_START_SECONDS)
                    if fetching.done() and not _is_new(feed, fetching.result()):
                        return None
                with suppress(SpoolAbortedError):  # then the fetch says why
                    await _pass_on(_batches(going), thread, store)
                version = await fetching
                if not _is_new(feed, version):
                    return None
                _require_total(going)
                return version
            finally:
                fetching.cancel()
                spool.abort()
                await asyncio.gather(fetching, return_exceptions=True)
                await asyncio.to_thread(thread.shutdown)


def _is_new(feed: FeedDefinition, version: Version | None) -> bool:
    return version is not None and version.content_hash != feed.content_hash


async def _fetch_all(fetcher: Fetcher, going: _Pass, feed_url: str) -> Version | None:
    """Fetch every page into the spool; returns the version, None when the server says that nothing is newer."""
    feed, spool, paging, resume = going.feed, going.spool, going.mapping.paging, going.resume
    validators = feed.validators if feed.may_be_unchanged and resume is None else None
    url: str | None
    url, number = (first_page(paging, feed_url), 0) if resume is None else (resume.url, resume.page)
    version = Validators()
    # Digests, as small as memory must stay; two addresses of one digest would only end the sync.
    seen: set[bytes] = set()
    try:
        with Unzip(spool.write, member=going.mapping.member, max_bytes=feed.limits.max_bytes) as archive:

            def restart() -> None:
                archive.restart()
                spool.restart_document()

            while url is not None:
                _see(seen, url)
                # Most feeds have one page, which is parsed while it comes; further ones are small, and may be asked for
                # again when they break off.
                is_first = number == 0
                spool.begin_document(url, whole=not is_first)
                fetched = await fetcher.fetch(
                    url, write=archive.write, validators=validators, restart=None if is_first else restart
                )
                if fetched.not_modified:
                    spool.abort()
                    return None
                await _finish(archive)
                page = Page(number, fetched.url, spool.end_document(), fetched.next_url)
                url = None if paging is None else await asyncio.to_thread(_next, going, feed_url, page)
                # The first page's version says nothing of the others.
                version = fetched.validators if is_first and url is None else Validators()
                validators = None
                number += 1
                archive.restart()
    except BaseException:
        spool.abort()
        raise
    spool.finish()
    return Version(version, feed.fingerprint + spool.digest)


def _see(seen: set[bytes], url: str) -> None:
    mark = hashlib.blake2b(url.encode(), digest_size=8).digest()
    if mark in seen:
        raise UnreadableFeedError("A page names one as the next that was read already.")
    seen.add(mark)


async def _finish(archive: Unzip) -> None:
    if archive.is_archive:
        await asyncio.to_thread(archive.finish)
    else:
        archive.finish()


def _next(going: _Pass, feed_url: str, page: Page) -> str | None:
    paging = going.mapping.paging
    going.total = announced_total(paging, reader=going.reader, page=page)
    return next_page(paging, reader=going.reader, feed_url=feed_url, page=page)


def _require_total(going: _Pass) -> None:
    if going.total is not None and going.tally.rows * BASIS_POINTS < going.total * _COMPLETE_BASIS_POINTS:
        raise UnreadableFeedError(
            f"The feed says that it has {going.total} items, {going.tally.rows} came: its server stops early."
        )


def _batches(going: _Pass) -> Iterator[Batch]:
    """Yield the feed's rows; where a page begins, those of the pages before are complete."""
    rows: list[StagedRow] = []
    first = 0 if going.resume is None else going.resume.page
    for number, document in enumerate(going.spool.documents(), start=first):
        if number > first:
            yield Batch(rows, _checkpoint(going, document, number))
            rows = []
        for row in assemble(going.reader.rows(document), going.mapping, builder=going.builder, tally=going.tally):
            rows.append(row)
            if len(rows) == BATCH_ROWS:
                yield Batch(rows)
                rows = []
    if rows:
        yield Batch(rows)


def _checkpoint(going: _Pass, document: DocumentReader, number: int) -> Checkpoint:
    tally = going.tally
    return Checkpoint(
        url=document.name,
        page=number,
        definition=going.feed.identity,
        digest=document.digest_before.hex(),
        size=document.size_before,
        rows=tally.rows,
        fetched=tally.fetched,
        rejected=tally.rejected,
        deletions=tally.deletions,
        samples=list(tally.samples),
    )


async def _pass_on(batches: Iterator[Batch], thread: ThreadPoolExecutor, store: Store) -> None:
    """Store batch after batch; while one is stored, the next is parsed."""
    loop = asyncio.get_running_loop()

    def next_batch() -> Batch | None:
        return next(batches, None)

    parsing = loop.run_in_executor(thread, next_batch)
    try:
        while (batch := await parsing) is not None:
            parsing = loop.run_in_executor(thread, next_batch)
            await store(batch)
    finally:
        # When `store` failed, nobody else looks at what the parsing came to.
        parsing.add_done_callback(lambda done: done.cancelled() or done.exception())


def _read_mapping(feed: FeedDefinition) -> AnyMapping:
    try:
        return mapping_model(feed.format).model_validate(feed.mapping)
    except ValidationError:
        raise UnreadableFeedError("The feed's mapping cannot be read any more; save the feed again.") from None
