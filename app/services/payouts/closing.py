"""Closing an account, as far as payouts go: nothing may be under way, and no money may be left by mistake."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import ConflictError
from app.models import Payout, PayoutRule, Wallet
from app.money import format_minor
from app.services.payouts.methods import OPEN, wipe_methods


class PayoutUnderWayError(ConflictError):
    """A payout is not finished, and who it belongs to must be known until it is."""

    code = "payout_under_way"
    title = "Payout under way"

    def __init__(self) -> None:
        super().__init__("A payout is under way; close the account once it is paid or rejected.")


class MoneyLeftError(ConflictError):
    """There is money that could be paid out, and the customer did not say that it shall stay."""

    code = "money_left"
    title = "Money left"

    def __init__(self, amounts: list[str]) -> None:
        super().__init__(
            f"{' and '.join(amounts)} can still be paid out. Ask for it first, or close the account with"
            " 'forfeit=true' to leave it."
        )


async def leave(session: AsyncSession, *, customer_id: UUID, forfeit: bool) -> None:
    """Let go of a customer whose row the caller has locked: every payout method is wiped.

    What is below the minimum of its currency cannot be paid out and is in nobody's way; `forfeit` leaves the rest too.
    It stays in the customer's wallet, as the ledger forgets nothing. Raises PayoutUnderWayError and MoneyLeftError.
    """
    under_way = select(Payout.id).where(Payout.customer_id == customer_id, Payout.status.in_(OPEN))
    if await session.scalar(select(under_way.exists())):
        raise PayoutUnderWayError
    if not forfeit and (amounts := await _left(session, customer_id)):
        raise MoneyLeftError(amounts)
    await wipe_methods(session, customer_id=customer_id)


async def _left(session: AsyncSession, customer_id: UUID) -> list[str]:
    rows = await session.execute(
        select(Wallet.available_minor, Wallet.currency)
        .join(PayoutRule, PayoutRule.currency == Wallet.currency)
        .where(Wallet.customer_id == customer_id, Wallet.available_minor >= PayoutRule.minimum_minor)
        .order_by(Wallet.currency)
    )
    return [f"{format_minor(row.available_minor, row.currency)} {row.currency}" for row in rows]
