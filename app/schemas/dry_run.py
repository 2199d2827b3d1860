"""A dry run: a request as a source would send it, and what would become of it. Nothing is kept."""

import base64
import binascii
import json
from typing import Any, Literal, Self
from urllib.parse import urlencode
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator

from app.models import Account, OrderStatus, ReportKind, WebhookStatus
from app.schemas.common import ExactText, Money, RequestModel, ResponseModel, SignedMinorAmount, UtcTime
from app.schemas.orders import ExplanationStep
from app.schemas.source_definitions import SourceDefinition

_FORM = "application/x-www-form-urlencoded"


class SampleRequest(RequestModel):
    """A request, its body in the form that is easiest to paste."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"method": "GET", "query": {"order_id": "A-1001", "sum": "12.50", "sub1": "0197b2a4-..."}}]
        }
    )

    method: Literal["GET", "POST"] = "POST"
    query: ExactText | dict[ExactText, ExactText] = Field("", description="As text, or its fields.")
    headers: dict[ExactText, ExactText] = Field({}, max_length=100)
    body: ExactText | None = Field(None, description="As text.")
    body_base64: str | None = Field(None, description="As bytes.")
    json_body: Any = Field(None, alias="json", description="As JSON; sets the content type.")
    form: dict[ExactText, ExactText] | None = Field(None, description="As a form's fields; sets the content type.")

    @model_validator(mode="after")
    def _one_body(self) -> Self:
        if sum(one is not None for one in (self.body, self.body_base64, self.json_body, self.form)) > 1:
            raise ValueError("one of body, body_base64, json and form")
        try:
            base64.b64decode(self.body_base64 or "", validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("body_base64: no base64") from None
        return self

    @property
    def query_bytes(self) -> bytes:
        """The query as it would stand in the address."""
        return (self.query if isinstance(self.query, str) else urlencode(self.query)).encode()

    @property
    def body_bytes(self) -> bytes:
        """The body as it would be sent."""
        if self.json_body is not None:
            return json.dumps(self.json_body, ensure_ascii=False).encode()
        if self.form is not None:
            return urlencode(self.form).encode()
        if self.body_base64 is not None:
            return base64.b64decode(self.body_base64)
        return (self.body or "").encode()

    @property
    def sent_headers(self) -> dict[str, str]:
        """The headers, their names in lower case, with the content type that the body implies."""
        implied = {}
        if self.json_body is not None:
            implied = {"content-type": "application/json"}
        elif self.form is not None:
            implied = {"content-type": _FORM}
        return implied | {name.lower(): value for name, value in self.headers.items()}


class DryRunRequest(SampleRequest):
    """A request to try, with the source's definition or with one that it may get."""

    definition: SourceDefinition | None = Field(None, description="To be tried in place of the present version.")


class MappedEvent(ResponseModel):
    """One event in our terms; amounts in minor units of the currency."""

    kind: ReportKind
    order_reference: str = Field(examples=["A-1001"])
    click_reference: str | None
    amount_minor: int | None = Field(examples=[125000])
    commission_minor: int | None = Field(examples=[10000])
    currency: str | None = Field(examples=["PKR"])
    occurred_at: UtcTime
    is_dated: bool = Field(description="False: `occurred_at` is when it arrived.")
    ordered_at: UtcTime | None
    part: str | None
    network_merchant_ref: str | None
    is_delta: bool = Field(description="Whether the amounts are added to those of the order's other events.")


class PayloadProblem(ResponseModel):
    """One thing wrong with the payload: our field, where it was looked for, and what is wrong."""

    field: str = Field(examples=["amount"])
    path: str | None = Field(examples=["sale.total"])
    message: str = Field(examples=["'12,50' is not a plain decimal amount"])


class DryAttribution(ResponseModel):
    """Whose sale it would be."""

    click_id: UUID
    customer_id: UUID
    merchant_id: int
    merchant: str = Field(examples=["Khaadi"])


class DryOrder(ResponseModel):
    """The order as it would be then."""

    order_reference: str
    is_new: bool
    status: OrderStatus
    sale: Money
    commission: Money
    cashback: Money
    explanation: list[ExplanationStep]


class DryPosting(ResponseModel):
    """A line that the ledger would get: positive debits, negative credits."""

    account: Account
    customer_id: UUID | None
    merchant_id: int | None
    currency: str
    amount_minor: SignedMinorAmount


class DryEvent(ResponseModel):
    """What would become of one event."""

    mapped: MappedEvent | None = Field(description="Null when it cannot be read, or is ignored.")
    problems: list[PayloadProblem]
    status: WebhookStatus
    reason: str | None
    attribution: DryAttribution | None
    order: DryOrder | None
    ledger: list[DryPosting]


class DryRunResult(ResponseModel):
    """What would become of the request. Nothing of it was kept."""

    authentication: Literal["holds", "fails"] = Field(
        description="Whether the request would be taken in; the rest is worked out in any case."
    )
    duplicate_of: UUID | None = Field(description="The event that was taken in before with the same id.")
    status: WebhookStatus = Field(description="`split`: it has several events.")
    problems: list[PayloadProblem] = Field(description="What is wrong with the request as a whole.")
    events: list[DryEvent]
