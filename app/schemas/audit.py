"""The audit log as admins read it."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, Field

from app.schemas.common import Page, RequestModel, ResponseModel, SafeText, UtcTime

_Name = Annotated[SafeText, Field(max_length=200)]


class AuditFilter(RequestModel):
    """Which entries; what is null does not matter."""

    member_id: UUID | None = None
    key_id: UUID | None = None
    action: _Name | None = None
    target_type: _Name | None = None
    target_id: _Name | None = None
    first: AwareDatetime | None = None
    last: AwareDatetime | None = None


class AuditEntryRead(ResponseModel):
    """What somebody did, to what, and what it changed."""

    id: UUID
    at: UtcTime
    actor: str = Field(
        description="The member's name; of a command, the operating system's user.",
        examples=["ayesha@cashback.example"],
    )
    member_id: UUID | None = Field(description="null: a command.")
    key_id: UUID | None
    action: str = Field(
        description="The operation id of a route, or `cli.` and a command.", examples=["approve_payout"]
    )
    target_type: str | None = Field(examples=["payouts"])
    target_id: str | None = Field(examples=["0197b2a4-70aa-7c11-8f21-9d1e5c7b6a40"])
    before: dict[str, Any] | None = Field(
        description="What changed, as it was. Secrets and customers' data are hidden.",
        examples=[{"status": "requested"}],
    )
    after: dict[str, Any] | None = Field(
        description="What it became; all of a new row.", examples=[{"status": "approved"}]
    )
    request_id: str | None
    address: str | None = Field(description="The network that it came from.", examples=["203.0.113.0/24"])


AuditPage = Page[AuditEntryRead]
