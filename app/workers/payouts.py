"""Sending payouts to the HTTP provider, and asking what became of them."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from app import metrics
from app.config import Settings
from app.db import transaction
from app.services.payouts import send
from app.services.payouts.http_provider import open_http_provider
from app.services.payouts.providers import Outcome, Provider

logger = logging.getLogger(__name__)

# Exchanges at the same time: each waits for the provider, and holds no connection of our own meanwhile.
_CONCURRENCY = 4
# So many exchanges without an answer, and none with one in between, are an outage: the rest waits for the next sweep,
# in `approved` where nobody has to wonder about it.
_MOST_SILENCES = 5


def payout_sender(settings: Settings) -> Callable[[], Coroutine[Any, Any, int]]:
    """Return the job `send_payouts` of one worker process."""
    sending = asyncio.Lock()
    again = False

    async def send_payouts() -> int:
        """Talk to the provider about each payout that is due; returns how many exchanges there were."""
        nonlocal again
        if settings.payout_http_url is None:
            await _warn_of_waiting()
            return 0
        if sending.locked():
            # The one that sends looks once more after this, so that none falls between its last look and its end.
            again = True
            return 0
        async with sending, open_http_provider(settings) as provider:
            drain = _Drain(settings, provider)
            again = True
            while again and not drain.is_outage:
                again = False
                async with asyncio.TaskGroup() as group:
                    for _ in range(_CONCURRENCY):
                        group.create_task(drain.run())
        return drain.exchanges

    return send_payouts


async def _warn_of_waiting() -> None:
    async with transaction() as session:
        waiting = await send.count_due(session)
    if waiting:
        logger.warning("payouts wait for a provider: set PAYOUT_HTTP_URL", extra={"payouts": waiting})


class _Drain:
    """Exchanges until nothing is due, or until the provider seems to be away."""

    def __init__(self, settings: Settings, provider: Provider) -> None:
        self._settings = settings
        self._provider = provider
        self._silences = 0
        self.exchanges = 0

    @property
    def is_outage(self) -> bool:
        return self._silences >= _MOST_SILENCES

    async def run(self) -> None:
        while not self.is_outage and await self._next():
            pass

    async def _next(self) -> bool:
        """Claim a payout, talk about it, and record the answer; False when none is due."""
        async with transaction() as session:
            claim = await send.claim_due(session, self._settings)
        if claim is None:
            return False
        about = {"payout_id": str(claim.payout.id), "attempt": claim.attempt}
        try:
            answer = await send.exchange(self._settings, self._provider, claim)
            self._silences = self._silences + 1 if answer.outcome is Outcome.UNKNOWN else 0
            if self._silences == _MOST_SILENCES:
                logger.warning("payout provider gives no answers; the sweep will ask again", extra=about)
            async with transaction() as session:
                counted = await send.record(session, claim, answer)
        except Exception:
            # Its lease runs out, and then the provider is asked what became of it.
            logger.exception("payout attempt not recorded", extra=about)
            return True
        self.exchanges += 1
        metrics.PAYOUT_ANSWERS.labels(answer.outcome.value if counted else "overtaken").inc()
        logger.info("payout provider asked", extra=about | {"outcome": answer.outcome.value, "counted": counted})
        return True
