"""Exports of customers' data, built one after the other."""

from collections.abc import Awaitable, Callable

from app.config import Settings
from app.services.privacy import export


def export_builder(settings: Settings) -> Callable[[], Awaitable[int]]:
    """Return the job `build_exports` of one worker process."""

    async def build_exports() -> int:
        """Build what waits; returns how many."""
        built = 0
        while await export.build_next(settings) is not None:
            built += 1
        return built

    return build_exports
