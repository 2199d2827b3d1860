"""Counts of a running sync: written by the thread that parses, read by the task that reports progress."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from app.services.sync.errors import TooLargeError

_MOST_SAMPLES = 20
_LONGEST_REASON = 300


@dataclass(slots=True)
class Tally:
    """`fetched` is offers plus rejected rows, so it is always created + updated + unchanged + rejected."""

    max_rows: int
    rows: int = 0
    fetched: int = 0
    rejected: int = 0
    # Rows of a delta that take an offer out; they are no offers, and the run's `removed` says what came of them.
    deletions: int = 0
    # The first rejected rows: {"row": 7, "reason": "..."}; rows count from 1, a header not included.
    samples: list[dict[str, object]] = field(default_factory=list)

    def restore(
        self,
        *,
        rows: int = 0,
        fetched: int = 0,
        rejected: int = 0,
        deletions: int = 0,
        samples: Iterable[dict[str, object]] = (),
    ) -> None:
        """Go on with these counts; by default with none."""
        self.rows, self.fetched, self.rejected, self.deletions = rows, fetched, rejected, deletions
        self.samples[:] = samples

    def next_row(self) -> int:
        """Count a row and return its number. Raises TooLargeError beyond the limit."""
        self.rows += 1
        if self.rows > self.max_rows:
            raise TooLargeError(f"The feed has more than {self.max_rows} rows (its max_rows, or FEED_MAX_ROWS).")
        return self.rows

    def offer(self) -> None:
        """Count a row, or a group of rows, that is an offer."""
        self.fetched += 1

    def deletion(self) -> None:
        """Count a row that takes an offer out."""
        self.deletions += 1

    def merged(self, count: int) -> None:
        """Take rows back that had been counted as offers and were variants of others."""
        self.fetched -= count

    def superseded(self, count: int, deletions: int) -> None:
        """Take rows of a delta back, some of them deletions, of whose offers later rows say more."""
        self.fetched -= count - deletions
        self.deletions -= deletions

    def reject(self, row: int, reason: str) -> None:
        """Count a row that cannot be used, and keep its reason if it is among the first."""
        self.fetched += 1
        self.rejected += 1
        self._keep(row, reason)

    def reject_staged(self, count: int, samples: Iterable[tuple[int, str]]) -> None:
        """Count rows as rejected that had been counted as offers."""
        self.rejected += count
        for row, reason in samples:
            self._keep(row, reason)

    def _keep(self, row: int, reason: str) -> None:
        if len(self.samples) < _MOST_SAMPLES:
            # PostgreSQL's jsonb refuses NUL and lone surrogates, and a bad row may hold either.
            shown = reason[:_LONGEST_REASON].replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
            self.samples.append({"row": row, "reason": shown})
