"""Reading one value of a payload by its rule: a text, an amount in minor units, a time in UTC."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, assert_never
from zoneinfo import ZoneInfo

from app.money import MAX_MINOR, MoneyError, minor_digits, parse_decimal, round_to_minor, share
from app.schemas.source_fields import (
    AmountRule,
    CaseTransform,
    ConstantTransform,
    DecimalAmount,
    DefaultTransform,
    Iso8601Time,
    MinorUnits,
    SplitTransform,
    StripTransform,
    TextRule,
    TextTime,
    TimeRule,
    Transform,
    UnixTime,
)

_MOST_CHARACTERS = 200
_WHOLE = re.compile(r"[+-]?[0-9]{1,20}")
_UNIX = re.compile(r"[0-9]{1,17}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# No sale is older, and no clock so wrong: seconds read as milliseconds, or the other way round, are.
_EARLIEST, _LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


class UnreadableError(ValueError):
    """A value that does not fit its rule; the message says why."""


def read_text(rule: TextRule, value: Any) -> str | None:  # noqa: ANN401 - any JSON value
    """Return a text of up to 200 characters, or None where there is none. Raises UnreadableError."""
    text = _as_text(value)
    for transform in rule.transforms:
        text = _transform(transform, text)
        text = (text or "").strip() or None
    if text is None:
        return None
    if "\x00" in text:
        raise UnreadableError("must not contain the character U+0000")
    if len(text) > _MOST_CHARACTERS:
        raise UnreadableError(f"is longer than {_MOST_CHARACTERS} characters")
    return text


def read_amount(rule: AmountRule, value: Any, currency: str | None) -> int | None:  # noqa: ANN401 - any JSON value
    """Return an amount in minor units of the currency, or None where there is none.

    Raises UnreadableError, and MoneyError for what is no exact amount.
    """
    text = read_text(rule, value)
    if text is None:
        return None
    match rule.form:
        case MinorUnits():
            if not _WHOLE.fullmatch(text):
                raise UnreadableError(f"{text[:40]!r} is not a whole number of minor units")
            amount = int(text)
        case DecimalAmount():
            is_number = isinstance(value, int | Decimal)
            if is_number and not rule.form.numbers:
                raise UnreadableError(
                    "is a bare number, of which nobody can tell whether it is in the major or minor unit"
                )
            if currency is None:
                raise UnreadableError("an amount needs a currency")
            # A number is written as JSON has it, whatever the source's texts look like.
            plain = text if is_number else _plain(text, rule.form)
            amount = _round(plain, rule.form, currency)
        case _:
            assert_never(rule.form)
    if rule.absolute:
        amount = abs(amount)
    if rule.share_basis_points is not None:
        amount = (1 if amount >= 0 else -1) * share(abs(amount), rule.share_basis_points, "floor")
    if abs(amount) > MAX_MINOR:
        raise UnreadableError("is too large")
    return amount


def read_time(rule: TimeRule, value: Any) -> datetime | None:  # noqa: ANN401 - any JSON value
    """Return a time in UTC, or None where there is none. Raises UnreadableError."""
    text = read_text(rule, value)
    if text is None:
        return None
    match rule.form:
        case UnixTime():
            moment = _unix(text, milliseconds=rule.form.kind == "unix_ms")
        case Iso8601Time():
            moment = _with_zone(_iso(text), rule.form.zone)
        case TextTime():
            moment = _parse(text, rule.form)
        case _:
            assert_never(rule.form)
    if not _EARLIEST <= moment < _LATEST:
        raise UnreadableError(f"{text[:40]!r} is a time of the year {moment.year}")
    return moment.astimezone(UTC)


def _as_text(value: Any) -> str | None:  # noqa: ANN401 - any JSON value
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case str():
            return value.strip() or None
        case int() | Decimal():
            return str(value)
        case _:
            raise UnreadableError(f"{'a list' if isinstance(value, list) else 'an object'} is no text")


def _transform(transform: Transform, text: str | None) -> str | None:
    match transform:
        case ConstantTransform():
            return transform.value
        case DefaultTransform():
            return transform.value if text is None else text
        case CaseTransform():
            return text and (text.upper() if transform.kind == "upper" else text.lower())
        case StripTransform():
            return text and text.strip(transform.characters)
        case SplitTransform():
            pieces = (text or "").split(transform.separator)
            return pieces[transform.index] if -len(pieces) <= transform.index < len(pieces) else None
        case _:
            assert_never(transform)


def _plain(text: str, form: DecimalAmount) -> str:
    """Return an amount with a dot before its decimals and nothing between its thousands."""
    sign, number = (text[0], text[1:]) if text[:1] in {"+", "-"} else ("", text)
    whole, mark, decimals = number.rpartition(form.mark) if form.mark in number else (number, "", "")
    if form.grouping and form.grouping in whole:
        first, *groups = whole.split(form.grouping)
        # Also as in India: 12,34,567.
        if not (1 <= len(first) <= 3 and len(groups[-1]) == 3 and all(2 <= len(group) <= 3 for group in groups)):
            raise UnreadableError(f"{text[:40]!r} has thousands that are parted in an unknown way")
        whole = first + "".join(groups)
    if not _WHOLE.fullmatch(whole) or whole[0] in "+-" or (mark and not _WHOLE.fullmatch(decimals)):
        raise UnreadableError(f"{text[:40]!r} is not a plain decimal amount")
    return f"{sign}{whole}.{decimals}" if mark else f"{sign}{whole}"


def _round(plain: str, form: DecimalAmount, currency: str) -> int:
    if form.rounding == "exact":
        return parse_decimal(plain, currency)
    if len(plain) > 40:
        raise MoneyError("the amount is too large")
    return round_to_minor(Decimal(plain).scaleb(minor_digits(currency)), form.rounding)


def _unix(text: str, *, milliseconds: bool) -> datetime:
    whole = text.partition(".")[0]
    if not _UNIX.fullmatch(whole):
        raise UnreadableError(f"{text[:40]!r} is not a unix time")
    try:
        return _EPOCH + timedelta(**{"milliseconds" if milliseconds else "seconds": int(whole)})
    except OverflowError:
        raise UnreadableError(f"{text[:40]!r} is not a unix time") from None


def _iso(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise UnreadableError(f"{text[:40]!r} is not a time like 2026-11-22T10:00:00Z") from None


def _parse(text: str, form: TextTime) -> datetime:
    for one in form.formats:
        try:
            return _with_zone(datetime.strptime(text, one), form.zone)  # noqa: DTZ007 - the zone comes after
        except (ValueError, re.error, OverflowError):
            continue
    raise UnreadableError(f"{text[:40]!r} is not like {' or '.join(form.formats)}")


def _with_zone(moment: datetime, zone: str | None) -> datetime:
    if moment.tzinfo is not None:
        return moment
    if zone is None:
        raise UnreadableError(f"{moment} names no time zone")
    return moment.replace(tzinfo=ZoneInfo(zone))
