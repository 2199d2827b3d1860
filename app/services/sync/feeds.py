"""Feeds as staff set them, and when they are due."""

import httpx
from sqlalchemy import case, func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import ring_after_commit
from app.errors import FieldError, InvalidRequestError, NotFoundError
from app.models import Feed, FeedCredentialsKind, Merchant, MerchantStatus, SyncStatus
from app.schemas.feeds import FeedCredentials, FeedLimits, FeedWrite
from app.services.catalogue import MerchantNotFoundError
from app.services.sync import runs
from app.services.sync.credentials import PLACEHOLDER, origin_of, seal_credentials, split_user_info
from app.services.sync.presets import resolve_mapping

# As many as one look queues; the next look comes within seconds.
_MOST_DUE = 500


class FeedNotFoundError(NotFoundError):
    """The merchant has no feed."""

    code = "feed_not_found"
    title = "Feed not found"

    def __init__(self, merchant_id: int) -> None:
        super().__init__(f"Merchant {merchant_id} has no feed.")


class InvalidFeedError(InvalidRequestError):
    """The feed's members do not fit each other or the service."""

    code = "invalid_feed"
    title = "Invalid feed"

    def __init__(self, member: str, message: str) -> None:
        error: FieldError = {"loc": ["body", member], "msg": message, "type": "invalid_feed"}
        super().__init__(f"{member}: {message}.", errors=[error])


async def get_feed(session: AsyncSession, *, merchant_id: int) -> Feed:
    """Return a merchant's feed. Raises FeedNotFoundError."""
    feed = await session.get(Feed, merchant_id)
    if feed is None:
        raise FeedNotFoundError(merchant_id)
    return feed


async def set_feed(session: AsyncSession, *, settings: Settings, merchant_id: int, wanted: FeedWrite) -> Feed:
    """Set or replace a merchant's feed. A new definition is due at once and read in full.

    Raises MerchantNotFoundError, InvalidFeedMappingError, InvalidFeedError.
    """
    format_, mapping = resolve_mapping(wanted.mapping, wanted.format)
    _require_allowed_limits(settings, wanted)
    # The lock makes two that set a merchant's first feed come one after the other.
    if await session.scalar(select(Merchant.id).where(Merchant.id == merchant_id).with_for_update()) is None:
        raise MerchantNotFoundError(merchant_id)
    feed = await session.get(Feed, merchant_id, with_for_update=True)
    if feed is None:
        feed = Feed(merchant_id=merchant_id)
        session.add(feed)
    url = _set_credentials(settings, feed, wanted)
    definition = (url, format_, mapping.model_dump(mode="json"))
    if (feed.url, feed.format, feed.mapping) != definition:
        feed.url, feed.format, feed.mapping = definition
        feed.etag = feed.last_modified = feed.content_hash = None
        feed.next_sync_at = func.now()
    elif feed.interval_seconds != wanted.interval_seconds:
        feed.next_sync_at = func.least(Feed.next_sync_at, func.now() + _seconds(wanted.interval_seconds))
    feed.enabled = wanted.enabled
    feed.interval_seconds = wanted.interval_seconds
    feed.max_loss_basis_points = wanted.max_loss_basis_points
    for name in FeedLimits.model_fields:
        setattr(feed, name, getattr(wanted, name))
    await session.flush()
    # Times are the database's.
    await session.refresh(feed)
    return feed


def _require_allowed_limits(settings: Settings, wanted: FeedLimits) -> None:
    most = {
        "max_bytes": settings.feed_max_bytes,
        "max_rows": settings.feed_max_rows,
        "max_seconds": settings.feed_max_seconds,
    }
    for name, limit in most.items():
        if (getattr(wanted, name) or 0) > limit:
            raise InvalidFeedError(name, f"at most {limit} (FEED_{name.upper()})")


def _set_credentials(settings: Settings, feed: Feed, wanted: FeedWrite) -> str:
    """Seal what the request has of credentials; returns the address without any."""
    url, in_url = split_user_info(wanted.url)
    if in_url is not None and wanted.credentials is not None:
        raise InvalidFeedError("credentials", "the address has a user name in it; give one or the other")
    given: FeedCredentials | None = wanted.credentials or in_url
    if given is not None:
        feed.credentials_kind = FeedCredentialsKind(given.kind)
        feed.credentials_encrypted = seal_credentials(settings, given)
    elif "credentials" in wanted.model_fields_set:
        feed.credentials_kind = feed.credentials_encrypted = None
    elif feed.credentials_kind is not None and origin_of(httpx.URL(url)) != origin_of(httpx.URL(feed.url)):
        # Whoever may change the address must not learn the secret by sending it to a server of his own.
        raise InvalidFeedError("credentials", "those that are set are for another host; send them again, or null")
    wants_secret = PLACEHOLDER in url
    if wants_secret != (feed.credentials_kind is FeedCredentialsKind.PATH):
        raise InvalidFeedError("url", f"{PLACEHOLDER} belongs in it with credentials of the kind path, and only then")
    if wants_secret and PLACEHOLDER in origin_of(httpx.URL(url)):
        raise InvalidFeedError("url", f"{PLACEHOLDER} must not be in the host")
    return url


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
