"""What waits for a second person, as staff see it."""

from typing import Any
from uuid import UUID

from pydantic import ConfigDict, Field

from app.models import ProposalKind, ProposalStatus
from app.schemas.common import Money, Page, RequestModel, ResponseModel, SafeText, UtcTime


class ProposalRead(ResponseModel):
    """A decision of one person that moves more than one may decide. Nothing moves before another confirms it."""

    id: UUID = Field(examples=["0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e"])
    kind: ProposalKind = Field(examples=["payout_approval"])
    target_id: UUID = Field(description="The payout, batch, order, claim, event or settlement line.")
    status: ProposalStatus
    amount: Money = Field(description="What it would move, as it was when it was proposed.")
    wanted: dict[str, Any] | None = Field(description="The body of the request that proposed it.")
    proposed_by: str = Field(examples=["ayesha@cashback.example"])
    proposed_by_id: UUID = Field(description="With this staff key.")
    decided_by: str | None = Field(examples=["bilal@cashback.example"])
    decided_by_id: UUID | None
    note: str | None = Field(description="Why it was refused.")
    created_at: UtcTime
    expires_at: UtcTime = Field(description="Until then it can be confirmed.")
    decided_at: UtcTime | None


ProposalPage = Page[ProposalRead]


class ProposalRefusal(RequestModel):
    """Why it is not done."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"note": "The merchant's mail says something else"}]})

    note: SafeText = Field(min_length=1, max_length=500)
