"""Prices as feeds write them: `105.29 USD`, `1.299,00`, `Rs 1,299`, `1 299,00 €`, `CHF 1'299.-`.

A price is read exactly or refused with its reason; what could be two amounts is never guessed. The rule:

* Around the number there may be a currency: an ISO 4217 code in capitals or a sign. A sign of several currencies (`$`,
  `Rs`, `kr`) means the one that the row or the feed is in, and is refused when that is none of them.
* Spaces and apostrophes only group digits. Groups have three digits, the first one to three; or, as in India, two
  digits before a last one of three. `.-`, `,-` and `/-` at the end say that there are no minor units.
* Which of `.` and `,` comes before the decimals may be set (`decimal` in the mapping). If it is not: of both, the one
  that comes last; one that occurs several times groups; one that occurs once comes before the decimals, unless it
  looks like a group (one to three digits before it, no leading zero, exactly three behind it). Then a comma groups in
  a currency of fewer than three decimals, a dot comes before the decimals in one of three or more, and the two other
  cases (`1.299` in USD, `1,299` in KWD) are refused.
* Decimals beyond the currency's must be zeros.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

from app.money import MoneyError, minor_digits, parse_decimal
from app.services.sync.errors import RowError

DecimalSign = Literal[".", ","]

_LONGEST = 60
_SPACES = " \u00a0\u2009\u202f"
_APOSTROPHES = "'\u2019"
_PRICE = re.compile(
    rf"(?P<before>[^0-9+\-\u2212]*?)\s*(?P<sign>[+\-\u2212]?)"
    # A dot behind a letter ends an abbreviation: "Rs.99".
    rf"(?P<number>(?:(?<!\w)[.,])?[0-9](?:[0-9.,{_APOSTROPHES}{_SPACES}]*[0-9])?)"
    rf"(?P<no_decimals>[.,/][-\u2013\u2014]{{1,2}})?\s*(?P<after>[^0-9]*)"
)
# Most prices, which need none of the rules.
_PLAIN = re.compile(r"(?P<number>[0-9]{1,15}(?:\.[0-9]{1,2})?)(?: (?P<code>[A-Z]{3}))?")
_CODE = re.compile(r"[A-Z]{3}")
_GROUPS_OF_THREE = re.compile(r"[0-9]{1,3}(?P<sign>[^0-9])[0-9]{3}(?:(?P=sign)[0-9]{3})*")
_INDIAN_GROUPS = re.compile(r"[0-9]{1,2}(?:,[0-9]{2})*,[0-9]{3}")
_GROUP_LIKE = re.compile(r"[1-9][0-9]{0,2}[.,][0-9]{3}")

# Signs and what they may stand for, in lower case and without a dot at their end.
_SIGNS = {
    sign: frozenset(codes.split())
    for sign, codes in {
        "€": "EUR", "euro": "EUR", "£": "GBP", "₹": "INR", "₩": "KRW", "₺": "TRY", "₽": "RUB", "руб": "RUB",
        "₪": "ILS", "₫": "VND", "đ": "VND", "₴": "UAH", "฿": "THB", "₱": "PHP", "₦": "NGN", "₵": "GHS",
        "৳": "BDT", "₸": "KZT", "zł": "PLN", "zl": "PLN", "kč": "CZK", "ft": "HUF", "lei": "RON", "лв": "BGN",
        "rm": "MYR", "rp": "IDR", "r$": "BRL", "us$": "USD", "c$": "CAD", "ca$": "CAD", "a$": "AUD", "au$": "AUD",
        "nz$": "NZD", "s$": "SGD", "hk$": "HKD", "nt$": "TWD", "mx$": "MXN", "s/": "PEN",
        "$": "USD CAD AUD NZD SGD HKD TWD MXN ARS CLP COP UYU JMD TTD FJD NAD BSD BBD BZD BND",
        "rs": "PKR INR LKR NPR MUR SCR", "₨": "PKR INR LKR NPR MUR SCR",
        "kr": "SEK NOK DKK ISK", "¥": "JPY CNY", "￥": "JPY CNY", "fr": "CHF", "r": "ZAR BRL",
        "dh": "AED MAD", "kd": "KWD", "tk": "BDT",
    }.items()
}  # fmt: skip

_parse_plain = lru_cache(maxsize=8192)(parse_decimal)


def parse_price(text: str, *, stated: str | None, default: str, decimal: DecimalSign | None) -> tuple[str, int]:
    """Return a price's currency and minor units.

    `stated` is the currency that the row names elsewhere, `default` the feed's. Raises RowError.
    """
    plain = _PLAIN.fullmatch(text) if decimal != "," else None
    if plain is None or (plain["code"] and stated not in {None, plain["code"]}):
        return _parse(text, stated, default, decimal)
    currency = plain["code"] or stated or default
    try:
        return currency, _parse_plain(plain["number"], currency)
    except MoneyError as error:
        raise RowError(f"price: {error}") from None


def is_within(period: str, moment: datetime) -> bool:
    """Whether a moment is in a period of two ISO 8601 times with a slash between; an empty one has no end.

    The form is Google's `sale_price_effective_date`; a time without a zone is UTC. Raises RowError.
    """
    if not period:
        return True
    try:
        begin, end = (datetime.fromisoformat(text.strip()) for text in period.split("/"))
    except ValueError:
        raise RowError(f"sale_period {_shown(period)} is not two times with a slash between") from None
    return _utc(begin) <= moment <= _utc(end)


def _utc(time: datetime) -> datetime:
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


@lru_cache(maxsize=8192)  # prices repeat; failures are not kept
def _parse(text: str, stated: str | None, default: str, decimal: DecimalSign | None) -> tuple[str, int]:
    match = _PRICE.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise RowError(f"price {_shown(text)} is not an amount")
    if match["sign"]:
        raise RowError(f"price {_shown(text)} has a sign; only amounts of zero or more are prices")
    currency = _currency([match["before"], match["after"]], stated, default)
    number = match["number"]
    sign = "" if match["no_decimals"] else decimal or _decimal_sign(number, currency, text)
    plain = _plain(number, sign, text)
    try:
        return currency, parse_decimal(plain, currency)
    except MoneyError as error:
        raise RowError(f"price {_shown(text)}: {error}") from None


def _currency(texts: list[str], stated: str | None, default: str) -> str:
    """Return the currency that signs or codes around a number and the row's own statement agree on."""
    meant = frozenset({stated}) if stated else None
    for mark in filter(None, (text.strip(f".:{_SPACES}") for text in texts)):
        found = frozenset({mark}) if _CODE.fullmatch(mark) else _SIGNS.get(mark.lower())
        if found is None:
            raise RowError(f"price has {_shown(mark)} beside it, which is no currency")
        both = found if meant is None else found & meant
        if not both:
            raise RowError(f"price is in {_listed(found)}, the row says {_listed(meant or frozenset())}")
        meant = both
    if meant is None:
        return default
    if len(meant) == 1:
        return next(iter(meant))
    if default not in meant:
        raise RowError(f"price may be in {_listed(meant)}, and the feed is in {default}")
    return default


