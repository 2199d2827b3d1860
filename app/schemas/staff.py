"""Staff keys, for admins."""

from typing import Annotated
from uuid import UUID

from pydantic import ConfigDict, Field

from app.models import StaffRole, StaffScope
from app.schemas.common import Page, RequestModel, ResponseModel, SafeText, UtcTime

ValidDays = Annotated[int, Field(strict=True, ge=1, le=3_650)]
_VALID_DAYS = "How long it is valid from now on; null: until it is revoked."


class StaffKeyCreate(RequestModel):
    """Whose key, and what it may do."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "member": "ayesha@cashback.example",
                    "role": "operator",
                    "scopes": ["payouts:read", "payouts:approve"],
                    "valid_days": 90,
                }
            ]
        }
    )

    member: SafeText = Field(
        min_length=1,
        max_length=200,
        description="Who will hold it: an e-mail address, or the name of a script. All keys of one are one person's.",
    )
    role: StaffRole
    scopes: Annotated[list[StaffScope], Field(min_length=1, max_length=len(StaffScope))] | None = Field(
        None, description="Only these of what the role may do; null: all of it."
    )
    valid_days: ValidDays | None = Field(365, description=_VALID_DAYS)


class StaffKeyRotate(RequestModel):
    """How long the new key is valid."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"valid_days": 90}]})

    valid_days: ValidDays | None = Field(365, description=_VALID_DAYS)


class StaffKeyRead(ResponseModel):
    """A key without its secret."""

    id: UUID = Field(examples=["0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e"])
    member_id: UUID | None
    name: str = Field(description="The member's name.", examples=["ayesha@cashback.example"])
    prefix: str = Field(description="What the key begins with after `cbk_`.", examples=["3f9a1c0b"])
    role: StaffRole
    scopes: list[StaffScope] | None
    created_by_id: UUID | None = Field(description="The key it was made with; null: the command line.")
    created_at: UtcTime
    expires_at: UtcTime | None
    last_used_at: UtcTime | None = Field(description="To the minute.")
    revoked_at: UtcTime | None


class StaffKeyMade(StaffKeyRead):
    """A new key. It is shown in this answer and never again."""

    key: str = Field(examples=["cbk_3f9a1c0b_not-a-real-key"])


StaffKeyPage = Page[StaffKeyRead]
