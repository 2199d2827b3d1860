"""The Awin transaction push: unsigned, never retried, no status: a sale that pends until the poll says more.

Arrives as the form field `AwinTransactionPush` holding JSON, as the bare JSON body, or as a GET with the same names
as query parameters. Every scalar is text; `transactionDate` is UTC. Source: Awin's transaction notification guide.
"""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import orjson

from app.models import ReportKind
from app.money import MoneyError, parse_decimal
from app.services.webhooks.payload import PayloadError, SaleReport

FORM_FIELD = "AwinTransactionPush"
QUERY_CONTENT_TYPE = "application/x-query"
_FORM_CONTENT_TYPE = "application/x-www-form-urlencoded"
_MOST_ID_CHARACTERS = 200


def transaction_id(body: bytes, content_type: str) -> str | None:
    """Return what identifies the push, or None when it cannot be read."""
    try:
        return _text(_decode(body, content_type), "transactionId")
    except PayloadError:
        return None


def read(body: bytes, content_type: str, *, click_field: str) -> SaleReport:
    """Read a push; `click_field` is the parameter that carries our click id (`clickref`, `clickref2` ...).

    Raises PayloadError naming what is wrong.
    """
    push = _decode(body, content_type)
    currency = _text(push, "transactionCurrency").upper()
    sale_minor, commission_minor = _amount(push, "transactionAmount", currency), _amount(push, "commission", currency)
    moment = _text(push, "transactionDate")
    try:
        occurred_at = datetime.strptime(moment, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        raise PayloadError(f"transactionDate: {moment[:40]!r} is not like 2026-11-22 10:00:00") from None
    by_lower_name = {name.lower(): value for name, value in push.items()}
    reference = by_lower_name.get(click_field.lower())
    merchant = push.get("merchantId")
    return SaleReport(
        external_order_id=_text(push, "transactionId"),
        kind=ReportKind.CREATED,
        occurred_at=occurred_at,
        click_reference=str(reference) if reference else None,
        currency=currency,
        sale_minor=sale_minor,
        commission_minor=commission_minor,
        network_merchant_ref=str(merchant) if merchant else None,
    )


def _decode(body: bytes, content_type: str) -> dict[str, Any]:
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == QUERY_CONTENT_TYPE:
        return {name: values[0] for name, values in _form(body).items()}
    if media_type == _FORM_CONTENT_TYPE:
        fields = _form(body).get(FORM_FIELD)
        if not fields:
            raise PayloadError(f"form field {FORM_FIELD} is missing")
        body = fields[0].encode()
    try:
        push = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise PayloadError(f"no JSON: {error}") from None
    if not isinstance(push, dict):
        raise PayloadError("the JSON is no object")
    return push


def _form(body: bytes) -> dict[str, list[str]]:
    try:
        return parse_qs(body.decode(), strict_parsing=False, max_num_fields=1000)
    except ValueError as error:
        raise PayloadError(f"no form: {error}") from None


def _text(push: dict[str, Any], name: str) -> str:
    value = push.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise PayloadError(f"{name}: missing or no text")
    text = str(value).strip()
    if "\x00" in text or len(text) > _MOST_ID_CHARACTERS:
        raise PayloadError(f"{name}: too long or with characters that no id has")
    return text


def _amount(push: dict[str, Any], name: str, currency: str) -> int:
    try:
        minor = parse_decimal(_text(push, name), currency)
    except MoneyError as error:
        raise PayloadError(f"{name}: {error}") from None
    if minor < 0:
        raise PayloadError(f"{name}: must not be negative")
    return minor
