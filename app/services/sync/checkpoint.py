"""Where a sync of a feed of pages goes on when its worker was lost: kept on the run, with the rows staged so far.

A single file is not resumed: it is fetched and read again, since its server need not answer in pieces.
"""

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.fernet import InvalidToken

from app.config import Settings
from app.services.secrets import seal, unseal

# Pages of long ago and of now do not make one feed.
_LONGEST_LIFE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is left to do, and what is done: all pages before `page` are staged."""

    # The address of the next page. It may hold a secret: servers put theirs into links.
    url: str = field(repr=False)
    # Its number, from 0.
    page: int
    # Of what is decided beside the feed's content; a changed feed begins anew.
    definition: str
    # Of all pages before (hexadecimal), and their size.
    digest: str
    size: int
    # Counts so far, as `Tally` has them.
    rows: int
    fetched: int
    rejected: int
    deletions: int
    samples: list[dict[str, object]]
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())

    def sealed(self, settings: Settings) -> dict[str, Any]:
        """Return it as it is kept, with its address encrypted."""
        return asdict(self) | {"url": seal(settings, [self.url]).decode()}

    @classmethod
    def unsealed(cls, settings: Settings, kept: dict[str, Any]) -> "Checkpoint | None":
        """Return what was kept, None when no key opens it any more."""
        try:
            (url,) = unseal(settings, kept["url"].encode())
        except InvalidToken:
            return None
        return cls(**(kept | {"url": url}))


def staged_rows(kept: dict[str, Any]) -> int:
    """Return how many rows are staged of what was kept; fewer are there after PostgreSQL crashed."""
    staged: int = kept["fetched"] - kept["rejected"] + kept["deletions"]
    return staged


def is_fresh(kept: dict[str, Any], *, definition: str) -> bool:
    """Whether to go on from what was kept: of the same feed, and not long ago."""
    age = datetime.now(UTC) - datetime.fromisoformat(kept["at"])
    return kept["definition"] == definition and age < _LONGEST_LIFE
