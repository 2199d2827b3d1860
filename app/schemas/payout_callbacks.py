"""What the HTTP provider tells us by itself."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from app.schemas.common import ResponseModel

_KEY_PREFIX = "payout-"


def _is_key(value: str) -> str:
    UUID(value.removeprefix(_KEY_PREFIX))
    return value


class PayoutCallback(BaseModel):
    """A payout came to a state at the provider. Members we do not know are ignored, so that it may send more."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={"examples": [{"id": "payout-0197b2a4-70aa-7c11-8f21-9d1e5c7b6a40", "status": "paid"}]},
    )

    id: Annotated[str, StringConstraints(pattern=f"^{_KEY_PREFIX}[0-9a-f-]{{36}}$"), AfterValidator(_is_key)] = Field(
        description="The idempotency key that the payout was sent with.",
        examples=["payout-0197b2a4-70aa-7c11-8f21-9d1e5c7b6a40"],
    )
    status: Literal["pending", "paid", "failed"]

    @property
    def payout_id(self) -> UUID:
        """The payout's id."""
        return UUID(self.id.removeprefix(_KEY_PREFIX))


class PayoutCallbackReceipt(ResponseModel):
    """The callback was taken."""

    status: Literal["accepted"] = "accepted"
