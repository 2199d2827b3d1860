"""Claims: what a customer files and sees, and what staff see and decide."""

from enum import StrEnum
from typing import Annotated, Self
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator

from app.models import ClaimStatus, EvidenceKind, OrderStatus, reference_key
from app.money import MAX_MINOR
from app.schemas.admin_catalogue import Moment, PositiveMoney
from app.schemas.catalogue import MerchantId
from app.schemas.common import Currency, Money, Page, RequestModel, ResponseModel, SafeText, UtcTime
from app.schemas.orphans import ClickSeen, OrphanRead, ScoreReason
from app.urls import is_http_url


def _require_letters(value: str) -> str:
    if not reference_key(value):
        raise ValueError("must have more than '#'")
    return value


OrderReference = Annotated[
    SafeText,
    StringConstraints(min_length=1, max_length=200),
    AfterValidator(_require_letters),
    Field(description="The shop's number of the order.", examples=["A-1001"]),
]
PositiveMinorAmount = Annotated[int, Field(strict=True, ge=1, le=MAX_MINOR, examples=[125_000])]
Note = Annotated[SafeText, StringConstraints(min_length=1, max_length=2000)]
DecisionNote = Annotated[SafeText, StringConstraints(min_length=3, max_length=1000)]


class Evidence(RequestModel):
    """Something that shows the purchase, as text: we open no link."""

    kind: EvidenceKind
    value: Note = Field(examples=["Order A-1001 confirmed, total Rs 1,250.00"])

    @model_validator(mode="after")
    def _link_is_a_url(self) -> Self:
        if self.kind is EvidenceKind.LINK and not is_http_url(self.value):
            raise ValueError("evidence of kind 'link' must be an http or https URL")
        return self


class ClaimCreate(RequestModel):
    """What was bought. `amount` is the order's total, as money, or in minor units of the `currency` beside it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "merchant_id": 42,
                    "order_reference": "A-1001",
                    "ordered_at": "2026-11-22T10:00:00Z",
                    "amount": {"amount_minor": 125_000, "currency": "PKR"},
                    "note": "Bought in the app's browser",
                    "evidence": [{"kind": "invoice_number", "value": "INV-7731"}],
                },
                {
                    "merchant_id": 42,
                    "order_reference": "A-1001",
                    "ordered_at": "2026-11-22T10:00:00Z",
                    "amount": 125_000,
                    "currency": "PKR",
                },
            ]
        }
    )

    merchant_id: MerchantId
    order_reference: OrderReference
    ordered_at: Moment = Field(examples=["2026-11-22T10:00:00Z"])
    amount: PositiveMoney | PositiveMinorAmount = Field(
        description='`{"amount_minor": 125000, "currency": "PKR"}`, or 125000 with `currency` beside it.'
    )
    currency: Currency | None = Field(
        None, description="Needed with an `amount` that names none; with one that does it must be the same."
    )
    note: Note | None = None
    evidence: list[Evidence] = Field([], max_length=10)

    @model_validator(mode="after")
    def _amount_has_one_currency(self) -> Self:
        if isinstance(self.amount, int):
            if self.currency is None:
                raise ValueError("an amount in minor units needs its currency beside it")
        elif self.currency not in (None, self.amount.currency):
            raise ValueError("amount and currency name two currencies")
        return self

    @property
    def money(self) -> Money:
        """The amount with its currency, however it was sent."""
        if isinstance(self.amount, int):
            return Money(amount_minor=self.amount, currency=self.currency or "")
        return self.amount


class ClaimState(StrEnum):
    """Where a claim stands, for its customer: `open` until staff have decided."""

    OPEN = "open"
    APPROVED = "approved"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"


class ClaimFacts(ResponseModel):
    """What a claim says, and what was decided."""

    id: UUID
    merchant_id: int = Field(examples=[42])
    order_reference: str = Field(examples=["A-1001"])
    ordered_at: UtcTime
    amount: Money
    note: str | None
    evidence: list[Evidence]
    due_at: UtcTime = Field(description="By when it will be decided.")
    order_id: UUID | None = Field(
        description="The order that was credited; null in an approved claim while an exchange rate is awaited."
    )
    resolution_note: str | None = Field(description="What was said with the decision.")
    resolved_at: UtcTime | None
    created_at: UtcTime


class ClaimRead(ClaimFacts):
    """A claim, as its customer sees it."""

    status: ClaimState


class ClaimAdminRead(ClaimFacts):
    """A claim, as staff see it."""

    customer_id: UUID
    status: ClaimStatus = Field(description="`matched`: an orphan fits, which staff have to confirm.")
    overdue: bool
    matched_event_id: UUID | None = Field(description="The orphan that fits best, or that was credited.")
    score: int | None = Field(description="How well it fits, of 100.")
    score_reasons: list[ScoreReason]
    resolved_by_id: UUID | None = Field(description="Staff key; null when the shop reported the order by itself.")


class OrphanFit(ResponseModel):
    """An orphan and how well it fits the claim."""

    orphan: OrphanRead
    score: int
    reasons: list[ScoreReason]


class OrderSeen(ResponseModel):
    """An order that may be the one claimed. An order is credited once, to its customer."""

    id: UUID
    customer_id: UUID
    order_reference: str = Field(validation_alias="external_id")
    status: OrderStatus


class OtherClaim(ResponseModel):
    """Another customer's claim of the same order."""

    id: UUID
    customer_id: UUID
    status: ClaimStatus


