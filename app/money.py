"""Exact money: integers in a currency's minor unit, rates in basis points, one rounding function.

`float` never appears here. Minor-unit digits follow ISO 4217 (list one, maintained by SIX); currencies
not listed below have two.
"""

import re
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal
from typing import Literal

Rounding = Literal["half_even", "floor"]

BASIS_POINTS = 10_000
# PostgreSQL's BIGINT; an amount beyond it is refused, never wrapped.
MAX_MINOR = 2**63 - 1

_DIGITS_OF_CURRENCIES = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
_MINOR_DIGITS = {code: digits for digits, codes in _DIGITS_OF_CURRENCIES.items() for code in codes.split()}
_CURRENCY = re.compile(r"[A-Z]{3}")
_PLAIN_DECIMAL = re.compile(r"[+-]?[0-9]{1,20}(\.[0-9]{1,10})?")
# Room for every digit of the pattern: the default context would round the last ones away unseen.
_EXACT = Context(prec=40)
_ROUNDING = {"half_even": ROUND_HALF_EVEN, "floor": ROUND_FLOOR}


class MoneyError(ValueError):
    """An amount or a currency that cannot be taken exactly."""


def minor_digits(currency: str) -> int:
    """Return how many decimal digits the currency's minor unit has: JPY 0, PKR 2, KWD 3."""
    if not _CURRENCY.fullmatch(currency):
        raise MoneyError(f"{currency!r} is not an ISO 4217 currency code")
    return _MINOR_DIGITS.get(currency, 2)


def round_to_minor(amount: Decimal, mode: Rounding = "half_even") -> int:
    """Round an amount in minor units to a whole number of them: the only rounding of money in the service."""
    return int(amount.quantize(Decimal(1), rounding=_ROUNDING[mode]))


def share(amount_minor: int, basis_points: int, mode: Rounding = "half_even") -> int:
    """Return `basis_points` / 10,000 of an amount in minor units, rounded by `mode`."""
    return round_to_minor(Decimal(amount_minor) * basis_points / BASIS_POINTS, mode)


def parse_decimal(text: object, currency: str) -> int:
    """Turn a major-unit amount such as `"26.09"` into minor units, exactly.

    Accepts a string or an int in plain notation. Raises MoneyError for floats, exponents, NaN, more decimals
    than the currency has (unless they are zeros), and amounts beyond 64 bits.
    """
    if isinstance(text, bool) or not isinstance(text, str | int):
        raise MoneyError(f"a {type(text).__name__} is not a decimal amount in text")
    if isinstance(text, int) and abs(text) > MAX_MINOR:
        raise MoneyError("the amount is too large")
    plain = str(text).strip()
    if not _PLAIN_DECIMAL.fullmatch(plain):
        raise MoneyError(f"{plain[:40]!r} is not a plain decimal amount")
    scaled = Decimal(plain).scaleb(minor_digits(currency), _EXACT)
    if scaled != scaled.to_integral_value():
        raise MoneyError(f"{plain!r} has more decimals than {currency} has")
    minor = int(scaled)
    if abs(minor) > MAX_MINOR:
        raise MoneyError(f"{plain!r} is too large")
    return minor


def format_minor(amount_minor: int, currency: str) -> str:
    """Return an amount for people: `format_minor(1250, "PKR") == "12.50"`."""
    digits = minor_digits(currency)
    return f"{Decimal(amount_minor).scaleb(-digits):.{digits}f}"
