"""Feeds as staff set them, and when they are due."""

from sqlalchemy import case, func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ring_after_commit
from app.errors import NotFoundError
from app.models import Feed, Merchant, MerchantStatus, SyncStatus
from app.schemas.feeds import FeedWrite
from app.services.catalogue import MerchantNotFoundError
from app.services.sync import runs
from app.services.sync.presets import resolve_mapping

# As many as one look queues; the next look comes within seconds.
_MOST_DUE = 500


class FeedNotFoundError(NotFoundError):
    """The merchant has no feed."""

    code = "feed_not_found"
    title = "Feed not found"

    def __init__(self, merchant_id: int) -> None:
        super().__init__(f"Merchant {merchant_id} has no feed.")


async def get_feed(session: AsyncSession, *, merchant_id: int) -> Feed:
    """Return a merchant's feed. Raises FeedNotFoundError."""
    feed = await session.get(Feed, merchant_id)
    if feed is None:
        raise FeedNotFoundError(merchant_id)
    return feed


async def set_feed(session: AsyncSession, *, merchant_id: int, wanted: FeedWrite) -> Feed:
    """Set or replace a merchant's feed. A new definition is due at once and read in full.

    Raises MerchantNotFoundError, InvalidFeedMappingError.
    """
    format_, mapping = resolve_mapping(wanted.mapping, wanted.format)
    # The lock makes two that set a merchant's first feed come one after the other.
    if await session.scalar(select(Merchant.id).where(Merchant.id == merchant_id).with_for_update()) is None:
        raise MerchantNotFoundError(merchant_id)
    feed = await session.get(Feed, merchant_id, with_for_update=True)
    if feed is None:
        feed = Feed(merchant_id=merchant_id)
        session.add(feed)
    definition = (wanted.url, format_, mapping.model_dump(mode="json"))
    if (feed.url, feed.format, feed.mapping) != definition:
        feed.url, feed.format, feed.mapping = definition
        feed.etag = feed.last_modified = feed.content_hash = None
        feed.next_sync_at = func.now()
    elif feed.interval_seconds != wanted.interval_seconds:
        feed.next_sync_at = func.least(Feed.next_sync_at, func.now() + _seconds(wanted.interval_seconds))
    feed.enabled = wanted.enabled
    feed.interval_seconds = wanted.interval_seconds
    feed.max_loss_basis_points = wanted.max_loss_basis_points
    await session.flush()
    # Times are the database's.
    await session.refresh(feed)
    return feed


async def queue_due(session: AsyncSession, *, request_id: str | None) -> int:
    """Queue a run for each feed that is due, and set when it is due again; returns how many.

    A feed keeps its rhythm; when whole intervals were missed, it is synced once and starts anew.
    """
    due = await session.scalars(
        select(Feed)
        .join(Merchant, Merchant.id == Feed.merchant_id)
        .where(Feed.enabled, Feed.next_sync_at <= func.now(), Merchant.status == MerchantStatus.ACTIVE)
        .order_by(Feed.next_sync_at)
        .limit(_MOST_DUE)
        .with_for_update(of=Feed, skip_locked=True)
    )
    feeds = due.all()
    for feed in feeds:
        run = await runs.queue_run(session, merchant_id=feed.merchant_id, request_id=request_id)
        if run.status is SyncStatus.QUEUED:
            ring_after_commit(session, runs.TASK, str(run.id))
        interval = _seconds(feed.interval_seconds)
        following = Feed.next_sync_at + interval
        feed.next_sync_at = case((following > func.now(), following), else_=func.now() + interval)
    await session.flush()
    return len(feeds)


def _seconds(seconds: int):  # type: ignore[no-untyped-def]  # noqa: ANN202 - SQLAlchemy's expression types
    return func.make_interval(0, 0, 0, 0, 0, 0, literal(seconds))
