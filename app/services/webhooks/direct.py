"""A merchant's own integration: JSON signed by Standard Webhooks (https://www.standardwebhooks.com, version 1).

`{"type": "order.created", "order_id": "A-1", "click_id": "...", "amount": {"amount_minor": 125000, "currency": "PKR"},
"commission": {...}, "occurred_at": "2026-11-22T10:00:00Z"}`. An amount may also be decimal text ("1250.00") beside a
`currency`; a bare JSON number is refused, since nobody can tell rupees from paisas in it.
"""

from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from app.models import ReportKind
from app.money import MoneyError, parse_decimal
from app.schemas.common import Currency, MinorAmount, SafeText
from app.services.webhooks.payload import PayloadError, SaleReport

KINDS = {
    "order.created": ReportKind.CREATED,
    "order.approved": ReportKind.APPROVED,
    "order.declined": ReportKind.DECLINED,
    "order.returned": ReportKind.RETURNED,
}


class DirectAmount(BaseModel):
    """An amount that is not negative."""

    amount_minor: MinorAmount
    currency: Currency


class DirectPayload(BaseModel):
    """The payload. Members we do not know are ignored, so that a merchant may send more."""

    model_config = ConfigDict(strict=True)

    type: Literal["order.created", "order.approved", "order.declined", "order.returned"]
    order_id: SafeText = Field(min_length=1, max_length=200, examples=["A-1001"])
    click_id: SafeText | None = Field(None, max_length=200)
    amount: DirectAmount | SafeText | None = None
    commission: DirectAmount | SafeText | None = None
    currency: Currency | None = None
    # A delivery of an order that is delivered and approved in parts; its amounts are of that part.
    part: SafeText | None = Field(None, min_length=1, max_length=200)
    # Optional: a merchant that sends none has its events taken in the order they arrived.
    occurred_at: AwareDatetime | None = None


def signature_holds(secrets: list[str], body: bytes, headers: dict[str, str]) -> bool:
    """Whether one of the live secrets signed these raw bytes within the last (or next) five minutes."""
    for secret in secrets:
        try:
            Webhook(secret).verify(body, headers, json_parse=False)
        except (WebhookVerificationError, ValueError):
            # ValueError: a body that is no UTF-8, or a signature header that is no base64.
            continue
        return True
    return False


def read(body: bytes, *, received_at: datetime) -> SaleReport:
    """Read a payload. Raises PayloadError naming every member that is wrong."""
    try:
        payload = DirectPayload.model_validate_json(body)
    except ValidationError as error:
        raise PayloadError("; ".join(_describe(item["loc"], item["msg"]) for item in error.errors())) from None
    kind = KINDS[payload.type]
    currency = payload.currency
    for amount in (payload.amount, payload.commission):
        if isinstance(amount, DirectAmount):
            if currency is not None and amount.currency != currency:
                raise PayloadError(f"amounts in {currency} and in {amount.currency}: one order has one currency")
            currency = amount.currency
    report = SaleReport(
        external_order_id=payload.order_id,
        kind=kind,
        occurred_at=(payload.occurred_at or received_at).astimezone(UTC),
        click_reference=payload.click_id,
        currency=currency,
        sale_minor=_minor("amount", payload.amount, currency),
        commission_minor=_minor("commission", payload.commission, currency),
        part=payload.part,
    )
    if kind is ReportKind.CREATED and (report.sale_minor is None or report.commission_minor is None):
        raise PayloadError("order.created needs both amount and commission")
    return report


def _minor(name: str, amount: DirectAmount | str | None, currency: str | None) -> int | None:
    if amount is None:
        return None
    if isinstance(amount, DirectAmount):
        return amount.amount_minor
    if currency is None:
        raise PayloadError(f"{name}: decimal text needs a currency beside it")
    try:
        minor = parse_decimal(amount, currency)
    except MoneyError as error:
        raise PayloadError(f"{name}: {error}") from None
    if minor < 0:
        raise PayloadError(f"{name}: must not be negative; report a return as order.returned")
    return minor


def _describe(loc: tuple[int | str, ...], message: str) -> str:
    where = ".".join(str(part) for part in loc) or "body"
    return f"{where}: {message}"
