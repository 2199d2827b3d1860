"""The life of a payout: its states, and the ledger that follows them, in the caller's transaction.

What a payout has in the ledger follows from its state alone (`position`). A step posts the difference between two
positions, and each state is reached at most once, so that no step can be posted twice.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, assert_never
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ring_after_commit
from app.errors import ConflictError
from app.models import Account, CauseType, Payout, PayoutChange, PayoutProvider, PayoutStatus
from app.services import ledger
from app.services.ledger import Entry, Line, credit, debit
from app.services.notifications import Topic, publish, publish_all

# Writing these takes the process some hundredths of a second, in which it serves nobody else.
_AT_ONCE = 250


class PayoutStateError(ConflictError):
    """The payout is in a state from which this step is not possible."""

    code = "payout_state"
    title = "Not possible in this state"

    def __init__(self, payout: Payout, wanted: PayoutStatus) -> None:
        super().__init__(f"Payout {payout.id} is {payout.status.value} and cannot become {wanted.value}.")


@dataclass(frozen=True, slots=True)
class Step:
    """A payout and the state it comes to. A reason of before belongs to the state of before."""

    payout: Payout
    status: PayoutStatus
    reason: str | None = None


def may_become(current: PayoutStatus, wanted: PayoutStatus) -> bool:
    """Tell whether a payout in a state may come to another one: every transition there is."""
    match current:
        case PayoutStatus.REQUESTED:
            return wanted in (PayoutStatus.APPROVED, PayoutStatus.REJECTED)
        case PayoutStatus.APPROVED:
            # Once it is handed over, only whoever has it can say what became of it.
            return wanted in (PayoutStatus.SENT, PayoutStatus.REJECTED)
        case PayoutStatus.SENT:
            return wanted in (PayoutStatus.PAID, PayoutStatus.FAILED)
        case PayoutStatus.PAID:
            # The receiving bank may send money back days later.
            return wanted is PayoutStatus.FAILED
        case PayoutStatus.FAILED | PayoutStatus.REJECTED:
            return False
        case _:
            assert_never(current)


def position(payout: Payout) -> list[Line]:
    """Return what the payout has in the ledger in its present state."""
    customer_id, currency, amount_minor = payout.customer_id, payout.currency, payout.amount_minor
    taken = debit(Account.CUSTOMER_AVAILABLE, amount_minor, currency, customer_id=customer_id)
    match payout.status:
        case PayoutStatus.REQUESTED | PayoutStatus.APPROVED | PayoutStatus.SENT:
            return [taken, credit(Account.CUSTOMER_IN_PAYOUT, amount_minor, currency, customer_id=customer_id)]
        case PayoutStatus.PAID:
            return [
                taken,
                credit(Account.CASH, amount_minor - payout.fee_minor, currency),
                credit(Account.PAYOUT_FEES, payout.fee_minor, currency),
            ]
        case PayoutStatus.FAILED | PayoutStatus.REJECTED:
            return []
        case _:
            assert_never(payout.status)


async def start(session: AsyncSession, payout: Payout) -> None:
    """Add a requested payout and take its amount out of the available balance. Raises InsufficientBalanceError."""
    session.add(payout)
    await session.flush()
    session.add(PayoutChange(payout_id=payout.id, status=payout.status))
    await ledger.post(
        session,
        cause_type=CauseType.PAYOUT,
        cause_id=payout.id,
        purpose=payout.status.value,
        lines=position(payout),
        covered=True,
    )
    await publish(session, Topic.PAYOUT, payout.status.value, _told(payout))


async def advance(
    session: AsyncSession,
    payout: Payout,
    status: PayoutStatus,
    *,
    reason: str | None = None,
    staff_key_id: UUID | None = None,
) -> None:
    """Bring a payout, locked by the caller, to its next state. Raises PayoutStateError."""
    await advance_all(session, [Step(payout, status, reason)], staff_key_id=staff_key_id)


async def advance_all(session: AsyncSession, steps: Sequence[Step], *, staff_key_id: UUID | None = None) -> None:
    """Bring payouts, all locked by the caller, to their next states in few statements.

    Raises PayoutStateError for the first that cannot come there.
    """
    entries: list[Entry] = []
    paid: dict[tuple[UUID, str], int] = defaultdict(int)
    for start in range(0, len(steps), _AT_ONCE):
        for step in steps[start : start + _AT_ONCE]:
            was = step.payout.status
            entries.append(_take(session, step, staff_key_id))
            if PayoutStatus.PAID in (was, step.status):
                sign = 1 if step.status is PayoutStatus.PAID else -1
                paid[step.payout.customer_id, step.payout.currency] += sign * step.payout.amount_minor
        await session.flush()
    await publish_all(session, Topic.PAYOUT, [(step.status.value, _told(step.payout)) for step in steps])
    # Last, since it locks wallets, for which customers wait.
    await ledger.post_all(session, entries, paid=paid)


def _take(session: AsyncSession, step: Step, staff_key_id: UUID | None) -> Entry:
    """Take one step, to be flushed, and return what it posts. Raises PayoutStateError."""
    payout = step.payout
    if not may_become(payout.status, step.status):
        raise PayoutStateError(payout, step.status)
    before = position(payout)
    payout.status, payout.reason = step.status, step.reason
    session.add(PayoutChange(payout_id=payout.id, status=step.status, reason=step.reason, staff_key_id=staff_key_id))
    if step.status is PayoutStatus.APPROVED and payout.provider is PayoutProvider.HTTP:
        payout.next_attempt_at = datetime.now(UTC)
        ring_after_commit(session, "send_payouts")
    lines = [*(line.reversed() for line in before), *position(payout)]
    return Entry(CauseType.PAYOUT, payout.id, step.status.value, lines)


def _told(payout: Payout) -> dict[str, Any]:
    """Return what other systems are told of a payout."""
    return {
        "payout_id": str(payout.id),
        "customer_id": str(payout.customer_id),
        "status": payout.status.value,
        "amount": {"amount_minor": payout.amount_minor, "currency": payout.currency},
        "fee": {"amount_minor": payout.fee_minor, "currency": payout.currency},
        "reason": payout.reason,
    }
