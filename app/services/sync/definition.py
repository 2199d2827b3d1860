"""A feed as it was when its sync was claimed: what a worker needs to know of it, and what tells it from another."""

import hashlib
from dataclasses import astuple, dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from app.config import Settings
from app.models import Feed, FeedFormat, Merchant
from app.services.sync.fetch import Validators
from app.services.sync.offers import Defaults

# Raise it when the same feed would become other offers than before.
_READING_VERSION = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one sync may take: what the feed asks for, and never more than the service allows any."""

    max_bytes: int
    max_rows: int
    max_seconds: int
    calls_a_minute: int | None = None

    @classmethod
    def of(cls, feed: Feed, settings: Settings) -> "Limits":
        """Return a feed's limits."""
        return cls(
            min(feed.max_bytes or settings.feed_max_bytes, settings.feed_max_bytes),
            min(feed.max_rows or settings.feed_max_rows, settings.feed_max_rows),
            min(feed.max_seconds or settings.feed_max_seconds, settings.feed_max_seconds),
            feed.calls_a_minute,
        )


@dataclass(frozen=True, slots=True)
class FeedDefinition:
    """What decides a sync."""

    merchant_id: int
    # It may hold a secret: some servers want theirs in the address.
    url: str = field(repr=False)
    format: FeedFormat
    mapping: dict[str, Any]
    max_loss_basis_points: int
    defaults: Defaults
    category_id: int | None
    credentials_encrypted: bytes | None = field(repr=False)
    limits: Limits
    # Of the last successful sync.
    validators: Validators
    content_hash: bytes | None

    @classmethod
    def of(cls, feed: Feed, merchant: Merchant, settings: Settings) -> "FeedDefinition":
        """Return a merchant's feed as it is now."""
        return cls(
            merchant_id=merchant.id,
            url=feed.url,
            format=feed.format,
            mapping=feed.mapping,
            max_loss_basis_points=feed.max_loss_basis_points,
            defaults=Defaults(merchant.currency, merchant.tracking_url),
            category_id=merchant.category_id,
            credentials_encrypted=feed.credentials_encrypted,
            limits=Limits.of(feed, settings),
            validators=Validators(feed.etag, feed.last_modified),
            content_hash=feed.content_hash,
        )

    def is_same_as(self, feed: Feed) -> bool:
        """Whether a feed still says what it said then."""
        return (feed.url, feed.format, feed.mapping) == (self.url, self.format, self.mapping)

    @property
    def fingerprint(self) -> bytes:
        """What besides the feed's content decides its offers, in 8 bytes; every content hash begins with them."""
        decisive = [_READING_VERSION, self.format, self.mapping, astuple(self.defaults), self.category_id]
        if self.mapping.get("fields", {}).get("sale_period"):
            # Sales begin and end although the feed is the same: it is read anew each day.
            decisive.append(datetime.now(UTC).date().isoformat())
        return hashlib.blake2b(orjson.dumps(decisive, option=orjson.OPT_SORT_KEYS), digest_size=8).digest()

    @property
    def may_be_unchanged(self) -> bool:
        """Whether the last successful sync would have made the same offers of the same content."""
        return self.content_hash is not None and self.content_hash.startswith(self.fingerprint)

    @property
    def identity(self) -> str:
        """Tells whether pages that were read for one sync are pages of this feed."""
        return hashlib.blake2b(self.fingerprint + self.url.encode(), digest_size=16).hexdigest()

    @property
    def has_variants(self) -> bool:
        """Whether rows of the same id are variants of one offer."""
        return self.mapping.get("group_by") is not None

    @property
    def is_delta(self) -> bool:
        """Whether the feed holds changes only."""
        return self.mapping.get("delta") is not None
