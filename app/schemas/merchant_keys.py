"""Keys of merchants, and what a merchant reads with one: nothing of customers, nothing of other merchants."""

from typing import Annotated
from uuid import UUID

from pydantic import ConfigDict, Field

from app.models import OrderStatus, WebhookStatus
from app.schemas.common import Money, Page, RequestModel, ResponseModel, SafeText, UtcTime


class MerchantKeyCreate(RequestModel):
    """What the key is for."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Dashboard of the shop", "valid_days": 365}]})

    name: SafeText = Field(min_length=1, max_length=200)
    valid_days: Annotated[int, Field(strict=True, ge=1, le=3_650)] | None = Field(
        365, description="How long it is valid from now on; null: until it is revoked."
    )


class MerchantKeyRead(ResponseModel):
    """A key without its secret."""

    id: UUID
    merchant_id: int = Field(examples=[42])
    name: str
    prefix: str = Field(description="What the key begins with after `cbm_`.", examples=["3f9a1c0b"])
    created_by_id: UUID = Field(description="The staff key it was made with.")
    created_at: UtcTime
    expires_at: UtcTime | None
    last_used_at: UtcTime | None = Field(description="To the minute.")
    revoked_at: UtcTime | None


class MerchantKeyMade(MerchantKeyRead):
    """A new key. It is shown in this answer and never again."""

    key: str = Field(examples=["cbm_3f9a1c0b_not-a-real-key"])


MerchantKeyPage = Page[MerchantKeyRead]


class MerchantEventRead(ResponseModel):
    """An event that the merchant reported, and what became of it."""

    id: UUID
    status: WebhookStatus
    reason: str | None = Field(description="Why it is not processed.")
    order_reference: str | None = Field(validation_alias="external_order_id", examples=["A-1001"])
    order_id: UUID | None
    tries: int
    received_at: UtcTime
    processed_at: UtcTime | None


class MerchantOrderRead(ResponseModel):
    """An order of the merchant's, as it was reported."""

    id: UUID
    order_reference: str = Field(examples=["A-1001"])
    status: OrderStatus
    sale: Money
    commission: Money
    paid: Money = Field(description="What has been paid of the commission.")
    ordered_at: UtcTime
    approved_at: UtcTime | None
    updated_at: UtcTime


MerchantEventPage = Page[MerchantEventRead]
MerchantOrderPage = Page[MerchantOrderRead]


class DeliveryHealth(ResponseModel):
    """How the merchant's events arrived in the last 30 days."""

    since: UtcTime
    accepted: int = Field(description="Events taken in, repeats not counted.", examples=[1_200])
    duplicate: int | None = Field(
        description="Repeats of these; null: the merchant's source reports for others, too.", examples=[3]
    )
    by_status: dict[WebhookStatus, int] = Field(description="What became of the accepted ones; all states.")
    last_event_at: UtcTime | None = Field(description="Whenever that was.")
    silent_since: UtcTime | None = Field(description="Since when far less is reported than usual; null: all is well.")
