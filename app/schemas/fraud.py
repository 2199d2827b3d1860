"""Fraud rules and reviews for staff: thresholds by kind, what a rule would have held, and decisions."""

from typing import Annotated, Any, Literal, TypeAlias
from uuid import UUID

from pydantic import AwareDatetime, ConfigDict, Field, TypeAdapter, model_validator

from app.models import FraudRuleKind, OrderStatus, ReviewStatus
from app.schemas.common import Money, RequestModel, ResponseModel, SafeText, UtcTime

MOST_LOOKED_AT = 10_000


class ClickToOrder(RequestModel):
    """Held when the purchase was made sooner than so many seconds after its click, or before it."""

    kind: Literal[FraudRuleKind.CLICK_TO_ORDER]
    minimum_seconds: Annotated[int, Field(strict=True, ge=1, le=86_400, examples=[10])]


class OrdersPerClick(RequestModel):
    """Held from the order after so many of one click on, in the order of the purchases."""

    kind: Literal[FraudRuleKind.ORDERS_PER_CLICK]
    most_orders: Annotated[int, Field(strict=True, ge=1, le=500, examples=[3])]


class SelfReferral(RequestModel):
    """Held when the customer and who invited them have the device or a payout account in common."""

    kind: Literal[FraudRuleKind.SELF_REFERRAL]
    same_address: Annotated[
        bool, Field(description="The address they registered from counts as well; may be a family.")
    ] = False


class SharedPayoutMethod(RequestModel):
    """Held when more than so many other customers have, or had, an account of this customer's."""

    kind: Literal[FraudRuleKind.SHARED_PAYOUT_METHOD]
    most_others: Annotated[int, Field(strict=True, ge=0, le=100, examples=[0])]


class Velocity(RequestModel):
    """Held from the order after so many of one customer on, within the hours before it, at all merchants."""

    kind: Literal[FraudRuleKind.VELOCITY]
    most_orders: Annotated[int, Field(strict=True, ge=1, le=500, examples=[10])]
    hours: Annotated[int, Field(strict=True, ge=1, le=744, examples=[24])]


class AmountOutlier(RequestModel):
    """Held when the sale is more than so many times the median of the merchant's last 200 orders before it.

    With fewer of them than `fewest_orders` a merchant is too new to be judged by.
    """

    kind: Literal[FraudRuleKind.AMOUNT_OUTLIER]
    factor: Annotated[int, Field(strict=True, ge=2, le=10_000, examples=[20])]
    fewest_orders: Annotated[int, Field(strict=True, ge=5, le=200, examples=[30])] = 30


Thresholds: TypeAlias = Annotated[
    ClickToOrder | OrdersPerClick | SelfReferral | SharedPayoutMethod | Velocity | AmountOutlier,
    Field(discriminator="kind"),
]
_thresholds: TypeAdapter[Thresholds] = TypeAdapter(Thresholds)


def read_thresholds(kept: dict[str, Any]) -> Thresholds:
    """Read thresholds as they are kept."""
    return _thresholds.validate_python(kept)


class FraudRuleWanted(RequestModel):
    """A rule from now on, in place of the one of its kind for the same merchant."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"merchant_id": None, "enabled": True, "thresholds": {"kind": "click_to_order", "minimum_seconds": 10}}
            ]
        }
    )

    merchant_id: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        None, description="For this merchant alone; null: for all that have none of their own of this kind."
    )
    enabled: bool = True
    thresholds: Thresholds


class FraudRuleRead(ResponseModel):
    """One version of a rule."""

    id: UUID
    kind: FraudRuleKind
    merchant_id: int | None
    number: int = Field(description="Counts the versions of the kind for the merchant.", examples=[1])
    enabled: bool
    thresholds: Thresholds
    created_by_id: UUID
    created_at: UtcTime
    ended_at: UtcTime | None = Field(description="When another version took its place; null: it holds.")
    ended_by_id: UUID | None


class FraudDryRun(RequestModel):
    """A rule to try on orders that were first heard of in a period, and how many of them to look at."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "thresholds": {"kind": "velocity", "most_orders": 10, "hours": 24},
                    "heard_from": "2026-01-01T00:00:00Z",
                    "heard_to": "2026-02-01T00:00:00Z",
                }
            ]
        }
    )

    thresholds: Thresholds
    merchant_id: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    heard_from: AwareDatetime
    heard_to: AwareDatetime
    most: Annotated[int, Field(strict=True, ge=1, le=MOST_LOOKED_AT)] = MOST_LOOKED_AT

    @model_validator(mode="after")
    def _is_a_period(self) -> "FraudDryRun":
        if self.heard_to <= self.heard_from:
            raise ValueError("heard_to must be later than heard_from")
        if not 1970 <= self.heard_from.year <= self.heard_to.year < 9999:
            raise ValueError("the period must lie between the years 1970 and 9998")
        return self


class WouldHold(ResponseModel):
    """An order that the rule would have held."""

    order_id: UUID
    evidence: dict[str, Any]


class FraudDryRunRead(ResponseModel):
    """What a rule would have held. Nothing is stored."""

    looked_at: int = Field(examples=[4_210])
    is_complete: bool = Field(description="False: there are more orders in the period than were looked at.")
    would_hold: int = Field(examples=[12])
    samples: list[WouldHold] = Field(description="The first hundred of them.")


class FindingRead(ResponseModel):
    """Why an order is held: the rule, and what it has seen."""

    kind: FraudRuleKind
    rule_id: UUID
    measure: int = Field(description="How much of it: twice as much as staff have seen is new evidence.", examples=[7])
    evidence: dict[str, Any] = Field(examples=[{"orders": 7, "most_orders": 3}])


class ReviewRead(ResponseModel):
    """An order that is or was held."""

    order_id: UUID
    merchant_id: int
    customer_id: UUID
    order_reference: str
    order_status: OrderStatus
    sale: Money
    cashback: Money
    status: ReviewStatus
    findings: list[FindingRead]
    held_since: UtcTime
    decided_at: UtcTime | None
    decided_by_id: UUID | None
    note: str | None


class ReviewStep(ResponseModel):
    """One step of a review."""

    status: ReviewStatus
    findings: list[FindingRead]
    note: str | None
    staff_key_id: UUID | None
    at: UtcTime


class ReviewDetail(ReviewRead):
    """A review with all its steps."""

    history: list[ReviewStep]


class ReviewDecision(RequestModel):
    """Why staff release or reject an order."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"note": "Called the customer; a school's order"}]})

    note: Annotated[SafeText, Field(min_length=3, max_length=1000)]
