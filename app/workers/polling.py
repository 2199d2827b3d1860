"""Polling sources: one page after the other, each fetched outside and kept in a transaction of its own."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from typing import Any

from app import metrics
from app.config import Settings
from app.db import is_unavailable, transaction
from app.services.polling import claims
from app.services.polling.claims import PollClaim, PollClaimLostError
from app.services.polling.fetch import PageFetcher
from app.services.polling.progress import Progress, present_pass, window_end
from app.services.sync.errors import FeedError
from app.services.webhooks.polled import hear
from app.workers.tasks import uninterrupted

logger = logging.getLogger(__name__)

# A long history is left to the next job after so long, so that other sources have their turn.
_MOST_SECONDS = 240
_GOODBYE_SECONDS = 5.0


def source_poll(settings: Settings) -> Callable[[str], Coroutine[Any, Any, None]]:
    """Return the job `poll_source` of one worker process."""

    async def poll_source(source_id: str) -> None:
        """Poll a source, unless it is not due or somebody else's."""
        async with transaction() as session:
            claim = await claims.claim(session, settings, source_id=int(source_id))
        if claim is not None:
            await _Run(settings, claim).work()

    return poll_source


async def ring_due_polls() -> int:
    """Ring for sources that are due, and for those whose ring or worker was lost."""
    async with transaction() as session:
        return await claims.ring_due(session)


class _Run:
    """One worker's part of a poll."""

    def __init__(self, settings: Settings, claim: PollClaim) -> None:
        self._settings = settings
        self._claim = claim
        self._progress: Progress = claim.progress
        self._about = {"source_id": claim.source_id}

    async def work(self) -> None:
        """Go through the pages; whatever happens, the row says what is left."""
        logger.info("poll started", extra=self._about | {"pass": self._progress.passes[0]})
        try:
            is_done = await self._go_through()
        except asyncio.CancelledError:
            # The process stops. Whoever reads this first goes on at once; without it, when the claim has run out.
            await uninterrupted(self._quietly(self._put_back))
            raise
        except PollClaimLostError:
            logger.warning("poll abandoned: another worker has it", extra=self._about)
        except FeedError as error:
            await self._fail(str(error), getattr(error, "after_seconds", 0.0))
        except Exception as error:
            cause = "The database did not answer" if is_unavailable(error) else f"An unexpected {type(error).__name__}"
            await uninterrupted(self._quietly(lambda: self._fail(f"{cause}; the worker's log has more.", 0.0)))
            raise
        else:
            if is_done:
                self._count("succeeded")
                logger.info("poll done", extra=self._about)

    async def _go_through(self) -> bool:
        polling = self._claim.version.definition.polling
        assert polling is not None  # noqa: S101 - a claim is of a source that is polled
        fetcher = PageFetcher(
            self._settings,
            polling,
            values=self._claim.values,
            credentials_encrypted=self._claim.credentials_encrypted,
            credentials_origin=self._claim.credentials_origin,
        )
        started = monotonic()
        while True:
            one = present_pass(polling, self._progress)
            page = await fetcher.fetch(
                one,
                self._progress.position,
                start=self._progress.start,
                end=window_end(one, self._progress),
            )
            heard = await asyncio.to_thread(hear, self._claim.version, page.items)
            async with transaction() as session:
                step = await claims.keep_page(
                    session, self._settings, claim=self._claim, progress=self._progress, page=page, heard=heard
                )
            if step.progress is None:
                return True
            self._progress = step.progress
            if monotonic() - started > _MOST_SECONDS:
                await self._put_back()
                return False

    async def _fail(self, error: str, after_seconds: float) -> None:
        try:
            async with transaction() as session:
                await claims.fail(
                    session,
                    self._settings,
                    claim=self._claim,
                    progress=self._progress,
                    error=error,
                    after_seconds=after_seconds,
                )
        except PollClaimLostError:
            return
        self._count("failed")
        logger.warning("poll failed", extra=self._about | {"reason": error})

    async def _put_back(self) -> None:
        async with transaction() as session:
            await claims.put_back(session, claim=self._claim)

    async def _quietly(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await step()
        except PollClaimLostError:
            pass
        except Exception as failure:  # noqa: BLE001 - the sweep finds the poller when its claim has run out
            logger.warning("poll not put back", extra=self._about | {"error": type(failure).__name__})

    def _count(self, outcome: str) -> None:
        metrics.POLLS.labels(self._claim.preset, outcome).inc()
