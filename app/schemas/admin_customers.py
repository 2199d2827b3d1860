"""Customers, as staff find and freeze them."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from app.models import CustomerStatus
from app.schemas.common import Page, RequestModel, ResponseModel, SafeText, UtcTime


class FreezeRequest(RequestModel):
    """Why an account is frozen or no longer is; it is kept, and stands in the audit log."""

    reason: Annotated[SafeText, Field(min_length=3, max_length=1000, examples=["Chargebacks, see ticket 4711"])]


class CustomerAdminRead(ResponseModel):
    """A customer, as shown to staff."""

    id: UUID = Field(examples=["0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e"])
    email: str = Field(examples=["ayesha@example.com"])
    email_verified: bool = Field(examples=[True])
    display_name: str | None = Field(examples=["Ayesha"])
    status: CustomerStatus = Field(examples=[CustomerStatus.ACTIVE])
    frozen_reason: str | None = Field(description="Of the last time the account was frozen.", examples=[None])
    created_at: UtcTime = Field(examples=["2026-01-31T12:00:00Z"])
    closed_at: UtcTime | None = Field(examples=[None])


CustomerAdminPage = Page[CustomerAdminRead]
