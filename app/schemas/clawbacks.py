"""Clawbacks, as staff see them."""

from uuid import UUID

from pydantic import Field

from app.models import ClawbackPolicy, ClawbackStatus
from app.schemas.common import Currency, MinorAmount, Page, ResponseModel, UtcTime


class ClawbackRead(ResponseModel):
    """What was missing when an order was taken back, and what became of it. Amounts in minor units of `currency`."""

    id: UUID
    order_id: UUID
    customer_id: UUID
    currency: Currency
    policy: ClawbackPolicy
    status: ClawbackStatus
    shortfall_minor: MinorAmount = Field(description="What the balance did not cover.")
    recovered_minor: MinorAmount = Field(description="Earned back since.")
    written_off_minor: MinorAmount = Field(description="Our loss.")
    due_at: UtcTime | None = Field(description="When what is missing is written off; only with that policy.")
    created_at: UtcTime


ClawbackPage = Page[ClawbackRead]
