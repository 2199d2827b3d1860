"""An order's position in the ledger, and what follows when it changes. Asks nobody and writes nothing.

What an order has in the ledger follows from its state alone (`position`). A change posts the difference between two
positions, so that declines, new amounts and returns need no posting rules of their own.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, assert_never

from app.models import Account, CauseType, Order, OrderStatus
from app.schemas.common import utc
from app.services.ledger import Entry, Line, credit, debit

DEAD = (OrderStatus.DECLINED, OrderStatus.REVERSED)


@dataclass(frozen=True, slots=True)
class Target:
    """The state an order shall have. Amounts in minor units: of the order's currency, and as reported."""

    status: OrderStatus
    sale_minor: int
    commission_minor: int
    cashback_minor: int
    boost_minor: int
    reported_sale_minor: int
    reported_commission_minor: int

    @classmethod
    def of(cls, order: Order, *, status: OrderStatus | None = None) -> "Target":
        """Return the state an order has, with another status if one is given."""
        return cls(
            status or order.status,
            order.sale_minor,
            order.commission_minor,
            order.cashback_minor,
            order.boost_minor,
            order.reported_sale_minor,
            order.reported_commission_minor,
        )

    def apply(self, order: Order) -> None:
        """Write it to the order's row."""
        order.status = self.status
        order.sale_minor, order.commission_minor = self.sale_minor, self.commission_minor
        order.cashback_minor, order.boost_minor = self.cashback_minor, self.boost_minor
        order.reported_sale_minor = self.reported_sale_minor
        order.reported_commission_minor = self.reported_commission_minor


def position(order: Order) -> list[Line]:
    """Return what the order has in the ledger in its present state."""
    match order.status:
        case OrderStatus.PENDING | OrderStatus.APPROVED:
            customer, margin = Account.CUSTOMER_PENDING, Account.MARGIN_PENDING
        case OrderStatus.PAYABLE:
            customer, margin = Account.CUSTOMER_AVAILABLE, Account.MARGIN
        case OrderStatus.DECLINED | OrderStatus.REVERSED:
            return []
        case _:
            assert_never(order.status)
    merchant_id, currency, reported = order.merchant_id, order.currency, order.reported_currency
    lines = [
        debit(Account.NETWORK_RECEIVABLE, order.reported_commission_minor, reported, merchant_id=merchant_id),
        credit(customer, order.cashback_minor, currency, customer_id=order.customer_id),
        debit(Account.PROMOTIONS, order.boost_minor, currency, merchant_id=merchant_id),
        # Below zero when the promise was larger than the commission: our loss, and it shows.
        credit(
            margin,
            order.commission_minor - (order.cashback_minor - order.boost_minor),
            currency,
            merchant_id=merchant_id,
        ),
    ]
    if reported != currency:
        # The network owes one currency, the customer is owed another: each sums to zero by itself.
        lines += [
            credit(Account.CURRENCY_EXCHANGE, order.reported_commission_minor, reported),
            debit(Account.CURRENCY_EXCHANGE, order.commission_minor, currency),
        ]
    return lines


def is_due(order: Order, now: datetime) -> bool:
    """Whether an approved order's hold is over."""
    return order.status is OrderStatus.APPROVED and order.payable_at is not None and order.payable_at <= now


@dataclass(frozen=True, slots=True)
class Move:
    """What follows from an order's new state, which its row has already: its history, and what is to be posted."""

    history: dict[str, Any]
    entry: Entry
    # What becomes available to the customer, or is available no more.
    available_minor: int
    was_payable: bool
    is_other_owed: bool


def move(order: Order, target: Target) -> Move | None:
    """Bring an order's row to a state; None when it is there."""
    if order.revision and target == Target.of(order):
        return None
    before = position(order) if order.revision else []
    was_payable = order.revision > 0 and order.status is OrderStatus.PAYABLE
    owed_before_minor = order.owed_minor
    target.apply(order)
    order.revision += 1
    after = position(order)
    return Move(
        history={
            "order_id": order.id,
            "revision": order.revision,
            "status": target.status,
            "sale_minor": target.sale_minor,
            "commission_minor": target.commission_minor,
            "cashback_minor": target.cashback_minor,
            "boost_minor": target.boost_minor,
        },
        entry=Entry(
            # Named by the state and the order's new revision, so that it cannot be posted twice.
            CauseType.ORDER,
            order.id,
            f"{order.status.value}:{order.revision}",
            [*(line.reversed() for line in before), *after],
        ),
        available_minor=_available(after) - _available(before),
        was_payable=was_payable,
        is_other_owed=order.owed_minor != owed_before_minor,
    )


def told(order: Order) -> dict[str, Any]:
    """Return what other systems are told of an order."""
    return {
        "order_id": str(order.id),
        "revision": order.revision,
        "customer_id": str(order.customer_id),
        "merchant_id": order.merchant_id,
        "order_reference": order.external_id,
        "status": order.status.value,
        "sale": {"amount_minor": order.sale_minor, "currency": order.currency},
        "cashback": {"amount_minor": order.cashback_minor, "currency": order.currency},
        "ordered_at": utc(order.ordered_at),
        "payable_at": order.payable_at and utc(order.payable_at),
    }


def _available(lines: list[Line]) -> int:
    return -sum(line.amount_minor for line in lines if line.account is Account.CUSTOMER_AVAILABLE)
