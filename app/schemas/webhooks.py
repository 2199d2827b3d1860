"""Webhook answers, for senders and for staff."""

from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from app.models import WebhookStatus
from app.schemas.common import ResponseModel, UtcTime


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
