"""The score: a table of its parts, and what holds for any claim and any orphan."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.models import Claim, ReportKind, WebhookEvent, reference_key
from app.money import MAX_MINOR
from app.services.claims.score import MOST, score
from app.services.orders.numbers import spellings

AT = datetime(2026, 3, 10, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def claim(**changes: Any) -> Claim:
    values = {
        "merchant_id": 1,
        "order_reference": "A-1001",
        "currency": "PKR",
        "amount_minor": 100_000,
        "ordered_at": AT,
        **changes,
    }
    return Claim(**values, reference_key=reference_key(values["order_reference"]))


def orphan(**changes: Any) -> WebhookEvent:
    values = {
        "merchant_id": 1,
        "external_order_id": "A-1001",
        "reported_kind": ReportKind.CREATED,
        "reported_currency": "PKR",
        "reported_sale_minor": 100_000,
        "reported_at": AT,
        **changes,
    }
    return WebhookEvent(**values)


@pytest.mark.parametrize(
    ("part", "claimed", "reported", "clicked_at", "points", "detail"),
    [
        ("merchant", {}, {}, None, 5, "the same shop"),
        ("merchant", {}, {"merchant_id": None}, None, 0, "does not say which"),
        ("merchant", {}, {"merchant_id": 2}, None, 0, "another shop"),
        ("order_reference", {}, {}, None, 35, "the same order number, A-1001"),
        ("order_reference", {"order_reference": " # a-1001 "}, {}, None, 35, "A-1001"),
        ("order_reference", {}, {"external_order_id": "#A-1001"}, None, 35, "#A-1001"),
        ("order_reference", {}, {"external_order_id": "A-1002"}, None, 0, "order A-1002, and A-1001 claimed"),
        ("order_reference", {}, {"external_order_id": "A1001"}, None, 0, "A1001"),
        ("amount", {}, {}, None, 20, "the same amount, 1000.00 PKR"),
        ("amount", {}, {"reported_sale_minor": 99_999}, None, 19, "0.01 % off"),
        ("amount", {}, {"reported_sale_minor": 95_000}, None, 10, "950.00 PKR, and 1000.00 PKR claimed: 5.00 % off"),
        ("amount", {}, {"reported_sale_minor": 105_000}, None, 10, "5.00 % off"),
        ("amount", {}, {"reported_sale_minor": 90_000}, None, 0, "10.00 % off"),
        ("amount", {}, {"reported_sale_minor": 0}, None, 0, "100.00 % off"),
        ("amount", {}, {"reported_currency": "EUR"}, None, 0, "1000.00 EUR, and an amount in PKR claimed"),
        ("amount", {}, {"reported_sale_minor": None}, None, 0, "no amount"),
        ("amount", {"currency": "JPY"}, {"reported_currency": "JPY"}, None, 20, "100000 JPY"),
        ("amount", {"currency": "KWD"}, {"reported_currency": "KWD"}, None, 20, "100.000 KWD"),
        ("time", {}, {"reported_at": AT + 23 * HOUR}, None, 10, "less than a day apart"),
        ("time", {}, {"reported_at": AT - DAY}, None, 8, "1 day apart"),
        ("time", {}, {"reported_at": AT + 4 * DAY}, None, 2, "4 days apart"),
        ("time", {}, {"reported_at": AT + 5 * DAY}, None, 0, "5 days apart"),
        ("time", {}, {"reported_at": None}, None, 0, "no time"),
        ("click_history", {}, {}, None, 0, "no click"),
        ("click_history", {}, {}, AT - 23 * HOUR, 30, "less than a day before"),
        ("click_history", {}, {}, AT + timedelta(minutes=5), 30, "less than a day before"),
        ("click_history", {}, {}, AT - 3 * DAY, 20, "clicked 3 days before"),
    ],
)
def test_each_part_has_its_points_and_its_sentence(
    part: str, claimed: dict[str, Any], reported: dict[str, Any], clicked_at: datetime | None, points: int, detail: str
) -> None:
    [found] = [
        one for one in score(claim(**claimed), orphan(**reported), clicked_at=clicked_at).parts if one.name == part
    ]
    assert found.points == points
    assert detail in found.detail


@pytest.mark.parametrize(
    ("claimed", "reported", "clicked_at", "points"),
    [
        ({}, {}, AT - HOUR, 100),
        # Whoever knows all but has not clicked does not reach what is matched by default, 85.
        ({}, {}, None, 70),
        # Nor does who has clicked and guesses the number but not the amount.
        ({}, {"reported_sale_minor": 50_000}, AT - HOUR, 80),
        # Nor a like amount at a like time without the number.
        ({"order_reference": "B-7"}, {}, AT - HOUR, 65),
        ({}, {}, AT - 9 * DAY, 90),
    ],
)
def test_parts_add_up(
    claimed: dict[str, Any], reported: dict[str, Any], clicked_at: datetime | None, points: int
) -> None:
    assert score(claim(**claimed), orphan(**reported), clicked_at=clicked_at).points == points


currencies = st.sampled_from(["PKR", "JPY", "KWD", "EUR"])
references = st.text(st.sampled_from("aA1#- "), min_size=1, max_size=6).filter(reference_key)
times = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001 - given a zone
near = st.integers(-10 * 86_400, 10 * 86_400).map(lambda seconds: AT + timedelta(seconds=seconds))
claims = st.builds(
    claim,
    merchant_id=st.integers(1, 3),
    order_reference=references,
    currency=currencies,
    amount_minor=st.integers(1, MAX_MINOR),
    ordered_at=near,
)
orphans = st.builds(
    orphan,
    merchant_id=st.none() | st.integers(1, 3),
    external_order_id=references,
    reported_currency=st.none() | currencies,
    reported_sale_minor=st.none() | st.integers(0, MAX_MINOR),
    reported_at=st.none() | near | times,
)


@given(claims, orphans, st.none() | near)
def test_any_score_is_the_sum_of_its_reasons_within_bounds(
    one: Claim, other: WebhookEvent, clicked_at: datetime | None
) -> None:
    found = score(one, other, clicked_at=clicked_at)
    assert [reason["part"] for reason in found.reasons] == list(MOST)
    assert all(0 <= reason["points"] <= reason["most"] == MOST[reason["part"]] for reason in found.reasons)
    assert all(type(reason["points"]) is int and reason["detail"] for reason in found.reasons)
    assert sum(reason["points"] for reason in found.reasons) == found.points
    assert 0 <= found.points <= 100 == sum(MOST.values())
    assert score(one, other, clicked_at=clicked_at) == found


@given(st.integers(1, MAX_MINOR), st.integers(0, MAX_MINOR), st.integers(0, MAX_MINOR))
def test_a_nearer_amount_never_scores_less(claimed: int, first: int, second: int) -> None:
    nearer, farther = sorted((first, second), key=lambda amount: abs(amount - claimed))
    scored = [
        score(claim(amount_minor=claimed), orphan(reported_sale_minor=amount), clicked_at=None).points
        for amount in (nearer, farther)
    ]
    assert scored[0] >= scored[1]


@given(near, near)
def test_a_nearer_time_never_scores_less(first: datetime, second: datetime) -> None:
    nearer, farther = sorted((first, second), key=lambda moment: abs(moment - AT))
    scored = [score(claim(), orphan(reported_at=moment), clicked_at=None).points for moment in (nearer, farther)]
    assert scored[0] >= scored[1]


@given(st.timedeltas(timedelta(0), 60 * DAY), st.timedeltas(timedelta(0), 60 * DAY))
def test_a_nearer_click_never_scores_less(first: timedelta, second: timedelta) -> None:
    nearer, farther = sorted((first, second))
    scored = [score(claim(), orphan(), clicked_at=AT - before).points for before in (nearer, farther)]
    assert scored[0] >= scored[1] > score(claim(), orphan(), clicked_at=None).points


@given(references)
def test_every_spelling_is_of_the_same_order(reference: str) -> None:
    assert reference in spellings(reference)
    assert {reference_key(spelling) for spelling in spellings(reference)} == {reference_key(reference)}
