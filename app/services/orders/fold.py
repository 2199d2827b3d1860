"""What an order is, from everything its source said about it, in the order things happened and not arrived.

Reports come twice, late and out of order. Folding all of them anew each time gives the same order for any arrival
order, and a stale report changes nothing because it is folded before the newer ones.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import assert_never
from uuid import UUID

from app.models import OrderStatus, ReportKind

# Of reports with the same time, the later step of an order's life counts last.
_RANK = {ReportKind.CREATED: 0, ReportKind.APPROVED: 1, ReportKind.DECLINED: 2, ReportKind.RETURNED: 3}


@dataclass(frozen=True, slots=True)
class Report:
    """One report. Amounts in minor units; None where the source repeated none. `part`: the delivery it speaks of.

    An undated one has arrived at `occurred_at`, and only its kind tells whether it comes before another undated one.
    The amounts of a delta are differences: they add up with those of the other reports, in any order. Of several with
    the same `row_id` only the last one's do: that row was told again.
    """

    id: UUID
    kind: ReportKind
    occurred_at: datetime
    sale_minor: int | None
    commission_minor: int | None
    part: str | None = None
    ordered_at: datetime | None = None
    is_dated: bool = True
    is_delta: bool = False
    row_id: str | None = None


@dataclass(frozen=True, slots=True)
class Folded:
    """What the reports add up to, before time (the hold) has its say."""

    status: OrderStatus
    sale_minor: int
    commission_minor: int
    ordered_at: datetime
    approved_at: datetime | None
    # Taken back already, and no longer in the amounts above.
    returned_sale_minor: int = 0
    returned_commission_minor: int = 0
    # Of an order in parts that pends: what its approved parts add up to.
    approved: "Folded | None" = None


def fold(reports: Iterable[Report]) -> Folded:
    """Fold one or more reports of one order. Its status is `pending`, `approved` or `declined`."""
    history = _rows_once(_in_order(reports))
    parts = sorted({report.part for report in history if report.part is not None})
    return _combine(history, parts) if parts else _fold_one(history)


def next_status(current: OrderStatus | None, folded: OrderStatus) -> OrderStatus:
    """Return the status an order comes to when its reports fold to `folded`: every transition a report can cause.

    `approved -> payable` is not here: time causes it (`services/orders/hold.py`).
    """
    match current:
        case None | OrderStatus.PENDING | OrderStatus.APPROVED | OrderStatus.DECLINED:
            return folded
        case OrderStatus.PAYABLE:
            # Also when a part of it is announced that pends: what was available before stays so.
            return OrderStatus.REVERSED if folded is OrderStatus.DECLINED else OrderStatus.PAYABLE
        case OrderStatus.REVERSED:
            # A dispute is won.
            return OrderStatus.PAYABLE if folded is OrderStatus.APPROVED else OrderStatus.REVERSED
        case _:
            assert_never(current)


def _in_order(reports: Iterable[Report]) -> list[Report]:
    found = list(reports)
    # All undated ones stand where the first of them arrived, in the order of an order's life.
    undated_at = min((report.occurred_at for report in found if not report.is_dated), default=None)

    def place(report: Report) -> tuple[datetime, int, datetime, UUID]:
        at = report.occurred_at if report.is_dated or undated_at is None else undated_at
        return at, _RANK[report.kind], report.occurred_at, report.id

    return sorted(found, key=place)


def _rows_once(history: Sequence[Report]) -> Sequence[Report]:
    """Let a row that was told several times add up once, as it was told last."""
    last: dict[str | None, UUID] = {
        report.row_id: report.id for report in history if report.is_delta and report.row_id is not None
    }
    return [
        replace(report, sale_minor=0, commission_minor=0)
        if report.is_delta and last.get(report.row_id, report.id) != report.id
        else report
        for report in history
    ]


def _ordered_at(history: Sequence[Report]) -> datetime:
    told = [report.ordered_at for report in history if report.ordered_at is not None]
    return min(told or [report.occurred_at for report in history])


def _fold_one(history: Sequence[Report]) -> Folded:
    state = Folded(OrderStatus.PENDING, 0, 0, _ordered_at(history), None)
    for report in history:
        state = _step(state, report)
    rows = [report for report in history if report.is_delta]
    return _with_rows(state, rows) if rows else state


def _with_rows(state: Folded, rows: Sequence[Report]) -> Folded:
    """Say what an order is whose rows have been added: nothing left of it is an order that was taken back."""
    if state.sale_minor > 0:
        return replace(state, commission_minor=max(0, state.commission_minor))
    return replace(
        state,
        status=OrderStatus.DECLINED,
        approved_at=None,
        # As they were, for whoever asks what was declined.
        sale_minor=sum(max(0, row.sale_minor or 0) for row in rows),
        commission_minor=sum(max(0, row.commission_minor or 0) for row in rows),
    )


def _combine(history: Sequence[Report], parts: Sequence[str]) -> Folded:
    """Add up an order that is delivered in parts.

    Parts split the order: what they leave of the amounts reported for the whole is a part like them. A report about
    the whole that says approved, declined or returned without an amount holds for every part.
    """
    since = _ordered_at(history)
    whole, for_all = _fold_whole([report for report in history if report.part is None], since)
    folded = [
        _fold_one(_in_order([*for_all, *(report for report in history if report.part == part)])) for part in parts
    ]
    rest = replace(
        whole,
        sale_minor=max(
            0,
            whole.sale_minor
            + whole.returned_sale_minor
            - sum(part.sale_minor + part.returned_sale_minor for part in folded),
        ),
        commission_minor=max(
            0,
            whole.commission_minor
            + whole.returned_commission_minor
            - sum(part.commission_minor + part.returned_commission_minor for part in folded),
        ),
    )
    if rest.sale_minor or rest.commission_minor:
        folded.append(rest)
    live = [part for part in folded if part.status is not OrderStatus.DECLINED]
    if not live or (whole.returned_sale_minor and sum(part.sale_minor for part in live) <= whole.returned_sale_minor):
        # Kept as they were, for whoever asks what was declined.
        return _add_up(OrderStatus.DECLINED, folded, since=since)
    # Approved as a whole when its last part is: so it also becomes payable as a whole.
    ready = [part for part in live if part.status is OrderStatus.APPROVED]
    approved = _add_up(OrderStatus.APPROVED, ready, since=since, returned=whole)
    if len(ready) == len(live):
        return approved
    return replace(_add_up(OrderStatus.PENDING, live, since=since, returned=whole), approved=approved)


def _add_up(status: OrderStatus, parts: Sequence[Folded], *, since: datetime, returned: Folded | None = None) -> Folded:
    """Add up parts, less what was returned of them together."""
    sale_minor = sum(part.sale_minor for part in parts)
    commission_minor = sum(part.commission_minor for part in parts)
    approved_at = None
    if returned is not None:
        sale_minor = max(0, sale_minor - returned.returned_sale_minor)
        commission_minor = max(0, commission_minor - returned.returned_commission_minor)
    if status is OrderStatus.APPROVED:
        approved_at = max((part.approved_at for part in parts if part.approved_at), default=None)
    return Folded(status, sale_minor, commission_minor, since, approved_at)


def _fold_whole(reports: Sequence[Report], since: datetime) -> tuple[Folded, list[Report]]:
    """Fold the reports about the whole of an order in parts; also return those that hold for every part."""
    state = Folded(OrderStatus.PENDING, 0, 0, since, None)
    for_all: list[Report] = []
    for report in reports:
        if report.kind is ReportKind.RETURNED and report.sale_minor is not None and not state.sale_minor:
            # Only its parts have amounts: this comes off their sum.
            state = replace(
                state,
                returned_sale_minor=state.returned_sale_minor + report.sale_minor,
                returned_commission_minor=state.returned_commission_minor + (report.commission_minor or 0),
            )
            continue
        state = _step(state, report)
        if report.kind is not ReportKind.CREATED and (
            report.kind is not ReportKind.RETURNED or state.status is OrderStatus.DECLINED
        ):
            for_all.append(replace(report, sale_minor=None, commission_minor=None))
    return state, for_all


def _step(state: Folded, report: Report) -> Folded:
    if report.is_delta:
        # May be below zero until all rows are there.
        state = replace(
            state,
            sale_minor=state.sale_minor + (report.sale_minor or 0),
            commission_minor=state.commission_minor + (report.commission_minor or 0),
        )
        report = replace(report, sale_minor=None, commission_minor=None, is_delta=False)
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
    return replace(
        state,
        sale_minor=sale_minor,
        commission_minor=commission_minor,
        returned_sale_minor=state.returned_sale_minor + report.sale_minor,
        returned_commission_minor=state.returned_commission_minor + state.commission_minor - commission_minor,
    )
