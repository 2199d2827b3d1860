"""Order answers: the order, and for a single one how its cashback came about and each state with its time."""

from enum import StrEnum
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator

from app.models import OrderStatus, ReportKind
from app.schemas.common import Money, RequestModel, ResponseModel, SafeText, SignedMinorAmount, UtcTime


class OrderWait(StrEnum):
    """Why approved cashback is not payable yet."""

    HOLD = "hold"  # the shop's return window, until `payable_at`
    PAYMENT = "payment"  # the shop has not paid for the order
    EXPOSURE = "exposure"  # the shop has not paid for others either, and no more of its cashback is advanced
    CONFIRMATION = "confirmation"  # the purchase is still being confirmed


class OwedBy(StrEnum):
    """Who owes whom for an order."""

    NETWORK = "network"  # commission that it has not paid
    US = "us"  # what it has paid too much, or for an order that was declined since


class OrderMerchant(ResponseModel):
    """The shop."""

    id: int
    slug: str
    name: str


class OrderRead(ResponseModel):
    """A purchase and its cashback."""

    id: UUID
    merchant: OrderMerchant
    order_reference: str = Field(description="The merchant's own order number.", examples=["A-1001"])
    status: OrderStatus
    sale: Money
    cashback: Money
    ordered_at: UtcTime
    payable_at: UtcTime | None = Field(
        description="When approved cashback becomes available, if nothing else is waited for."
    )
    waits_for: OrderWait | None = Field(
        description="Why approved cashback is not available yet: the `hold` until `payable_at`; the shop's `payment`;"
        " `exposure`, the shop's payments for other orders, since only so much is paid out in advance; or"
        " `confirmation`: the purchase is still being confirmed, which can take some days.",
        examples=[None],
    )


class ExplanationStep(ResponseModel):
    """One step of the computation; the steps' amounts add up to the cashback.

    `base` says what the rate is taken of and adds nothing; `rate` is the promised rate's part without its fraction of
    a minor unit, `tier` what a tier adds to it, `rounding` the fraction's; `boost` a campaign's part; `cap` what a
    limit takes away.
    """

    step: Literal["base", "rate", "tier", "boost", "cap", "rounding"]
    detail: str = Field(examples=["5 % of the sale"])
    amount_minor: SignedMinorAmount


class OrderState(ResponseModel):
    """A state the order came to, with its amounts then."""

    status: OrderStatus
    sale: Money
    cashback: Money
    at: UtcTime


class OrderDetail(OrderRead):
    """An order that explains itself."""

    click_id: UUID
    reported_sale: Money = Field(description="The sale in the currency the shop reported it in.")
    exchange_rate: str | None = Field(
        description="Units of the cashback's currency for one of the reported one; null where both are the same.",
        examples=[None],
    )
    expired_at: UtcTime | None = Field(description="When it was closed because the shop never said what became of it.")
    explanation: list[ExplanationStep]
    history: list[OrderState]


class OrderAdminRead(OrderRead):
    """An order, as staff see it: also what the network owes and has paid, in the currency it reports in."""

    customer_id: UUID
    click_id: UUID
    commission: Money
    boost: Money = Field(description="The part of the cashback that campaigns pay.")
    reported_sale: Money
    reported_commission: Money
    exchange_rate: str | None
    settled_minor: SignedMinorAmount = Field(description="What the network has paid.")
    written_off_minor: SignedMinorAmount = Field(
        description="What staff stopped waiting for; below zero: what they kept of too much."
    )
    due_minor: int = Field(
        description="What the network still owes; below zero: it has paid too much, and will take it back.",
        examples=[8_000],
    )
    expired_at: UtcTime | None
    revision: int = Field(description="Counts changes; names the ledger transfer of each.", examples=[3])


class OrderReportRead(ResponseModel):
    """One thing that was said about an order, and who said it."""

    id: UUID
    origin: Literal["event", "claim", "staff"]
    origin_id: UUID = Field(description="Id of the webhook event, the claim, or the staff key.")
    kind: ReportKind
    part: str | None
    sale_minor: int | None
    commission_minor: int | None
    reason: str | None
    occurred_at: UtcTime
    created_at: UtcTime


class OrderAdminDetail(OrderAdminRead):
    """An order with all that explains it: the steps of its cashback, its states, and what was said about it."""

    explanation: list[ExplanationStep]
    history: list[OrderState]
    reports: list[OrderReportRead]


class OrderAdjustment(RequestModel):
    """What staff say about an order in place of its source; it is folded with what the source says.

    `created` sets amounts only; `approved` and `declined` also the status; `returned` takes back the amounts given, or
    without any the whole order.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "approved",
                    "sale": {"amount_minor": 250_000, "currency": "PKR"},
                    "commission": {"amount_minor": 20_000, "currency": "PKR"},
                    "reason": "Confirmed by the merchant's mail of 3 May",
                }
            ]
        }
    )

    kind: ReportKind
    sale: Money | None = None
    commission: Money | None = None
    part: Annotated[SafeText, Field(min_length=1, max_length=200)] | None = None
    reason: Annotated[SafeText, Field(min_length=3, max_length=1000)]

    @model_validator(mode="after")
    def _amounts_fit(self) -> Self:
        amounts = [amount for amount in (self.sale, self.commission) if amount is not None]
        if any(amount.amount_minor < 0 for amount in amounts):
            raise ValueError("amounts must not be negative; take back with kind 'returned'")
        if len({amount.currency for amount in amounts}) > 1:
            raise ValueError("sale and commission must be in one currency")
        if self.kind is ReportKind.CREATED and not amounts:
            raise ValueError("kind 'created' needs sale, commission or both")
        return self

    @property
    def currency(self) -> str | None:
        """The currency of its amounts, if it has any."""
        amount = self.sale or self.commission
        return amount.currency if amount else None