class ClaimAdminDetail(ClaimAdminRead):
    """A claim with what helps to decide it."""

    clicks: list[ClickSeen] = Field(description="The customer's last clicks to this shop, newest first.")
    orphans: list[OrphanFit] = Field(description="Orphans that may be what is claimed, the best first.")
    known_order: OrderSeen | None = Field(description="The order that has this number already, whoever's it is.")
    like_orders: list[OrderSeen] = Field(
        description="The customer's orders at this shop of a like amount and time: one may be what is claimed."
    )
    other_claims: list[OtherClaim]


class ClaimApproval(RequestModel):
    """How to credit a claim: with an orphan (default: the matched one), or by hand with `sale` and `commission`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"event_id": "0197b2a4-70aa-7c11-8f21-9d1e5c7b6a40"},
                {
                    "sale": {"amount_minor": 125_000, "currency": "PKR"},
                    "commission": {"amount_minor": 10_000, "currency": "PKR"},
                    "merchant_confirmed": True,
                    "note": "Confirmed by the shop's mail of 3 May",
                },
            ]
        }
    )

    event_id: UUID | None = Field(None, description="The orphan to credit; default: the one that is matched.")
    click_id: UUID | None = Field(
        None,
        description="The customer's click whose rate holds; default: the last one before the sale, or else the rate"
        " that a click then would have been promised.",
    )
    sale: PositiveMoney | None = None
    commission: Money | None = None
    merchant_confirmed: bool = Field(
        default=False, description="With `sale`: the shop has approved the order, and its hold begins."
    )
    order_reference: OrderReference | None = Field(
        None,
        description="With `sale`: the number that the shop's reports give the order, where the customer's is another."
        " What is reported under it later joins the order.",
    )
    distinct: bool = Field(
        default=False, description="With `sale`: the like order of the customer that a refusal named is another one."
    )
    note: DecisionNote | None = Field(None, description="Shown to the customer.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.sale is None) != (self.commission is None):
            raise ValueError("give sale and commission together")
        if self.sale is None or self.commission is None:
            if self.merchant_confirmed or self.distinct or self.order_reference is not None:
                raise ValueError("merchant_confirmed, distinct and order_reference need sale and commission")
            return self
        if self.event_id is not None:
            raise ValueError("an orphan has its own amounts: give either event_id, or sale and commission")
        if self.sale.currency != self.commission.currency:
            raise ValueError("sale and commission must be in one currency")
        if not 0 <= self.commission.amount_minor <= self.sale.amount_minor:
            raise ValueError("the commission must not be negative, nor larger than the sale")
        return self


class ClaimRejection(RequestModel):
    """Why a claim is not granted."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"note": "The shop has no order of this number."}]})

    note: DecisionNote = Field(description="Shown to the customer.")


ClaimPage = Page[ClaimRead]
ClaimAdminPage = Page[ClaimAdminRead]
