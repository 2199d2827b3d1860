"""Posting a transfer, and the wallets that follow from it, in the caller's transaction.

Only customers have a stored balance (`wallets`). House accounts have none, so that no two sales ever queue for the
same row; their balances are sums of postings.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import ConflictError
from app.ids import new_id
from app.models import Account, CauseType, Posting, Transfer, Wallet
from app.services.bulk import arrays_of, insert_rows
from app.services.notifications import Topic, listens, publish_all

# Without the option the ORM sends a statement of its own for each set of columns that are not null.
_INSERT_POSTINGS = insert(Posting).execution_options(render_nulls=True)
_WALLET_COLUMNS = {
    Account.CUSTOMER_PENDING: Wallet.pending_minor,
    Account.CUSTOMER_AVAILABLE: Wallet.available_minor,
    Account.CUSTOMER_IN_PAYOUT: Wallet.in_payout_minor,
    Account.CUSTOMER_DEBT: Wallet.debt_minor,
}

_KEY = ("customer_id", "currency")
_SUMS = (*(column.key for column in _WALLET_COLUMNS.values()), Wallet.paid_minor.key)
# Makes those that are missing, and locks the others: also what an upsert's condition keeps from an update is locked.
_LOCK_WALLETS = text(
    "INSERT INTO wallets (customer_id, currency)"  # noqa: S608 - names of the models
    f" SELECT * FROM {arrays_of(Wallet, _KEY)} AS wanted ({', '.join(_KEY)})"
    " ORDER BY 1, 2 ON CONFLICT (customer_id, currency) DO UPDATE SET currency = excluded.currency WHERE false"
)
_MOVE_WALLETS = text(
    f"UPDATE wallets SET {', '.join(f'{name} = wallets.{name} + moved.{name}' for name in _SUMS)}, updated_at = now()"  # noqa: S608 - names of the models
    f" FROM {arrays_of(Wallet, (*_KEY, *_SUMS))} AS moved ({', '.join((*_KEY, *_SUMS))})"
    " WHERE wallets.customer_id = moved.customer_id AND wallets.currency = moved.currency"
)


class InsufficientBalanceError(ConflictError):
    """The customer's available balance does not cover the amount."""

    code = "insufficient_balance"
    title = "Insufficient balance"

    def __init__(self, currency: str) -> None:
        super().__init__(f"The available balance in {currency} does not cover this amount.")


@dataclass(frozen=True, slots=True)
class Line:
    """One posting to be: minor units, positive for a debit, negative for a credit."""

    account: Account
    amount_minor: int
    currency: str
    merchant_id: int | None = None
    customer_id: UUID | None = None

    def reversed(self) -> "Line":
        """Return the line that undoes this one."""
        return replace(self, amount_minor=-self.amount_minor)


@dataclass(frozen=True, slots=True)
class Entry:
    """A transfer to be: what makes it, and its lines."""

    cause_type: CauseType
    cause_id: UUID
    purpose: str
    lines: Sequence[Line]


def debit(
    account: Account,
    amount_minor: int,
    currency: str,
    *,
    merchant_id: int | None = None,
    customer_id: UUID | None = None,
) -> Line:
    """Return a line that debits: more of an asset or expense, less of a liability or income."""
    return Line(account, amount_minor, currency, merchant_id, customer_id)


def credit(
    account: Account,
    amount_minor: int,
    currency: str,
    *,
    merchant_id: int | None = None,
    customer_id: UUID | None = None,
) -> Line:
    """Return a line that credits: more of a liability or income, less of an asset or expense."""
    return Line(account, -amount_minor, currency, merchant_id, customer_id)


async def post(
    session: AsyncSession,
    *,
    cause_type: CauseType,
    cause_id: UUID,
    purpose: str,
    lines: Sequence[Line],
    details: dict[str, Any] | None = None,
    corrects_id: UUID | None = None,
    covered: bool = False,
) -> UUID | None:
    """Post one transfer and return its id, or None when nothing moves. Lines of one account are netted.

    With `covered` no available balance may come below zero: raises InsufficientBalanceError, and whatever races for
    the same balance, only what it covers succeeds. Without it only clawbacks take more than there is.

    The database refuses an unbalanced transfer at commit, and the same (cause, purpose) at once: a caller that
    could come twice guards by status under a row lock, and this is the second wall.
    """
    moved = _net(lines)
    if not moved:
        return None
    transfer_id = new_id()
    transfer = _transfer(transfer_id, cause_type, cause_id, purpose, corrects_id=corrects_id, details=details)
    await session.execute(insert(Transfer).values(transfer))
    await session.execute(_INSERT_POSTINGS, [_posting(transfer_id, line) for line in moved])
    await _move_wallets(session, moved, covered=covered)
    await _tell(session, _by_wallet(moved))
    return transfer_id


