"""Reports on many orders in one transaction: folded in memory by the same rules as one, written in a few statements.

Only for plain orders, where nothing but an order's own reports and its click's rate has a say. Whatever is first come,
first served (a cap a month, a budget), and whatever was payable or paid, is changed one order at a time (`change.py`).
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import any_, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ring_after_commit
from app.ids import new_id
from app.models import Click, Merchant, Order, OrderChange, OrderReport, OrderStatus
from app.money import Rounding
from app.services import ledger
from app.services.bulk import insert_rows, update_rows
from app.services.fraud.judge import follow_new_and_moved
from app.services.ledger import Entry
from app.services.notifications import Topic, publish_all
from app.services.orders.change import aim, plain_target
from app.services.orders.position import is_due, move, told
from app.services.orders.report import Said, fill, fold_rows, wake_orphans

_PLAIN = (OrderStatus.PENDING, OrderStatus.APPROVED, OrderStatus.DECLINED)
_CHANGING = (
    "id",
    "status",
    "sale_minor",
    "commission_minor",
    "cashback_minor",
    "reported_sale_minor",
    "reported_commission_minor",
    "explanation",
    "ordered_at",
    "approved_at",
    "payable_at",
    "revision",
)
_MADE = (
    *_CHANGING,
    "merchant_id",
    "external_id",
    "source_id",
    "customer_id",
    "click_id",
    "currency",
    "reported_currency",
    "boost_minor",
    "settled_minor",
    "written_off_minor",
)
_REPORTED = (
    "id",
    "order_id",
    "webhook_event_id",
    "part",
    "kind",
    "occurred_at",
    "sale_minor",
    "commission_minor",
    "currency",
    "ordered_at",
    "is_dated",
    "is_delta",
    "row_id",
)


def is_plain(order: Order | None, click: Click) -> bool:
    """Whether only an order's reports and its click's rate decide what it is; `order` None: a new one."""
    if click.boosts or click.rate_cap_month_minor is not None:
        return False
    return order is None or (
        order.status in _PLAIN
        and order.exchange_rate_e12 is None
        and not (order.boost_minor or order.settled_minor or order.written_off_minor)
    )


class OrderBatch:
    """Plain orders that change together, each locked or new, and all that is to be written of it."""

    def __init__(self, *, rounding: Rounding, now: datetime) -> None:
        self._rounding, self._now = rounding, now
        self._made: dict[UUID, Order] = {}
        self._changed: dict[UUID, Order] = {}
        self._known: dict[UUID, list[OrderReport]] = defaultdict(list)
        self._reports: list[OrderReport] = []
        self._histories: list[dict[str, Any]] = []
        self._entries: list[Entry] = []
        self._told: list[tuple[str, dict[str, Any]]] = []
        # Orders that are new, or whose purchase counts at another time than before.
        self._moved: set[UUID] = set()

    async def load_reports(self, session: AsyncSession, orders: Iterable[UUID]) -> None:
        """Read what was reported of orders that exist."""
        if wanted := list(orders):
            rows = await session.scalars(
                select(OrderReport).where(OrderReport.order_id == any_(literal(wanted, ARRAY(OrderReport.id.type))))
            )
            for row in rows:
                self._known[row.order_id].append(row)

    def take(self, order: Order, event_id: UUID, said: Said, *, click: Click, merchant: Merchant) -> None:
        """Add an event's report to an order's and bring the order to what all of them fold to."""
        is_new = order.revision == 0
        row = OrderReport(id=new_id(), webhook_event_id=event_id)
        fill(row, order, said)
        known = self._known[order.id]
        known.append(row)
        self._reports.append(row)
        before = (order.ordered_at, order.approved_at, order.payable_at)
        folded, status = aim(order, fold_rows(known), merchant)
        moved = move(order, plain_target(order, folded, status, click=click, rounding=self._rounding))
        if moved is not None:
            self._histories.append({"id": new_id(), **moved.history})
            self._entries.append(moved.entry)
            self._told.append((order.status.value, told(order)))
        if is_new or before[0] != order.ordered_at:
            self._moved.add(order.id)
        if is_new:
            self._made[order.id] = order
        elif order.id not in self._made and (
            moved is not None or before != (order.ordered_at, order.approved_at, order.payable_at)
        ):
            self._changed[order.id] = order

    async def write(self, session: AsyncSession) -> None:
        """Write the orders, and what refers to them but for the ledger."""
        made, changed = self._made.values(), self._changed.values()
        await insert_rows(session, Order, [_columns(order, _MADE) for order in made])
        await update_rows(
            session, Order, [{**_columns(order, _CHANGING), "updated_at": self._now} for order in changed]
        )
        await insert_rows(session, OrderReport, [_columns(row, _REPORTED) for row in self._reports])
        await insert_rows(session, OrderChange, self._histories)
        by_merchant = defaultdict(list)
        for order in (*made, *changed):
            by_merchant[order.merchant_id].append(order)
        for merchant_id, orders in sorted(by_merchant.items()):
            await follow_new_and_moved(session, merchant_id, orders, moved=self._moved)
        references = defaultdict(list)
        for order in made:
            references[order.source_id].append(order.external_id)
        for source_id, numbers in sorted(references.items()):
            await wake_orphans(session, source_id=source_id, references=numbers)
        if any(is_due(order, self._now) for order in (*made, *changed)):
            ring_after_commit(session, "release_payable")
        await publish_all(session, Topic.ORDER, self._told)

    async def post(self, session: AsyncSession) -> None:
        """Write the ledger: last, so that wallets are locked for as short as can be."""
        await ledger.post_all(session, self._entries)


def _columns(row: Order | OrderReport, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}
