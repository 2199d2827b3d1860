"""A payout provider, and a worker of the service that talks to it, on committed transactions."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, update

from app.config import Settings
from app.db import transaction
from app.models import Payout, PayoutChange, PayoutProvider, PayoutStatus, Wallet
from app.workers.payouts import payout_sender
from tests.factories import make_payout
from tests.payouts.provider_server import PayoutServer


@dataclass
class Sending:
    """A provider, and a worker that talks to it."""

    server: PayoutServer
    settings: Settings
    work: Callable[[], Coroutine[Any, Any, int]]
    # The same without patience: for a provider that is about to keep silent.
    work_briefly: Callable[[], Coroutine[Any, Any, int]]

    async def approve(self, **changes: Any) -> Payout:
        async with transaction() as session:
            return await make_payout(session, self.settings, provider=PayoutProvider.HTTP, **changes)

    async def make_due(self) -> None:
        """Let the time pass until whatever waits is due, leases included."""
        async with transaction() as session:
            await session.execute(
                update(Payout).where(Payout.next_attempt_at.is_not(None)).values(next_attempt_at=func.now())
            )

    async def see(self, payout: Payout) -> Payout:
        async with transaction() as session:
            return await session.get_one(Payout, payout.id)

    async def wallet(self, payout: Payout) -> tuple[int, int, int]:
        """Available, in payout and paid, in minor units."""
        async with transaction() as session:
            row = await session.get_one(Wallet, (payout.customer_id, payout.currency))
            return row.available_minor, row.in_payout_minor, row.paid_minor

    async def was_sent(self, payout: Payout, *, ago: timedelta) -> None:
        """Move the moment it was first sent into the past."""
        async with transaction() as session:
            sent = (PayoutChange.payout_id == payout.id, PayoutChange.status == PayoutStatus.SENT)
            await session.execute(update(PayoutChange).where(*sent).values(at=datetime.now(UTC) - ago))


@asynccontextmanager
async def provided(settings: Settings) -> AsyncIterator[Sending]:
    """Start the provider."""
    async with PayoutServer() as server:
        own = server.settings(settings)
        brief = server.settings(settings, payout_http_timeout_seconds=1.0)
        yield Sending(server, own, payout_sender(own), payout_sender(brief))
