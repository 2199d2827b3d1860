"""Texts, amounts and times by their rules: exact, or refused with the reason."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.money import MoneyError
from app.schemas.source_fields import AmountRule, TextRule, TimeRule
from app.services.webhooks.fields import UnreadableError, read_amount, read_text, read_time

EUROPEAN = {"kind": "decimal", "mark": ",", "grouping": "."}


def text(value: Any, *transforms: Any) -> str | None:
    return read_text(TextRule.model_validate({"path": "x", "transforms": transforms}), value)


def amount(value: Any, form: Any = "decimal", currency: str | None = "EUR", **more: Any) -> int | None:
    return read_amount(AmountRule.model_validate({"path": "x", "as": form, **more}), value, currency)


def moment(value: Any, form: Any = "iso8601") -> datetime | None:
    return read_time(TimeRule.model_validate({"path": "x", "as": form}), value)


@pytest.mark.parametrize(
    ("value", "transforms", "expected"),
    [
        (" A-1 ", [], "A-1"),
        (17, [], "17"),
        (Decimal("17.50"), [], "17.50"),
        (True, [], "true"),
        (None, [], None),
        ("", [], None),
        ("  ", [{"kind": "default", "value": "EUR"}], "EUR"),
        ("usd", [{"kind": "default", "value": "EUR"}, "upper"], "USD"),
        ("USD", ["lower"], "usd"),
        ("#1001#", [{"kind": "strip", "characters": "#"}], "1001"),
        ("a.b.c", [{"kind": "split", "separator": ".", "index": 1}], "b"),
        ("a.b.c", [{"kind": "split", "separator": ".", "index": -1}], "c"),
        ("a.b.c", [{"kind": "split", "separator": ".", "index": 3}], None),
        ("anything", [{"kind": "constant", "value": "sale"}], "sale"),
        (None, [{"kind": "constant", "value": "sale"}], "sale"),
    ],
)
def test_a_text(value: Any, transforms: list[Any], expected: str | None) -> None:
    assert text(value, *transforms) == expected


@pytest.mark.parametrize(
    ("value", "reason"), [({}, "an object"), ([], "a list"), ("a\x00", "U+0000"), ("a" * 201, "200")]
)
def test_what_is_no_text(value: Any, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason.replace("+", r"\+")):
        text(value)


@pytest.mark.parametrize(
    ("value", "form", "expected"),
    [
        ("26.09", "decimal", 2609),
        ("-26.09", "decimal", -2609),
        ("+5", "decimal", 500),
        ("1.299,00", EUROPEAN, 129_900),
        ("1.299", EUROPEAN, 129_900),
        ("12,5", EUROPEAN, 1250),
        ("1,234,567.89", {"kind": "decimal", "grouping": ","}, 123_456_789),
        ("12,34,567.89", {"kind": "decimal", "grouping": ","}, 123_456_789),
        ("1'000.00", {"kind": "decimal", "grouping": "'"}, 100_000),
        (Decimal("12.5"), {"kind": "decimal", "numbers": True}, 1250),
        (12, {"kind": "decimal", "numbers": True}, 1200),
        (Decimal("12.5"), {**EUROPEAN, "numbers": True}, 1250),
        ("3.211", {"kind": "decimal", "rounding": "floor"}, 321),
        ("3.219", {"kind": "decimal", "rounding": "half_even"}, 322),
        (1299, "minor_units", 1299),
        ("1299", "minor_units", 1299),
        (2**53 + 1, "minor_units", 2**53 + 1),
        (None, "minor_units", None),
        ("", "decimal", None),
    ],
)
def test_an_amount(value: Any, form: Any, expected: int | None) -> None:
    assert amount(value, form) == expected


def test_an_amount_without_its_sign_and_a_share_of_it() -> None:
    assert amount("-20.00", absolute=True) == 2000
    assert amount("99.99", share_basis_points=500) == 499
    assert amount("-99.99", share_basis_points=500) == -499


@pytest.mark.parametrize("currency", ["JPY", "KWD"])
def test_an_amount_has_the_digits_of_its_currency(currency: str) -> None:
    assert amount("12", currency=currency) == {"JPY": 12, "KWD": 12_000}[currency]


@pytest.mark.parametrize(
    ("value", "form", "reason"),
    [
        (Decimal("12.5"), "decimal", "bare number"),
        (12, "decimal", "bare number"),
        ("12.50", EUROPEAN, "parted in an unknown way"),
        ("1.29.9", EUROPEAN, "parted in an unknown way"),
        ("1,299.00", "decimal", "not a plain decimal"),
        ("12.345", "decimal", "more decimals"),
        ("1e9", "decimal", "not a plain decimal"),
        (Decimal("1E+9"), {"kind": "decimal", "numbers": True}, "not a plain decimal"),
        ("NaN", "decimal", "not a plain decimal"),
        ("--5", "decimal", "not a plain decimal"),
        ("5.", "decimal", "not a plain decimal"),
        (".5", "decimal", "not a plain decimal"),
        ("9" * 21, "decimal", "not a plain decimal"),
        ("9" * 20, "decimal", "too large"),
        (2**63, "minor_units", "too large"),
        ("12.5", "minor_units", "not a whole number"),
        (True, "minor_units", "not a whole number"),
        ({}, "decimal", "an object"),
    ],
)
def test_what_is_no_amount(value: Any, form: Any, reason: str) -> None:
    with pytest.raises((UnreadableError, MoneyError), match=reason):
        amount(value, form)


def test_a_decimal_amount_needs_a_currency_and_minor_units_do_not() -> None:
    with pytest.raises(UnreadableError, match="needs a currency"):
        amount("5", currency=None)
    assert amount("5", "minor_units", currency=None) == 5


TEXT_TIME = {"kind": "text", "formats": ["%d/%m/%Y %H:%M", "%Y-%m-%d"], "zone": "Asia/Karachi"}


@pytest.mark.parametrize(
    ("value", "form", "expected"),
    [
        ("2026-11-22T10:00:00Z", "iso8601", datetime(2026, 11, 22, 10, tzinfo=UTC)),
        ("2026-11-22 10:00:00+05:00", "iso8601", datetime(2026, 11, 22, 5, tzinfo=UTC)),
        ("2026-11-22T10:00:00", {"kind": "iso8601", "zone": "Asia/Karachi"}, datetime(2026, 11, 22, 5, tzinfo=UTC)),
        ("1763805600", "unix", datetime(2025, 11, 22, 10, tzinfo=UTC)),
        (1763805600, "unix", datetime(2025, 11, 22, 10, tzinfo=UTC)),
        (Decimal("1763805600.123"), "unix", datetime(2025, 11, 22, 10, tzinfo=UTC)),
        ("1763805600123", "unix_ms", datetime(2025, 11, 22, 10, 0, 0, 123_000, tzinfo=UTC)),
        ("22/11/2026 10:00", TEXT_TIME, datetime(2026, 11, 22, 5, tzinfo=UTC)),
        ("2026-11-22", TEXT_TIME, datetime(2026, 11, 21, 19, tzinfo=UTC)),
        (None, "unix", None),
    ],
)
def test_a_time(value: Any, form: Any, expected: datetime | None) -> None:
    assert moment(value, form) == expected


@pytest.mark.parametrize(
    ("value", "form", "reason"),
    [
        ("2026-11-22T10:00:00", "iso8601", "names no time zone"),
        ("yesterday", "iso8601", "is not a time like"),
        ("1763805600123", "unix", "not a unix time"),
        ("99999999999", "unix", "year 5138"),
        ("1763805600", "unix_ms", "year 1970"),
        ("9" * 17, "unix", "not a unix time"),
        ("-1", "unix", "not a unix time"),
        ("22.11.2026", TEXT_TIME, "is not like"),
        ("0001-01-01T00:00:00+14:00", "iso8601", "year"),
    ],
)
def test_what_is_no_time(value: Any, form: Any, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason):
        moment(value, form)


@pytest.mark.parametrize(
    "form",
    [
        {"kind": "text", "formats": ["%Y"]},
        {"kind": "text", "formats": ["%Y-%Q"], "zone": "UTC"},
        {"kind": "text", "formats": ["%Y %Y"], "zone": "UTC"},
        {"kind": "text", "formats": ["%"], "zone": "UTC"},
        {"kind": "text", "formats": ["%c"], "zone": "UTC"},
        {"kind": "iso8601", "zone": "Mars/Olympus"},
        {"kind": "iso8601", "zone": "../etc/passwd"},
        "sundial",
    ],
)
def test_a_time_that_could_never_be_read_is_refused_in_the_definition(form: Any) -> None:
    with pytest.raises(ValidationError):
        TimeRule.model_validate({"path": "x", "as": form})


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.decimals(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(anything, st.sampled_from(["decimal", "minor_units", EUROPEAN]), st.sampled_from(["EUR", "JPY", None]))
def test_nothing_but_an_amount_or_its_reason_comes_out(value: Any, form: Any, currency: str | None) -> None:
    reason, found = None, None
    try:
        found = amount(value, form, currency)
    except (UnreadableError, MoneyError) as error:
        reason = str(error)
    assert reason != ""
    assert found is None or abs(found) < 2**63


@given(anything, st.sampled_from(["iso8601", "unix", "unix_ms", TEXT_TIME]))
def test_nothing_but_a_time_or_its_reason_comes_out(value: Any, form: Any) -> None:
    reason, found = None, None
    try:
        found = moment(value, form)
    except UnreadableError as error:
        reason = str(error)
    assert reason != ""
    assert found is None or found.tzinfo is UTC
