"""From a row's raw values to an offer as it is staged: the same rules for every format.

A value that must be right (id, title, URL, price) makes its row be rejected; one that only decorates is shortened or
left out. Money is exact or the row is rejected.
"""

import hashlib
import html
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit
from uuid import UUID

import uuid_utils

from app.money import MAX_MINOR, MoneyError, parse_decimal
from app.schemas.feed_mappings import AnyMapping, PriceUnit
from app.services.sync.errors import RowError
from app.services.sync.prices import is_within, parse_price
from app.services.sync.readers.pick import Values, split_template

# A staged row: the columns of `offer_staging`, in this order.
STAGED_COLUMNS = (
    "run_id",
    "row_number",
    "offer_id",
    "external_id",
    "title",
    "description",
    "brand",
    "category_slug",
    "url",
    "image_url",
    "currency",
    "price_minor",
    "price_max_minor",
    "available",
    "deleted",
    "content_hash",
)
StagedRow = tuple[Any, ...]

_LONGEST_ID = 255
_LONGEST_TITLE = 500
_LONGEST_DESCRIPTION = 5_000
_LONGEST_BRAND = 200
_LONGEST_URL = 2_048
_SHOWN = 60

# A user name in front of the host ("https://shop.example@evil.example") would mislead whoever reads the link.
_HTTP_URL = re.compile(r"https?://[^\s/?#@\\\x00-\x1f]+(?:[/?#][^\s\x00-\x1f]*)?", re.IGNORECASE)
# Without "<" inside, a run of "<" costs one step each and not the square of their number.
_TAG = re.compile(r"<[^<>]*>")
_CURRENCY = re.compile(r"[A-Z]{3}")

_AVAILABLE = {
    **dict.fromkeys(["true", "yes", "y", "1", "in stock", "instock", "available", "active", "preorder"], True),
    **dict.fromkeys(["backorder", "limited availability", "limitedavailability", "onlineonly"], True),
    **dict.fromkeys(["false", "no", "n", "0", "out of stock", "outofstock", "sold out", "soldout"], False),
    **dict.fromkeys(["unavailable", "not available", "inactive", "discontinued", "draft", "archived"], False),
}

# Prices repeat, and reading one costs more than all else of a row. Failures are not kept.
_parse_number = lru_cache(maxsize=8192)(parse_decimal)


class Price(NamedTuple):
    """What an offer costs, from its cheapest to its dearest variant, in minor units."""

    currency: str
    minor: int
    max_minor: int


@dataclass(frozen=True, slots=True)
class Defaults:
    """What an offer takes from its merchant."""

    currency: str
    tracking_url: str


