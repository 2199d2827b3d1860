"""Orphans: reported sales that no click leads to, as staff see them and decide."""

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from app.models import ClaimStatus, ReportKind, WebhookStatus
from app.schemas.catalogue import MerchantId
from app.schemas.common import Money, Page, RequestModel, ResponseModel, SafeText, UtcTime


class OrphanRead(ResponseModel):
    """A report that waits for somebody to be credited. The inbox shows it raw."""

    id: UUID = Field(description="Id of the webhook event.")
    source_id: int
    merchant_id: int | None = Field(description="Null where its source reports for several and it names none.")
    order_reference: str | None
    kind: ReportKind | None = Field(description="Null for one that came before this was kept; replay it.")
    sale: Money | None
    reported_at: UtcTime | None = Field(description="When it says that it happened.")
    received_at: UtcTime
    status: WebhookStatus
    reason: str | None = Field(description="Why it is attributed to nobody.")
    discarded_reason: str | None
    matched_click_id: UUID | None
    order_id: UUID | None


class ScoreReason(ResponseModel):
    """One part of a score; the points of all parts are its sum."""

    part: Literal["merchant", "order_reference", "amount", "time", "click_history"]
    points: int = Field(examples=[35])
    most: int = Field(description="What this part can add at most.", examples=[35])
    detail: str = Field(examples=["the same order number, A-1001"])


class ClickSeen(ResponseModel):
    """A customer's click to the shop."""

    id: UUID
    customer_id: UUID
    created_at: UtcTime
    expires_at: UtcTime
    counts: bool = Field(description="Whether the sale would count for it: made after it, and before it expired.")


class ClaimFit(ResponseModel):
    """A claim that waits, and how well the orphan fits it."""

    claim_id: UUID
    customer_id: UUID
    status: ClaimStatus
    order_reference: str
    ordered_at: UtcTime
    amount: Money
    score: int
    reasons: list[ScoreReason]


class OrphanDetail(OrphanRead):
    """An orphan with whom it may be of."""

    commission: Money | None
    clicks: list[ClickSeen] = Field(description="Clicks to its shop that the sale counts for, the last one first.")
    claims: list[ClaimFit] = Field(description="Claims that wait for such a sale, the best first.")


class OrphanMatch(RequestModel):
    """Whom to credit: the customer of a click, or a customer, by the last click before the sale or without one."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"click_id": "0197b2a4-70aa-7c11-8f21-9d1e5c7b6a40"}]})

    click_id: UUID | None = None
    customer_id: UUID | None = None
    merchant_id: MerchantId | None = Field(
        None, description="With `customer_id`, where the report does not say which of its source's shops it is of."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.click_id is None) == (self.customer_id is None):
            raise ValueError("give either click_id or customer_id")
        if self.merchant_id is not None and self.customer_id is None:
            raise ValueError("merchant_id goes with customer_id; a click knows its shop")
        return self


class OrphanDiscard(RequestModel):
    """Why nobody will be credited. A replay of the event undoes it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "Test order of the shop"}]})

    reason: Annotated[SafeText, StringConstraints(min_length=3, max_length=1000)]


OrphanPage = Page[OrphanRead]
