"""What a payout provider is to us: it is told to pay, asked what became of it, and its word is one of five outcomes."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from app.services.payouts.accounts import PayoutAccount


class Outcome(StrEnum):
    """What is known of a payout after one exchange with its provider."""

    # The provider has it and will say more.
    PENDING = "pending"
    PAID = "paid"
    # Refused, given up, or sent back by the bank: the customer does not have the money.
    FAILED = "failed"
    # The provider has never heard of it.
    UNSEEN = "unseen"
    # No answer, or none to be trusted: anything may have happened, so nothing is concluded.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Answer:
    """A provider's word, its own name of the payout, and why it failed or is unknown."""

    outcome: Outcome
    reference: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Instruction:
    """A payout to be made. `amount_minor` is what the customer receives."""

    payout_id: UUID
    amount_minor: int
    currency: str
    account: PayoutAccount


class Provider(Protocol):
    """Moves money. However often it is told the same payout, it makes it once; and it never raises for an outage."""

    async def pay(self, instruction: Instruction) -> Answer:
        """Tell it to pay."""
        ...

    async def ask(self, payout_id: UUID) -> Answer:
        """Ask what became of a payout; UNSEEN only when it is sure not to have it."""
        ...


def payout_key(payout_id: UUID) -> str:
    """Return the name a provider knows a payout by: its idempotency key."""
    return f"payout-{payout_id}"