class OfferBuilder:
    """Builds the staged rows of one run."""

    def __init__(self, mapping: AnyMapping, *, run_id: UUID, defaults: Defaults) -> None:
        self._run_id = run_id
        self._currency = mapping.currency or defaults.currency
        self._decimal = mapping.decimal
        self._minor_unit = mapping.price_unit is PriceUnit.MINOR
        self._url_parts = split_template(_with_host(mapping.url_template, defaults.tracking_url))
        self._now = datetime.now(UTC)
        self._flags = _AVAILABLE
        if (words := mapping.availability_words) is not None:
            own = dict.fromkeys(words.yes, True) | dict.fromkeys(words.no, False)
            self._flags = _AVAILABLE | {_word(text): flag for text, flag in own.items()}

    def is_available(self, value: Any) -> bool:  # noqa: ANN401 - a feed's value
        """Return what a value says about availability; nothing said means available. Raises RowError."""
        if isinstance(value, bool):
            return value
        text = _text(value, "available")
        if not text:
            return True
        word = _word(text)
        if (available := self._flags.get(word)) is None:
            if word.isascii() and word.isdecimal():
                return int(word[:18]) > 0
            raise RowError(f"available {_shown(text)} is neither yes nor no")
        return available

    def price(self, values: Values) -> Price | None:
        """Return a row's price, None when it has none. Raises RowError."""
        stated = _currency(values.currency)
        usual = self._amount(values.price, stated)
        low = self._sale(values, usual, stated)
        if low is None:
            return None
        high = self._amount(values.price_max, low[0])
        if high is None:
            return Price(low[0], low[1], low[1])
        if high[0] != low[0]:
            raise RowError(f"price is in {low[0]}, price_max in {high[0]}")
        return Price(low[0], low[1], max(low[1], high[1]))

    def build(self, row_number: int, values: Values, price: Price | None) -> StagedRow:
        """Return the row to stage. Raises RowError."""
        external_id = _external_id(values)
        title = " ".join(_text(values.title, "title").split())[:_LONGEST_TITLE]
        if not title:
            raise RowError("title is empty")
        if price is None:
            raise RowError("price is empty")
        description = _plain_text(_text(values.description, "description"))
        brand = _text(values.brand, "brand")[:_LONGEST_BRAND] or None
        category_slug = _slug(_text(values.category, "category"))
        url = self._url(values)
        image_url = _text(values.image_url, "image_url")
        if image_url and not _is_url(image_url):
            image_url = ""
        available = self.is_available(values.available)
        content = "\x1f".join(
            (external_id, title, description, brand or "", category_slug or "", url, image_url,
             f"{price.currency} {price.minor} {price.max_minor} {available:d}")
        )  # fmt: skip
        digest = hashlib.blake2b(_storable(content), digest_size=16).digest()
        return (
            self._run_id,
            row_number,
            # Not new_id(): the driver only wants the bytes, and a standard UUID of them costs five times as much.
            uuid_utils.uuid7(),
            external_id,
            title,
            description,
            brand,
            category_slug,
            url,
            image_url or None,
            price.currency,
            price.minor,
            price.max_minor,
            available,
            False,
            digest,
        )

    def build_deletion(self, row_number: int, values: Values) -> StagedRow:
        """Return the row that takes an offer out. Raises RowError."""
        external_id = _external_id(values)
        _storable(external_id)
        texts = (external_id, "", "", None, None, "", None, "")
        return (self._run_id, row_number, uuid_utils.uuid7(), *texts, 0, 0, False, True, b"")

    def _sale(self, values: Values, usual: tuple[str, int] | None, stated: str | None) -> tuple[str, int] | None:
        """Return what the offer costs now: its sale price if it has one that counts."""
        sale = self._amount(values.sale_price, usual[0] if usual else stated)
        if sale is None or sale[1] == 0:
            return usual
        if usual is not None and sale[0] != usual[0]:
            raise RowError(f"price is in {usual[0]}, sale_price in {sale[0]}")
        if usual is not None and (
            sale[1] > usual[1] or not is_within(_text(values.sale_period, "sale_period"), self._now)
        ):
            return usual
        return sale

    def _amount(self, value: Any, stated: str | None) -> tuple[str, int] | None:  # noqa: ANN401 - a feed's value
        if value is None:
            return None
        if isinstance(value, dict):
            stated = _currency(value.get("currency")) or stated
            if (minor := value.get("amount_minor")) is None:
                return self._amount(value.get("amount"), stated)
            if not isinstance(minor, int) or isinstance(minor, bool):
                raise RowError(f"amount_minor {_shown(minor)} is not a whole number")
            currency = stated or self._currency
        else:
            text = _text(value, "price")
            if not text:
                return None
            if isinstance(value, str) and not self._minor_unit:
                currency, minor = parse_price(text, stated=stated, default=self._currency, decimal=self._decimal)
            else:
                currency = stated or self._currency
                # A currency without decimals reads whole numbers only, of at most 64 bits.
                minor = _number(text, "JPY" if self._minor_unit else currency)
        if not 0 <= minor <= MAX_MINOR:
            raise RowError(f"price {_shown(minor)} is below zero or too large")
        return currency, minor

    def _url(self, values: Values) -> str:
        url = _text(values.url, "url")
        if not url and self._url_parts:
            parts = list(self._url_parts)
            for index, given in zip(range(1, len(parts), 2), values.template, strict=True):
                value = _text(given, parts[index])
                if not value:
                    raise RowError(f"{parts[index]} is empty, and the URL needs it")
                parts[index] = quote(value, safe="", errors="backslashreplace")
            url = "".join(parts)
        if not _is_url(url):
            raise RowError(f"url {_shown(url)} is not an http or https address" if url else "url is empty")
        return url


def _external_id(values: Values) -> str:
    external_id = _text(values.external_id, "external_id")
    if not external_id:
        raise RowError("external_id is empty")
    if len(external_id) > _LONGEST_ID:
        raise RowError(f"external_id is longer than {_LONGEST_ID} characters")
    return external_id


def _storable(text: str) -> bytes:
    """Return what PostgreSQL would store of a text. Raises RowError when it would not."""
    if "\0" in text:
        raise RowError("a text holds the character U+0000")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise RowError("a text holds bytes that are not in the feed's encoding") from None


def _currency(value: Any) -> str | None:  # noqa: ANN401 - a feed's value
    if value is None or not (code := _text(value, "currency").upper()):
        return None
    if not _CURRENCY.fullmatch(code):
        raise RowError(f"currency {_shown(code)} is not an ISO 4217 code")
    return code


def _number(text: str, currency: str) -> int:
    try:
        return _parse_number(text, currency)
    except MoneyError as error:
        raise RowError(f"price: {error}") from None


def _with_host(template: str | None, tracking_url: str) -> str | None:
    if template is None or "://" in template:
        return template
    home = urlsplit(tracking_url)
    return f"{home.scheme}://{home.netloc}/{template.lstrip('/')}"


def _text(value: Any, name: str) -> str:  # noqa: ANN401 - a feed's value
    if isinstance(value, str):
        return value.strip()
    if value is None:
        return ""
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return str(value)
    raise RowError(f"{name} is {_shown(value)}, not a text or number")


def _plain_text(text: str) -> str:
    if "<" in text or "&" in text:
        text = html.unescape(_TAG.sub(" ", text[: 4 * _LONGEST_DESCRIPTION]))
    return " ".join(text.split())[:_LONGEST_DESCRIPTION]


@lru_cache(maxsize=1024)
def _slug(category: str) -> str | None:
    return re.sub(r"[^a-z0-9]+", "-", category.lower()[:200]).strip("-") or None


def _is_url(text: str) -> bool:
    return len(text) <= _LONGEST_URL and _HTTP_URL.fullmatch(text) is not None


def _word(text: str) -> str:
    # schema.org's values are addresses: https://schema.org/InStock
    return text.rpartition("/")[2].lower().replace("_", " ").replace("-", " ")


def _shown(value: object) -> str:
    text = str(value) if isinstance(value, Decimal) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
