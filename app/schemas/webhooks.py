"""Webhook answers, for senders and for staff."""

from typing import Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, Field

from app.models import WebhookStatus
from app.schemas.common import Currency, MinorAmount, ResponseModel, SafeText, UtcTime


class DirectAmount(BaseModel):
    """An amount that is not negative."""

    amount_minor: MinorAmount
    currency: Currency


class DirectPayload(BaseModel):
    """What a source of the preset `direct` posts. Other members are ignored, so that a merchant may send more."""

    type: Literal["order.created", "order.approved", "order.declined", "order.returned"]
    order_id: SafeText = Field(min_length=1, max_length=200, examples=["A-1001"])
    click_id: SafeText | None = Field(None, max_length=200, examples=["0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e"])
    amount: DirectAmount | SafeText | None = Field(None, examples=[{"amount_minor": 125000, "currency": "PKR"}])
    commission: DirectAmount | SafeText | None = Field(None, examples=["100.00"])
    currency: Currency | None = Field(None, description="Needed beside an amount in decimal text.")
    part: SafeText | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="A delivery of an order that is delivered and approved in parts; its amounts are of that part.",
    )
    occurred_at: AwareDatetime | None = Field(None, description="Reports without it are taken as they arrive.")


class WebhookReceipt(ResponseModel):
    """The event is stored durably; what it means is worked out after this answer."""

    event_id: UUID
    status: Literal["accepted", "duplicate"] = Field(description="`duplicate`: taken in before, no further effect.")


class WebhookEventRead(ResponseModel):
    """An event in the inbox."""

    id: UUID
    source_id: int
    status: WebhookStatus
    reason: str | None = Field(description="Why it is not processed.", examples=["no click has the reference 'x'"])
    message_id: str = Field(validation_alias="dedupe_key", description="What deduplicates it within its source.")
    order_reference: str | None = Field(validation_alias="external_order_id")
    order_id: UUID | None
    tries: int
    request_id: str | None
    received_at: UtcTime
    processed_at: UtcTime | None


class WebhookEventDetail(WebhookEventRead):
    """An event with what was sent."""

    content_type: str
    headers: dict[str, Any]
    body: str = Field(description="The raw body; bytes that are no UTF-8 are shown as U+FFFD.")
