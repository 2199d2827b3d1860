"""The outbox as a test's mailbox: what a worker would send, and the tokens in it."""

import re
from dataclasses import dataclass, field

from app.config import Settings
from app.db import transaction
from app.models import MessageChannel
from app.services.messages.outbox import Outcome, Outgoing, claim_due, record


@dataclass
class Mailbox:
    """Takes every message that is due, as a mail server and a gateway would."""

    settings: Settings
    taken: list[Outgoing] = field(default_factory=list)

    async def collect(self) -> list[Outgoing]:
        """Return what has come since the last time."""
        async with transaction() as session:
            claimed = await claim_due(session, self.settings, set(MessageChannel))
        for outgoing in claimed:
            async with transaction() as session:
                await record(session, outgoing, Outcome())
        self.taken += claimed
        return claimed

    async def token(self) -> str:
        """Return the token or code of the only message that has come."""
        [outgoing] = await self.collect()
        [token] = re.findall(r"cbo_[\w-]+|\b\d{6}\b", outgoing.text.body)
        return str(token)