def _plain(number: str, decimal: str, text: str) -> str:
    """Return a number with a dot before its decimals and no grouping; `decimal` is empty when it has none."""
    whole, fraction = number, ""
    if decimal and decimal in number:
        whole, _, fraction = number.rpartition(decimal)
        if decimal in whole or not fraction.isdigit():
            raise RowError(f"price {_shown(text)} is not an amount")
    if whole and not whole.isdigit():
        if not (_GROUPS_OF_THREE.fullmatch(whole) or _INDIAN_GROUPS.fullmatch(whole)):
            raise RowError(f"price {_shown(text)} has digits grouped in a way that is not known")
        whole = re.sub(r"[^0-9]", "", whole)
    return f"{whole or '0'}.{fraction}" if fraction else whole


def _decimal_sign(number: str, currency: str, text: str) -> str:
    """Return which sign comes before the decimals, an empty text when none does. Raises RowError if it may be both."""
    dots, commas = number.count("."), number.count(",")
    if dots and commas:
        return "." if number.rindex(".") > number.rindex(",") else ","
    sign = "." if dots else ","
    if dots + commas != 1:
        return ""
    if not _GROUP_LIKE.fullmatch(number):
        return sign
    groups = sign == "," and minor_digits(currency) < 3
    if groups or (sign == "." and minor_digits(currency) >= 3):
        return "" if groups else sign
    amounts = f"{number.replace(',', '.')} or {number.replace(sign, '')}"
    raise RowError(f"price {_shown(text)} may be {amounts} {currency}; set decimal in the mapping")


def _listed(codes: frozenset[str]) -> str:
    return " or ".join(sorted(codes)[:6])


def _shown(text: str) -> str:
    return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")
