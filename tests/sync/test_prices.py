"""Prices are read exactly or refused; none is ever a hundred or a thousand times what was meant."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.money import minor_digits, parse_decimal
from app.services.sync.errors import RowError
from app.services.sync.prices import is_within, parse_price

SPACES = [" ", "\u00a0", "\u202f", "\u2009"]


def read(
    text: str, currency: str = "USD", *, stated: str | None = None, decimal: Literal[".", ","] | None = None
) -> str:
    """The amount in minor units and the currency, or why there is none."""
    try:
        found, minor = parse_price(text, stated=stated, default=currency, decimal=decimal)
    except RowError as error:
        return str(error)
    return f"{minor} {found}"


@pytest.mark.parametrize(
    ("text", "currency", "expected"),
    [
        ("105.29 USD", "PKR", "10529 USD"),
        ("1.299,00", "EUR", "129900 EUR"),
        ("Rs 1,299", "PKR", "129900 PKR"),
        ("Rs. 1,299.50", "INR", "129950 INR"),
        ("Rs.99", "PKR", "9900 PKR"),
        ("PKR1,299/-", "PKR", "129900 PKR"),
        ("1 299,00 €", "USD", "129900 EUR"),
        ("1\u00a0299,00\u00a0€", "USD", "129900 EUR"),
        ("CHF 1'299.-", "CHF", "129900 CHF"),
        ("CHF 1’299.–", "CHF", "129900 CHF"),
        ("1.299,-", "EUR", "129900 EUR"),
        ("£12", "USD", "1200 GBP"),
        ("$12.5", "CAD", "1250 CAD"),
        ("US$1,200.00", "PKR", "120000 USD"),
        ("€ 12 EUR", "USD", "1200 EUR"),
        ("1,29,999.00", "INR", "12999900 INR"),
        ("1.299.000 ₫", "USD", "1299000 VND"),
        (".99", "USD", "99 USD"),
        ("0.990", "USD", "99 USD"),
        ("1299.500", "USD", "129950 USD"),
        ("1 299.500", "USD", "129950 USD"),
        ("500", "JPY", "500 JPY"),
        ("¥1,500", "JPY", "1500 JPY"),
        ("500.00", "JPY", "500 JPY"),
        ("1.250", "KWD", "1250 KWD"),
        ("1.250 KWD", "USD", "1250 KWD"),
        ("12,5 TND", "USD", "12500 TND"),
        ("0", "USD", "0 USD"),
    ],
)
def test_prices_as_feeds_write_them(text: str, currency: str, expected: str) -> None:
    assert read(text, currency) == expected


@pytest.mark.parametrize(
    ("text", "currency", "reason"),
    [
        ("1.299", "USD", "price '1.299' may be 1.299 or 1299 USD; set decimal in the mapping"),
        ("10.000", "USD", "price '10.000' may be 10.000 or 10000 USD; set decimal in the mapping"),
        ("1,299", "KWD", "price '1,299' may be 1.299 or 1299 KWD; set decimal in the mapping"),
        ("1.250", "JPY", "price '1.250' may be 1.250 or 1250 JPY; set decimal in the mapping"),
        ("Rs 1,299", "USD", "price may be in INR or LKR or MUR or NPR or PKR or SCR, and the feed is in USD"),
        ("$12", "PKR", "price may be in ARS or AUD or BBD or BND or BSD or BZD, and the feed is in PKR"),
        ("0,299", "USD", "price '0,299': '0.299' has more decimals than USD has"),
        ("1,234.567", "USD", "price '1,234.567': '1234.567' has more decimals than USD has"),
        ("500.50", "JPY", "price: '500.50' has more decimals than JPY has"),
        ("1.2.3", "USD", "price '1.2.3' has digits grouped in a way that is not known"),
        ("12 99", "USD", "price '12 99' has digits grouped in a way that is not known"),
        ("1.299,50.-", "EUR", "price '1.299,50.-' has digits grouped in a way that is not known"),
        ("1,299.50,00", "EUR", "price '1,299.50,00' is not an amount"),
        ("-5", "USD", "price '-5' has a sign; only amounts of zero or more are prices"),
        ("10 - 20", "USD", "price '10 - 20' is not an amount"),
        ("from 12", "USD", "price has 'from' beside it, which is no currency"),
        ("1e9", "USD", "price '1e9' is not an amount"),
        ("٣", "USD", "price '٣' is not an amount"),
        ("9" * 61, "USD", f"price '{'9' * 60}...' is not an amount"),
        ("99999999999999999999", "USD", "price '99999999999999999999': '99999999999999999999' is too large"),
    ],
)
def test_what_is_not_one_amount_is_refused_with_its_reason(text: str, currency: str, reason: str) -> None:
    assert read(text, currency) == reason


def test_the_mappings_decimal_sign_settles_what_may_be_both() -> None:
    assert read("1.299", decimal=",") == "129900 USD"
    assert read("1,299", "KWD", decimal=",") == "1299 KWD"
    assert read("1,299", "KWD", decimal=".") == "1299000 KWD"
    assert read("1.250", "KWD", decimal=",") == "1250000 KWD"
    assert read("12.50", decimal=",") == "price '12.50' has digits grouped in a way that is not known"
    assert read("12,50", decimal=".") == "price '12,50' has digits grouped in a way that is not known"
    assert read("1.299", decimal=".") == "price '1.299': '1.299' has more decimals than USD has"


def test_the_row_and_the_price_must_agree_on_the_currency() -> None:
    assert read("12.50", stated="EUR") == "1250 EUR"
    assert read("12.50 EUR", stated="EUR") == "1250 EUR"
    assert read("$12.50", "PKR", stated="CAD") == "1250 CAD"
    assert read("12.50 EUR", stated="USD") == "price is in EUR, the row says USD"
    assert read("£12.50", stated="USD") == "price is in GBP, the row says USD"
    assert read("¥500", stated="EUR") == "price is in CNY or JPY, the row says EUR"


amounts = st.integers(0, 10**12)
currencies = st.sampled_from(["USD", "PKR", "JPY", "KWD"])


def group(digits: str, sign: str) -> str:
    head = len(digits) % 3
    return sign.join(filter(None, [digits[:head], *(digits[n : n + 3] for n in range(head, len(digits), 3))]))


@given(
    amounts, currencies, st.sampled_from([*".,'’", *SPACES, ""]), st.sampled_from(".,"),
    st.sampled_from(["", "{} {}", "{1} {0}", "{}{}"]),
)  # fmt: skip
@settings(max_examples=500)
def test_a_written_price_is_read_as_that_amount_or_refused(
    minor: int, currency: str, grouping: str, decimal: Literal[".", ","], around: str
) -> None:
    """Whatever the signs: never another amount than the one that was written."""
    digits = minor_digits(currency)
    whole, fraction = divmod(minor, 10**digits)
    if grouping == decimal:
        grouping = ""
    number = group(str(whole), grouping) + (f"{decimal}{fraction:0{digits}d}" if digits else "")
    text = around.format(number, currency) if around else number
    expected = f"{minor} {currency}"
    # Told which sign is which, it is always read.
    assert read(text, currency, decimal=decimal) == expected
    # Left alone it may be refused, and then only as one that may be two amounts.
    found = read(text, currency)
    assert found == expected or "set decimal" in found
    if digits == 2 or (decimal == "." and not (digits == 0 and grouping in {".", ","})):
        assert found == expected


@given(st.text(alphabet="0123456789.,'’ \u00a0-€$RsUSDEKWP", max_size=14), currencies)
@settings(max_examples=1000)
def test_any_text_is_an_amount_or_refused(text: str, currency: str) -> None:
    try:
        found, minor = parse_price(text, stated=None, default=currency, decimal=None)
    except RowError:
        return
    assert minor >= 0
    # The digits are those of the text, in their order; only zeros come and go at the ends.
    digits = "".join(character for character in text if character.isdigit())
    assert str(minor).strip("0") == digits.strip("0")
    assert minor_digits(found) in {0, 2, 3}


@given(st.decimals(0, 10**9, places=2))
def test_plain_decimals_are_read_as_they_always_were(amount: Decimal) -> None:
    assert read(str(amount)) == f"{parse_decimal(str(amount), 'USD')} USD"


def test_a_sale_counts_within_its_period() -> None:
    moment = datetime(2026, 11, 25, 12, tzinfo=UTC)
    assert is_within("", moment)
    assert is_within("2026-11-24T13:00-0800/2026-11-29T15:30-0800", moment)
    assert is_within("2026-11-25T12:00Z/2026-11-25T12:00Z", moment)
    assert not is_within("2026-11-25T13:00+0000/2026-11-29T15:30+0000", moment)
    assert not is_within("2026-11-20/2026-11-25", moment)
    with pytest.raises(RowError, match="is not two times with a slash between"):
        is_within("soon", moment)
