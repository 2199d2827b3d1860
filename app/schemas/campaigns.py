"""Campaigns as staff manage them."""

from typing import Self
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator

from app.models import CampaignStatus, RateKind
from app.schemas.admin_catalogue import Moment, Name, PositiveMoney, absent
from app.schemas.catalogue import MerchantId
from app.schemas.common import (
    BasisPoints,
    Currency,
    MinorAmount,
    Money,
    Page,
    RequestModel,
    ResponseModel,
    Slug,
    UtcTime,
)


class CampaignCreate(RequestModel):
    """Extra cashback for clicks from `valid_from` (default: now) until before `valid_to`, within a budget.

    Without a merchant and a category it holds at every merchant of its currency.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "Eid week",
                    "category": "fashion",
                    "currency": "PKR",
                    "kind": "percent_of_sale",
                    "basis_points": 200,
                    "cap": {"amount_minor": 50_000, "currency": "PKR"},
                    "budget": {"amount_minor": 100_000_000, "currency": "PKR"},
                    "valid_to": "2027-04-01T00:00:00Z",
                }
            ]
        }
    )

    name: Name
    merchant_id: MerchantId | None = Field(None, description="Only at this merchant.")
    category: Slug | None = Field(None, description="Only at merchants of this category.")
    currency: Currency
    kind: RateKind
    basis_points: BasisPoints | None = None
    fixed: PositiveMoney | None = None
    cap: PositiveMoney | None = Field(None, description="Most of it an order.")
    minimum_sale: PositiveMoney | None = Field(None, description="From this sale on.")
    budget: PositiveMoney | None = Field(None, description="Most of it in all; null: no limit.")
    valid_from: Moment | None = Field(None, examples=["2027-03-20T00:00:00Z"])
    valid_to: Moment | None = Field(None, examples=["2027-04-01T00:00:00Z"])

    @model_validator(mode="after")
    def _fits(self) -> Self:
        fixed = self.kind is RateKind.FIXED
        if fixed != (self.fixed is not None) or fixed == (self.basis_points is not None):
            raise ValueError("kind 'fixed' needs fixed and no basis_points; the others need basis_points and no fixed")
        if self.merchant_id is not None and self.category is not None:
            raise ValueError("a campaign is of a merchant or of a category, not of both")
        for amount in (self.fixed, self.cap, self.minimum_sale, self.budget):
            if amount is not None and amount.currency != self.currency:
                raise ValueError(f"amounts of this campaign are in {self.currency}")
        return self


class CampaignChange(RequestModel):
    """What to change; a member that is absent stays. Clicks of before keep what they were promised."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "paused"}]})

    name: Name = Field(default_factory=absent)
    status: CampaignStatus = Field(default_factory=absent)
    budget_minor: MinorAmount | None = Field(None, description="Not below what is spent; null: no limit.")
    valid_to: Moment | None = None


class CampaignRead(ResponseModel):
    """A campaign and what it has spent: the sum of the boosts that live orders have of it now."""

    id: UUID
    name: str = Field(examples=["Eid week"])
    status: CampaignStatus
    merchant_id: int | None
    category: str | None
    currency: Currency
    kind: RateKind
    basis_points: int | None
    fixed: Money | None
    cap: Money | None
    minimum_sale: Money | None
    budget: Money | None
    spent: Money
    valid_from: UtcTime
    valid_to: UtcTime | None
    created_at: UtcTime


CampaignPage = Page[CampaignRead]
