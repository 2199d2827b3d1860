"""An order is the same whatever order its reports arrive in."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ids import new_id
from app.models import OrderStatus, ReportKind
from app.services.orders.fold import Folded, Report, fold, next_status

START = datetime(2026, 11, 1, tzinfo=UTC)


def report(
    kind: ReportKind, day: int, sale: int | None = None, commission: int | None = None, part: str | None = None
) -> Report:
    return Report(new_id(), kind, START + timedelta(days=day), sale, commission, part)


CREATED = report(ReportKind.CREATED, 0, 10_000, 1_000)
APPROVED = report(ReportKind.APPROVED, 5)
DECLINED = report(ReportKind.DECLINED, 6)


def test_a_sale_pends_then_is_approved_then_declined() -> None:
    assert fold([CREATED]) == Folded(OrderStatus.PENDING, 10_000, 1_000, START, None)
    assert fold([CREATED, APPROVED]).status is OrderStatus.APPROVED
    assert fold([CREATED, APPROVED]).approved_at == START + timedelta(days=5)
    assert fold([CREATED, APPROVED, DECLINED]).status is OrderStatus.DECLINED


def test_a_stale_report_changes_nothing() -> None:
    late_approval = report(ReportKind.APPROVED, 3, 1, 1)
    assert fold([CREATED, DECLINED, late_approval]).status is OrderStatus.DECLINED
    assert fold([CREATED, APPROVED, report(ReportKind.CREATED, -1, 5, 5)]).sale_minor == 10_000


def test_an_approval_may_change_the_amounts() -> None:
    folded = fold([CREATED, report(ReportKind.APPROVED, 5, 8_000, 800)])
    assert (folded.sale_minor, folded.commission_minor) == (8_000, 800)


def test_a_won_dispute_approves_again() -> None:
    assert fold([CREATED, APPROVED, DECLINED, report(ReportKind.APPROVED, 9)]).status is OrderStatus.APPROVED


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (report(ReportKind.RETURNED, 7), (OrderStatus.DECLINED, 10_000, 1_000)),
        (report(ReportKind.RETURNED, 7, 10_000, 1_000), (OrderStatus.DECLINED, 10_000, 1_000)),
        (report(ReportKind.RETURNED, 7, 2_500, 250), (OrderStatus.APPROVED, 7_500, 750)),
        # Without a commission it shrinks with the sale, rounded down.
        (report(ReportKind.RETURNED, 7, 3_333, None), (OrderStatus.APPROVED, 6_667, 666)),
    ],
)
def test_a_return_takes_back_what_it_says(returned: Report, expected: tuple[OrderStatus, int, int]) -> None:
    folded = fold([CREATED, APPROVED, returned])
    assert (folded.status, folded.sale_minor, folded.commission_minor) == expected


def test_reports_of_the_same_moment_are_taken_in_the_order_of_an_orders_life() -> None:
    at_once = [report(kind, 0, 100, 10) for kind in ReportKind]
    assert fold(reversed(at_once)).status is OrderStatus.DECLINED


def test_parts_are_approved_together_and_meanwhile_it_is_known_which_are() -> None:
    whole = report(ReportKind.CREATED, 0, 10_000, 1_000)
    first = report(ReportKind.APPROVED, 3, 6_000, 600, "1")
    pending = fold([whole, first])
    assert (pending.status, pending.sale_minor, pending.approved_at) == (OrderStatus.PENDING, 10_000, None)
    assert pending.approved == Folded(OrderStatus.APPROVED, 6_000, 600, START, START + timedelta(days=3))
    approved = fold([whole, first, report(ReportKind.APPROVED, 5, 4_000, 400, "2")])
    assert approved == Folded(OrderStatus.APPROVED, 10_000, 1_000, START, START + timedelta(days=5))


def test_what_is_returned_of_parts_together_comes_off_their_sum() -> None:
    parts = [report(ReportKind.CREATED, 0, sale, sale // 10, part) for part, sale in (("1", 6_000), ("2", 4_000))]
    history = [*parts, report(ReportKind.APPROVED, 2), report(ReportKind.RETURNED, 3, 2_500, 250)]
    folded = fold(history)
    assert (folded.status, folded.sale_minor, folded.commission_minor) == (OrderStatus.APPROVED, 7_500, 750)
    gone = fold([*history, report(ReportKind.RETURNED, 4, 7_500, 750)])
    assert (gone.status, gone.sale_minor) == (OrderStatus.DECLINED, 10_000)


_reports = st.lists(
    st.builds(
        report,
        st.sampled_from(ReportKind),
        st.integers(0, 20),
        st.none() | st.integers(0, 10_000),
        st.none() | st.integers(0, 1_000),
        st.sampled_from([None, None, "1", "2"]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=1_000, deadline=None)
@given(_reports, st.randoms(use_true_random=False))
def test_any_of_1_000_histories_folds_to_the_same_order_however_it_arrives(
    reports: list[Report], chance: random.Random
) -> None:
    shuffled = reports.copy()
    chance.shuffle(shuffled)
    folded = fold(shuffled)
    assert folded == fold(reports)
    assert folded.sale_minor >= 0
    assert folded.commission_minor >= 0
    assert (folded.approved_at is not None) is (folded.status is OrderStatus.APPROVED)
    if folded.approved is not None:
        assert folded.status is OrderStatus.PENDING
        assert folded.approved.sale_minor <= folded.sale_minor
        assert folded.approved.commission_minor <= folded.commission_minor


def test_what_is_payable_can_only_be_reversed() -> None:
    assert next_status(None, OrderStatus.PENDING) is OrderStatus.PENDING
    assert next_status(OrderStatus.PENDING, OrderStatus.DECLINED) is OrderStatus.DECLINED
    assert next_status(OrderStatus.PAYABLE, OrderStatus.DECLINED) is OrderStatus.REVERSED
    assert next_status(OrderStatus.PAYABLE, OrderStatus.PENDING) is OrderStatus.PAYABLE
    assert next_status(OrderStatus.REVERSED, OrderStatus.APPROVED) is OrderStatus.PAYABLE
    assert next_status(OrderStatus.REVERSED, OrderStatus.PENDING) is OrderStatus.REVERSED
