"""From a row's raw values to an offer as it is staged: the same rules for every format.

A value that must be right (id, title, URL, price) makes its row be rejected; one that only decorates is shortened or
left out. Money is exact or the row is rejected.
"""

import hashlib
import html
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit
from uuid import UUID

import uuid_utils

from app.money import MAX_MINOR, MoneyError, parse_decimal
from app.schemas.feeds import CsvMapping, JsonMapping, PriceUnit
from app.services.sync.errors import RowError

# A staged row: the columns of `offer_staging`, in this order.
STAGED_COLUMNS = (
    "attempt_id",
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
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
_CURRENCY = re.compile(r"[A-Z]{3}")

_AVAILABLE = {
    **dict.fromkeys(["true", "yes", "y", "1", "in stock", "instock", "available", "active", "preorder"], True),
    **dict.fromkeys(["backorder", "limited availability", "limitedavailability", "onlineonly"], True),
    **dict.fromkeys(["false", "no", "n", "0", "out of stock", "outofstock", "sold out", "soldout"], False),
    **dict.fromkeys(["unavailable", "not available", "inactive", "discontinued", "draft", "archived"], False),
}

# Prices repeat, and reading one costs more than all else of a row. Failures are not kept.
_parse_major = lru_cache(maxsize=8192)(parse_decimal)


class Values(NamedTuple):
    """A row's raw values, in the order of `schemas.feeds.OptionalFields`. None or blank: the row has none."""

    external_id: Any = None
    title: Any = None
    description: Any = None
    brand: Any = None
    category: Any = None
    url: Any = None
    image_url: Any = None
    price: Any = None
    price_max: Any = None
    currency: Any = None
    available: Any = None


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
    """Builds the staged rows of one attempt at a sync."""

    def __init__(self, mapping: CsvMapping | JsonMapping, *, attempt_id: UUID, defaults: Defaults) -> None:
        self._attempt_id = attempt_id
        self._currency = mapping.currency or defaults.currency
        self._minor_unit = mapping.price_unit is PriceUnit.MINOR
        self._url_parts = _split_template(mapping.url_template, defaults.tracking_url)

    @property
    def template_names(self) -> list[str]:
        """The columns or paths whose values the URL template takes."""
        return self._url_parts[1::2]

    def price(self, values: Values) -> Price | None:
        """Return a row's price, None when it has none. Raises RowError."""
        currency = _currency(values.currency, self._currency)
        low = self._amount(values.price, currency)
        if low is None:
            return None
        high = self._amount(values.price_max, low[0])
        if high is None:
            return Price(low[0], low[1], low[1])
        if high[0] != low[0]:
            raise RowError(f"price is in {low[0]}, price_max in {high[0]}")
        return Price(low[0], low[1], max(low[1], high[1]))

    def build(self, row_number: int, values: Values, price: Price | None, lookup: Callable[[str], Any]) -> StagedRow:
        """Return the row to stage; `lookup` gives the values that the URL template names. Raises RowError."""
        external_id = _text(values.external_id, "external_id")
        title = " ".join(_text(values.title, "title").split())[:_LONGEST_TITLE]
        if not external_id:
            raise RowError("external_id is empty")
        if len(external_id) > _LONGEST_ID:
            raise RowError(f"external_id is longer than {_LONGEST_ID} characters")
        if not title:
            raise RowError("title is empty")
        if price is None:
            raise RowError("price is empty")
        description = _plain_text(_text(values.description, "description"))
        brand = _text(values.brand, "brand")[:_LONGEST_BRAND] or None
        category_slug = _slug(_text(values.category, "category"))
        url = self._url(values, lookup)
        image_url = _text(values.image_url, "image_url")
        if image_url and not _is_url(image_url):
            image_url = ""
        available = read_flag(values.available)
        content = "\x1f".join(
            (external_id, title, description, brand or "", category_slug or "", url, image_url,
             f"{price.currency} {price.minor} {price.max_minor} {available:d}")
        )  # fmt: skip
        if "\0" in content:
            raise RowError("a text holds the character U+0000")
        try:
            digest = hashlib.blake2b(content.encode(), digest_size=16).digest()
        except UnicodeEncodeError:
            raise RowError("a text holds bytes that are not in the feed's encoding") from None
        return (
            self._attempt_id,
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
            digest,
        )

    def _amount(self, value: Any, currency: str) -> tuple[str, int] | None:  # noqa: ANN401 - a feed's value
        if value is None:
            return None
        if isinstance(value, dict):
            currency = _currency(value.get("currency"), currency)
            if (minor := value.get("amount_minor")) is None:
                return self._amount(value.get("amount"), currency)
            if not isinstance(minor, int) or isinstance(minor, bool):
                raise RowError(f"amount_minor {_shown(minor)} is not a whole number")
        else:
            text = _text(value, "price")
            if not text:
                return None
            amount, _, code = text.partition(" ")
            if _CURRENCY.fullmatch(code):
                text, currency = amount, code
            minor = self._minor(text, currency)
        if not 0 <= minor <= MAX_MINOR:
            raise RowError(f"price {_shown(minor)} is below zero or too large")
        return currency, minor

    def _minor(self, text: str, currency: str) -> int:
        try:
            if self._minor_unit:
                # A currency without decimals reads whole numbers only, of at most 64 bits.
                return _parse_major(text, "JPY")
            return _parse_major(text, currency)
        except MoneyError as error:
            raise RowError(f"price: {error}") from None

    def _url(self, values: Values, lookup: Callable[[str], Any]) -> str:
        url = _text(values.url, "url")
        if not url and self._url_parts:
            parts = list(self._url_parts)
            for index in range(1, len(parts), 2):
                value = _text(lookup(parts[index]), parts[index])
                if not value:
                    raise RowError(f"{parts[index]} is empty, and the URL needs it")
                parts[index] = quote(value, safe="", errors="backslashreplace")
            url = "".join(parts)
        if not _is_url(url):
            raise RowError(f"url {_shown(url)} is not an http or https address" if url else "url is empty")
        return url


def _currency(value: Any, default: str) -> str:  # noqa: ANN401 - a feed's value
    if value is None or not (code := _text(value, "currency").upper()):
        return default
    if not _CURRENCY.fullmatch(code):
        raise RowError(f"currency {_shown(code)} is not an ISO 4217 code")
    return code


def _split_template(template: str | None, tracking_url: str) -> list[str]:
    """Split a template into texts (even places) and the names between them (odd places)."""
    if template is None:
        return []
    if "://" not in template:
        home = urlsplit(tracking_url)
        template = f"{home.scheme}://{home.netloc}/{template.lstrip('/')}"
    return _PLACEHOLDER.split(template)


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


def read_flag(value: Any) -> bool:  # noqa: ANN401 - a feed's value
    """Return what a value says about availability; nothing said means available. Raises RowError."""
    if isinstance(value, bool):
        return value
    text = _text(value, "available")
    if not text:
        return True
    # schema.org's values are addresses: https://schema.org/InStock
    word = text.rpartition("/")[2].lower().replace("_", " ").replace("-", " ")
    if (available := _AVAILABLE.get(word)) is None:
        raise RowError(f"available {_shown(text)} is neither yes nor no")
    return available


def _shown(value: object) -> str:
    text = str(value) if isinstance(value, Decimal) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
