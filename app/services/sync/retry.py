"""How long to wait before a feed's server is asked again: exponential backoff with full jitter, and Retry-After.

Full jitter (any time up to a bound that doubles) keeps many feeds of one server from coming back at the same moment.
"""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_LONGEST_JITTER_SECONDS = 30.0
# Of digits, more than any server means; also keeps int() quick.
_LONGEST_NUMBER = 9


@dataclass(frozen=True, slots=True)
class Backoff:
    """Tries and waits of one sync, which has until `deadline` (of `time.monotonic`)."""

    deadline: float
    tries: int = 5
    base_seconds: float = 0.5

    def wait_seconds(self, tries: int, asked_seconds: float) -> float | None:
        """Return how long to wait after `tries` + 1 tries; None when there is no other, or no time for it."""
        bound = min(self.base_seconds * 2**tries, _LONGEST_JITTER_SECONDS)
        # At least what the server asks for, and then spread.
        seconds = asked_seconds + random.uniform(0, bound)  # noqa: S311 - nobody gains by guessing it
        if tries + 1 >= self.tries or time.monotonic() + seconds >= self.deadline:
            return None
        return seconds


def retry_after_seconds(headers: Mapping[str, str]) -> float:
    """Return the wait that `Retry-After` asks for in seconds or as a date (RFC 9110, section 10.2.3); 0 without it."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:_LONGEST_NUMBER])
    then = _date(text)
    if then is None:
        return 0.0
    # By the server's own clock, which may be wrong.
    now = _date(headers.get("Date", "")) or datetime.now(UTC)
    return max(0.0, (then - now).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
