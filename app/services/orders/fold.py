"""What an order is, from everything its source said about it, in the order things happened and not arrived.

Reports come twice, late and out of order. Folding all of them anew each time gives the same order for any arrival
order, and a stale report changes nothing because it is folded before the newer ones.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import assert_never
from uuid import UUID

from app.models import OrderStatus, ReportKind

# Of reports with the same time, the later step of an order's life counts last.
_RANK = {ReportKind.CREATED: 0, ReportKind.APPROVED: 1, ReportKind.DECLINED: 2, ReportKind.RETURNED: 3}


@dataclass(frozen=True, slots=True)
class Report:
    """One report. Amounts in minor units; None where the source repeated none."""

    id: UUID
    kind: ReportKind
    occurred_at: datetime
    sale_minor: int | None
    commission_minor: int | None


@dataclass(frozen=True, slots=True)
class Folded:
    """What the reports add up to, before time (the hold) has its say."""

    status: OrderStatus
    sale_minor: int
    commission_minor: int
    ordered_at: datetime
    approved_at: datetime | None


def fold(reports: Iterable[Report]) -> Folded:
    """Fold one or more reports of one order. Its status is `pending`, `approved` or `declined`."""
    history = sorted(reports, key=lambda report: (report.occurred_at, _RANK[report.kind], report.id))
    state = Folded(OrderStatus.PENDING, 0, 0, history[0].occurred_at, None)
    for report in history:
        state = _step(state, report)
    return state


def next_status(current: OrderStatus | None, folded: OrderStatus) -> OrderStatus:
    """Return the status an order comes to when its reports fold to `folded`: every transition a report can cause.

    `approved -> payable` is not here: time causes it (`services/orders/hold.py`).
    """
    match current:
        case None | OrderStatus.PENDING | OrderStatus.APPROVED | OrderStatus.DECLINED:
            return folded
        case OrderStatus.PAYABLE | OrderStatus.REVERSED:
            # Once payable, an order can only be taken back, or be reinstated when a dispute is won.
            return OrderStatus.REVERSED if folded is OrderStatus.DECLINED else OrderStatus.PAYABLE
        case _:
            assert_never(current)


def _step(state: Folded, report: Report) -> Folded:
    match report.kind:
        case ReportKind.CREATED:
            return _with_amounts(state, report)
        case ReportKind.APPROVED:
            return replace(_with_amounts(state, report), status=OrderStatus.APPROVED, approved_at=report.occurred_at)
        case ReportKind.DECLINED:
            return replace(state, status=OrderStatus.DECLINED, approved_at=None)
        case ReportKind.RETURNED:
            return _without_returned(state, report)
        case _:
            assert_never(report.kind)


def _with_amounts(state: Folded, report: Report) -> Folded:
    return replace(
        state,
        sale_minor=state.sale_minor if report.sale_minor is None else report.sale_minor,
        commission_minor=state.commission_minor if report.commission_minor is None else report.commission_minor,
    )


def _without_returned(state: Folded, report: Report) -> Folded:
    """Take back a part when the report says how much, else the whole order."""
    if report.sale_minor is None or report.sale_minor >= state.sale_minor:
        return replace(state, status=OrderStatus.DECLINED, approved_at=None)
    sale_minor = state.sale_minor - report.sale_minor
    if report.commission_minor is None:
        # The commission shrinks with the sale; rounded down, so that we never book more than is owed to us.
        commission_minor = state.commission_minor * sale_minor // state.sale_minor
    else:
        commission_minor = max(0, state.commission_minor - report.commission_minor)
    return replace(state, sale_minor=sale_minor, commission_minor=commission_minor)
