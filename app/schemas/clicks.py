"""Clicks, as the contract shows them."""

from uuid import UUID

from pydantic import ConfigDict, Field

from app.models import RateKind
from app.schemas.catalogue import MerchantId, RateRead
from app.schemas.common import Money, Page, RequestModel, ResponseModel, UtcTime


class ClickCreate(RequestModel):
    """Where the customer wants to go: to the merchant, or to one of its offers."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"merchant_id": 42, "offer_id": "0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e"}]}
    )

    merchant_id: MerchantId
    offer_id: UUID | None = None


class BoostRead(ResponseModel):
    """Extra cashback of a campaign: a share of the sale or of the commission, or a fixed amount an order."""

    campaign_id: UUID
    name: str = Field(examples=["Eid week"])
    kind: RateKind
    basis_points: int | None = Field(examples=[200])
    fixed: Money | None
    cap: Money | None = Field(description="Most of it an order; null without a limit.")
    minimum_sale: Money | None = Field(description="From this sale on; null: from any.")


class ClickRead(ResponseModel):
    """A click, with the rate that was promised: it holds for sales until `expires_at`, whatever changes later."""

    id: UUID = Field(examples=["0197b2a4-70aa-7c11-8f21-9d1e5c7b6a40"])
    merchant_id: int = Field(examples=[42])
    offer_id: UUID | None = Field(examples=["0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e"])
    redirect_url: str = Field(
        description="Open this; it leads to the merchant.",
        examples=["https://api.example/r/0197b2a4-70aa-7c11-8f21-9d1e5c7b6a40"],
    )
    rate: RateRead
    boosts: list[BoostRead] = Field(description="Campaigns that add to it, each while its budget lasts.")
    created_at: UtcTime = Field(examples=["2026-01-31T12:00:00Z"])
    expires_at: UtcTime = Field(examples=["2026-03-17T12:00:00Z"])


ClickPage = Page[ClickRead]
