"""Order answers: the order, and for a single one how its cashback came about and each state with its time."""

from typing import Literal
from uuid import UUID

from pydantic import Field

from app.models import OrderStatus
from app.schemas.common import Money, ResponseModel, SignedMinorAmount, UtcTime


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
    payable_at: UtcTime | None = Field(description="When approved cashback becomes available.")


class ExplanationStep(ResponseModel):
    """One step of the computation; the steps' amounts add up to the cashback."""

    step: Literal["rate", "cap"]
    detail: str = Field(examples=["5 % of the sale of 1000.00 PKR"])
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
    explanation: list[ExplanationStep]
    history: list[OrderState]
