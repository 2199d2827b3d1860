"""Webhook answers, for senders and for staff."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field, field_validator

from app.models import EventOrigin, ReplayStatus, WebhookStatus
from app.schemas.admin_catalogue import SourceId
from app.schemas.catalogue import MerchantId
from app.schemas.common import Currency, MinorAmount, RequestModel, ResponseModel, SafeText, UtcTime


def _require_near(value: datetime) -> datetime:
    if not 2000 <= value.year < 2200:
        raise ValueError("must be of a year from 2000 to 2199")
    return value


# A time whose neighbours have ids, too.
InboxTime = Annotated[AwareDatetime, AfterValidator(_require_near)]


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


class EventFilter(RequestModel):
    """Which events; what is null does not matter."""

    status: WebhookStatus | None = None
    source_id: SourceId | None = None
    merchant_id: MerchantId | None = Field(None, description="Of the order, or where the payload names it.")
    order_reference: SafeText | None = Field(None, max_length=200, examples=["A-1001"])
    delivery_id: UUID | None = Field(None, description="Only the events of this delivery, which has several.")
    received_from: InboxTime | None = Field(None, examples=["2026-11-22T00:00:00Z"])
    received_to: InboxTime | None = Field(None, description="Before this.", examples=["2026-11-23T00:00:00Z"])


class WebhookEventRead(ResponseModel):
    """An event in the inbox."""

    id: UUID
    source_id: int
    origin: EventOrigin = Field(description="How it came: `push`; `item` of a delivery with several; `poll`.")
    delivery_id: UUID | None = Field(description="Of an `item`, the delivery that brought it.")
    status: WebhookStatus
    reason: str | None = Field(description="Why it is not processed.", examples=["no click has the reference 'x'"])
    message_id: str = Field(validation_alias="dedupe_key", description="What deduplicates it within its source.")
    order_reference: str | None = Field(validation_alias="external_order_id")
    order_id: UUID | None
    merchant_id: int | None
    tries: int = Field(description="Failed tries; after the last one it is `dead`, with the reason.")
    request_id: str | None
    received_at: UtcTime
    processed_at: UtcTime | None
    erased_at: UtcTime | None = Field(description="When the raw bytes were erased; it cannot be replayed since.")
    released_reason: str | None = Field(description="Why staff let it out of quarantine.")


class WebhookEventDetail(WebhookEventRead):
    """An event with what was sent. A token in it is taken out; a signature is not kept."""

    version_id: UUID | None = Field(description="The version of its source that read it.")
    method: str = Field(examples=["POST"])
    content_type: str
    headers: dict[str, Any]
    query: str = Field(description="The query string.", examples=["order_id=A-1001&sum=12.50"])
    body: str = Field(description="The raw body; bytes that are no UTF-8 are shown as U+FFFD.")
    body_base64: str = Field(description="The same, every byte of it.")

    @field_validator("query", "body", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return value.decode(errors="replace") if isinstance(value, bytes) else value


class ReleaseRequest(RequestModel):
    """Why an implausible event is credited all the same."""

    reason: SafeText = Field(min_length=3, max_length=1000, examples=["The shop confirmed the sale by mail."])


class ReplayCreate(EventFilter):
    """Which events to process again: all that match now and were not given up by staff."""

    most: int = Field(10_000, ge=1, le=1_000_000, description="If more match, nothing is replayed.")


class ReplayRead(ResponseModel):
    """A replay and how far it is. Events are replayed in the order they arrived."""

    id: UUID
    status: ReplayStatus
    filter: dict[str, Any]
    total: int = Field(examples=[1200])
    replayed: int = Field(examples=[300])
    outcomes: dict[str, int] = Field(
        description="What became of them, by status; `failed` ones are tried again by themselves.",
        examples=[{"processed": 297, "rejected": 3}],
    )
    created_at: UtcTime
    finished_at: UtcTime | None
