"""Where a run of a source's polling is: which pass, which window of time, which page; and what comes after.

A run asks each pass that is due for everything up to the moment the run began, a window after the other. What is left
is kept after every page, so that a successor goes on there; a pass's watermark moves once its last window is done.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from cryptography.fernet import InvalidToken

from app.config import Settings
from app.schemas.source_polling import Polling, PollPass
from app.services.secrets import seal, unseal

# A next page of long ago may be of another list than now; its window is begun anew.
_LONGEST_PAGE_LIFE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Position:
    """Which page of a window comes next. An address or cursor may hold a secret: networks put theirs into links."""

    # From 0.
    number: int = 0
    # How many items the pages before it had.
    offset: int = 0
    cursor: str | None = field(default=None, repr=False)
    url: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Progress:
    """What is left of a run."""

    # The version of the definition it began with; another one begins anew.
    version: str
    # Up to when it asks: when it began.
    until: datetime
    # Names of the passes that are left; the first is the present one.
    passes: tuple[str, ...]
    # Where the present window begins.
    start: datetime
    position: Position = Position()

    def sealed(self, settings: Settings) -> dict[str, Any]:
        """Return it as it is kept, with the position encrypted."""
        position = {name: getattr(self.position, name) for name in Position.__slots__}
        return {
            "version": self.version,
            "until": self.until.isoformat(),
            "passes": list(self.passes),
            "start": self.start.isoformat(),
            "position": seal(settings, [orjson.dumps(position).decode()]).decode(),
            "at": datetime.now(UTC).isoformat(),
        }

    @classmethod
    def unsealed(cls, settings: Settings, kept: Mapping[str, Any]) -> "Progress":
        """Return what was kept; at its window's first page when the next one is old or no key opens it any more."""
        position = Position()
        if datetime.now(UTC) - datetime.fromisoformat(kept["at"]) < _LONGEST_PAGE_LIFE:
            try:
                (plain,) = unseal(settings, kept["position"].encode())
                position = Position(**orjson.loads(plain))
            except InvalidToken:
                position = Position()
        return cls(
            kept["version"],
            datetime.fromisoformat(kept["until"]),
            tuple(kept["passes"]),
            datetime.fromisoformat(kept["start"]),
            position,
        )

    def at_window_start(self) -> "Progress":
        """Return the same run at the first page of its window."""
        return replace(self, position=Position())


@dataclass(frozen=True, slots=True)
class Step:
    """What follows a page: the next one, or nothing; and the watermark of a pass that is over with it."""

    progress: Progress | None
    finished_pass: str | None = None


def begin(polling: Polling, *, version: str, watermarks: Mapping[str, Any], now: datetime) -> Progress | None:
    """Return a new run, None when no pass is due."""
    due = [one for one in polling.passes if _is_due(one, watermarks, now)]
    if not due:
        return None
    return Progress(version, now, tuple(one.name for one in due), _start(due[0], watermarks, now))


def present_pass(polling: Polling, progress: Progress) -> PollPass:
    """Return the pass that a run is at."""
    return _named(polling, progress.passes[0])


def window_end(one: PollPass, progress: Progress) -> datetime:
    """Return where the present window ends."""
    return min(progress.start + timedelta(days=one.longest_days), progress.until)


def after_page(polling: Polling, progress: Progress, following: Position | None, watermarks: Mapping[str, Any]) -> Step:
    """Return what follows a page: `following`, else the next window, else the next pass, else nothing."""
    if following is not None:
        return Step(replace(progress, position=following))
    end = window_end(present_pass(polling, progress), progress)
    if end < progress.until:
        return Step(replace(progress, start=end, position=Position()))
    finished, *left = progress.passes
    if not left:
        return Step(None, finished)
    start = _start(_named(polling, left[0]), watermarks, progress.until)
    return Step(replace(progress, passes=tuple(left), start=start, position=Position()), finished)


def _is_due(one: PollPass, watermarks: Mapping[str, Any], now: datetime) -> bool:
    if one.every_minutes is None or one.name not in watermarks:
        return True
    return datetime.fromisoformat(watermarks[one.name]) + timedelta(minutes=one.every_minutes) <= now


def _start(one: PollPass, watermarks: Mapping[str, Any], now: datetime) -> datetime:
    if one.name not in watermarks:
        return now - timedelta(days=one.first_days)
    return datetime.fromisoformat(watermarks[one.name]) - timedelta(hours=one.overlap_hours)


def _named(polling: Polling, name: str) -> PollPass:
    found: Sequence[PollPass] = [one for one in polling.passes if one.name == name]
    return found[0]