async def post_all(
    session: AsyncSession, entries: Sequence[Entry], *, paid: Mapping[tuple[UUID, str], int] | None = None
) -> None:
    """Post many transfers in few statements, wallets last; what moves nothing is left out, as `post` does.

    `paid`: by (customer, currency), what to add to the sum a customer has been paid so far (or take from it), a figure
    beside the balances.
    """
    moved: list[Line] = []
    transfers, postings = [], []
    for entry in entries:
        if not (lines := _net(entry.lines)):
            continue
        transfer_id = new_id()
        transfers.append(_transfer(transfer_id, entry.cause_type, entry.cause_id, entry.purpose))
        postings += [_posting(transfer_id, line) for line in lines]
        moved += lines
    await insert_rows(session, Transfer, transfers)
    await insert_rows(session, Posting, postings)
    await _move_many_wallets(session, moved, paid or {})
    await _tell(session, _by_wallet(moved).keys() | (paid or {}).keys())


def _net(lines: Sequence[Line]) -> list[Line]:
    sums: dict[tuple[Account, str, int | None, UUID | None], int] = defaultdict(int)
    for line in lines:
        sums[line.account, line.currency, line.merchant_id, line.customer_id] += line.amount_minor
    return [
        Line(account, amount_minor, currency, merchant_id, customer_id)
        for (account, currency, merchant_id, customer_id), amount_minor in sums.items()
        if amount_minor != 0
    ]


def _transfer(
    transfer_id: UUID,
    cause_type: CauseType,
    cause_id: UUID,
    purpose: str,
    *,
    corrects_id: UUID | None = None,
    details: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "id": transfer_id,
        "cause_type": cause_type,
        "cause_id": cause_id,
        "purpose": purpose,
        "corrects_id": corrects_id,
        "details": details or {},
    }


def _posting(transfer_id: UUID, line: Line) -> dict[str, Any]:
    return {
        "transfer_id": transfer_id,
        "account": line.account,
        "merchant_id": line.merchant_id,
        "customer_id": line.customer_id,
        "currency": line.currency,
        "amount_minor": line.amount_minor,
    }


def _by_wallet(lines: Sequence[Line]) -> dict[tuple[UUID, str], dict[Account, int]]:
    changes: dict[tuple[UUID, str], dict[Account, int]] = defaultdict(lambda: defaultdict(int))
    for line in lines:
        if line.customer_id is not None:
            # A liability grows by a credit, which is negative here; a debt is an asset of ours.
            sign = 1 if line.account is Account.CUSTOMER_DEBT else -1
            changes[line.customer_id, line.currency][line.account] += sign * line.amount_minor
    return changes


async def _move_many_wallets(
    session: AsyncSession, lines: Sequence[Line], paid: Mapping[tuple[UUID, str], int]
) -> None:
    """Move wallets by one statement, once all are locked in the order that all keep to."""
    changes = _by_wallet(lines)
    wallets = sorted(changes.keys() | paid.keys())
    if not wallets:
        return
    keys = {"customer_id": [one for one, _ in wallets], "currency": [currency for _, currency in wallets]}
    await session.execute(_LOCK_WALLETS, keys)
    moved = {
        column.key: [changes.get(wallet, {}).get(account, 0) for wallet in wallets]
        for account, column in _WALLET_COLUMNS.items()
    }
    await session.execute(
        _MOVE_WALLETS, {**keys, **moved, Wallet.paid_minor.key: [paid.get(wallet, 0) for wallet in wallets]}
    )


async def _move_wallets(session: AsyncSession, lines: Sequence[Line], *, covered: bool) -> None:
    # In one order everywhere, so that two transfers over the same wallets cannot deadlock.
    for (customer_id, currency), moved in sorted(_by_wallet(lines).items()):
        columns = {_WALLET_COLUMNS[account]: _WALLET_COLUMNS[account] + amount for account, amount in moved.items()}
        move = (
            update(Wallet)
            .where(Wallet.customer_id == customer_id, Wallet.currency == currency)
            .values({**columns, Wallet.updated_at: func.now()})
            .returning(Wallet.customer_id)
            .execution_options(synchronize_session=False)
        )
        if covered and (taken := moved[Account.CUSTOMER_AVAILABLE]) < 0:
            # The condition is judged on the newest row once the lock is ours: the database decides a race.
            move = move.where(Wallet.available_minor >= -taken)
            if (await session.execute(move)).first() is None:
                raise InsufficientBalanceError(currency)
            continue
        if (await session.execute(move)).first() is None:
            # First the row, then the change: one upsert's CHECK would judge the change as if it were the balance.
            await session.execute(
                upsert(Wallet).values(customer_id=customer_id, currency=currency).on_conflict_do_nothing()
            )
            await session.execute(move)


async def _tell(session: AsyncSession, wallets: Collection[tuple[UUID, str]]) -> None:
    """Tell who listens what customers have now. Whoever listens to nothing costs nothing."""
    if not wallets or not await listens(session, Topic.WALLET):
        return
    rows = await session.execute(
        select(Wallet.customer_id, Wallet.currency, *_WALLET_COLUMNS.values(), Wallet.paid_minor).where(
            tuple_(Wallet.customer_id, Wallet.currency).in_(wallets)
        )
    )
    told = [("changed", {**row._asdict(), "customer_id": str(row.customer_id)}) for row in rows]
    await publish_all(session, Topic.WALLET, told)
