"""Exchange rates as finance enters and sees them: decimal text, never a float."""

from datetime import date
from typing import Annotated
from uuid import UUID

from pydantic import ConfigDict, Field, StringConstraints

from app.schemas.common import Currency, Page, RequestModel, ResponseModel, UtcTime

RateText = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9]{1,12}(\.[0-9]{1,18})?$"),
    Field(description="Units of `quote` for one unit of `base`, at most 12 decimals.", examples=["278.45"]),
]


class ExchangeRateCreate(RequestModel):
    """A new rate. It holds from its day until a newer one, and is never changed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"base": "USD", "quote": "PKR", "rate": "278.45", "effective_on": "2026-01-31"}]
        }
    )

    base: Currency = Field(examples=["USD"])
    quote: Currency = Field(examples=["PKR"])
    rate: RateText
    effective_on: date = Field(examples=["2026-01-31"])


class ExchangeRateRead(ResponseModel):
    """A rate of a day."""

    id: UUID
    base: Currency = Field(examples=["USD"])
    quote: Currency = Field(examples=["PKR"])
    rate: str = Field(examples=["278.45"])
    effective_on: date = Field(examples=["2026-01-31"])
    created_by_id: UUID | None = Field(description="The staff key that added it.")
    created_at: UtcTime


ExchangeRatePage = Page[ExchangeRateRead]
