"""Alerts, as staff see them."""

from typing import Any
from uuid import UUID

from pydantic import Field

from app.models import AlertKind
from app.schemas.common import ResponseModel, UtcTime


class AlertRead(ResponseModel):
    """Something that is wrong with a merchant or a source; open while `closed_at` is null."""

    id: UUID
    kind: AlertKind
    merchant_id: int | None = Field(examples=[42])
    source_id: int | None = Field(examples=[None])
    name: str = Field(description="Of the merchant or the source.", examples=["Khaadi"])
    details: dict[str, Any] = Field(
        description="The figures behind it.",
        examples=[{"expected": 31.5, "actual": 0, "hours": 24, "weeks_of_history": 8}],
    )
    opened_at: UtcTime
    closed_at: UtcTime | None
