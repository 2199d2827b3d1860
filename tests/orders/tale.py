"""What happens to a customer's orders at one shop, told in order; all of it over HTTP and through the workers' jobs."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, select, update

from app.db import transaction
from app.models import Account, CauseType, Clawback, ClawbackStatus, OrderStatus, Posting, Transfer, Wallet
from app.workers.clawbacks import write_off_due
from app.workers.orders import release_payable
from tests.factories import pay_out
from tests.webhooks.world import World


@dataclass
class Tale:
    """One customer at one shop; each thing that is told happens a minute after the last, and is worked on at once."""

    world: World
    at: datetime = field(default_factory=lambda: datetime.now(UTC) - timedelta(days=20))

    async def tell(self, kind: str, order: str, sale: int | None = None, **payload: Any) -> str:
        """Let the shop report something, and do what the workers do. The commission is 8 % of the sale.

        Returns the event's id.
        """
        self.at += timedelta(minutes=1)
        commission = None if sale is None else sale * 8 // 100
        values = {"amount": sale, "commission": commission, "at": self.at, **payload}
        answer = await self.world.post(kind, order, **values)
        assert answer.status_code == 202, answer.text
        await self.world.drain()
        await release_payable()
        return str(answer.json()["event_id"])

    async def earn(self, order: str, cashback: int = 5_000) -> None:
        """Have an order whose cashback, of 5 %, is approved, and available where the shop has no hold."""
        await self.tell("created", order, cashback * 20)
        await self.tell("approved", order)

    async def spend(self, amount: int) -> None:
        """Have so much paid out."""
        async with transaction() as session:
            await pay_out(session, self.world.settings, self.world.customer, amount, "PKR")

    async def order(self, name: str = "A") -> tuple[OrderStatus, int, int]:
        """(status, sale, cashback) of an order."""
        order = await self.world.order(name)
        return order.status, order.sale_minor, order.cashback_minor

    async def posted(self, name: str = "A") -> dict[Account, int]:
        """What an order has in the ledger."""
        order = await self.world.order(name)
        async with transaction() as session:
            rows = await session.execute(
                select(Posting.account, func.sum(Posting.amount_minor))
                .join(Transfer, Transfer.id == Posting.transfer_id)
                .where(Transfer.cause_type == CauseType.ORDER, Transfer.cause_id == order.id)
                .group_by(Posting.account)
            )
            return {account: int(amount) for account, amount in rows if amount}

    async def balance(self) -> tuple[int, int]:
        """(available, debt) in minor units."""
        async with transaction() as session:
            wallet = await session.get_one(Wallet, (self.world.customer.id, "PKR"))
            return wallet.available_minor, wallet.debt_minor

    async def clawbacks(self) -> list[tuple[ClawbackStatus, int, int, int]]:
        """(status, shortfall, recovered, written off) of each of the customer's, oldest first."""
        async with transaction() as session:
            of_customer = select(Clawback).where(Clawback.customer_id == self.world.customer.id)
            rows = await session.scalars(of_customer.order_by(Clawback.id))
            return [(row.status, row.shortfall_minor, row.recovered_minor, row.written_off_minor) for row in rows]

    async def loss(self) -> int:
        """What is booked as bad debt."""
        async with transaction() as session:
            lost = select(func.coalesce(func.sum(Posting.amount_minor), 0)).where(Posting.account == Account.BAD_DEBT)
            return int((await session.scalars(lost)).one())

    async def come_due(self) -> None:
        """Let the days until writing off pass."""
        async with transaction() as session:
            due = update(Clawback).where(Clawback.due_at.is_not(None)).values(due_at=func.now())
            await session.execute(due)
        await write_off_due()
