"""Building blocks of the contract: money, pages, problems."""

from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, StringConstraints

from app.money import MAX_MINOR

Item = TypeVar("Item")


def _refuse_nul(value: Any) -> Any:  # noqa: ANN401 - runs before the type is known
    if isinstance(value, str) and "\x00" in value:
        raise ValueError("must not contain the character U+0000")
    return value


# PostgreSQL's text cannot hold NUL; refusing it here gives a 422 that names the field.
# Stripping comes first, so that a length which a field adds counts what is left, however it is added.
SafeText = Annotated[str, StringConstraints(strip_whitespace=True), BeforeValidator(_refuse_nul)]
# The same, where also its spaces count.
ExactText = Annotated[str, BeforeValidator(_refuse_nul)]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$"), Field(examples=["PKR"])]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=80), Field(examples=["khaadi"])]
# A whole number of minor units; a float, a text or a bool is refused, not converted.
MinorAmount = Annotated[int, Field(strict=True, ge=0, le=MAX_MINOR, examples=[1250])]
SignedMinorAmount = Annotated[int, Field(strict=True, ge=-MAX_MINOR, le=MAX_MINOR, examples=[1250])]
BasisPoints = Annotated[int, Field(strict=True, ge=1, le=10_000, examples=[450])]
UtcTime = Annotated[
    AwareDatetime,
    PlainSerializer(lambda value: value.isoformat().replace("+00:00", "Z"), return_type=str, when_used="json"),
]


class RequestModel(BaseModel):
    """A request body. Unknown members are refused, so that a misspelt one is noticed."""

    model_config = ConfigDict(extra="forbid")


class ResponseModel(BaseModel):
    """An answer, readable from a model's attributes."""

    model_config = ConfigDict(from_attributes=True)


class Money(RequestModel):
    """An amount in the currency's minor unit (ISO 4217): 1250 with PKR is 12.50 rupees."""

    amount_minor: SignedMinorAmount
    currency: Currency


class Page(ResponseModel, Generic[Item]):
    """One page of a list. Pass `next_cursor` as `cursor` to get the next; null means this was the last."""

    items: list[Item]
    next_cursor: str | None = None


class ProblemError(BaseModel):
    """One thing wrong with the request."""

    loc: list[str | int] = Field(examples=[["body", "email"]])
    msg: str = Field(examples=["Field required"])
    type: str = Field(examples=["missing"])


class Problem(BaseModel):
    """An RFC 9457 problem. Branch on `code`; quote `request_id` when you report it."""

    type: str = Field(examples=["urn:cashback:problem:not_found"])
    title: str = Field(examples=["Not found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["There is no merchant 42."])
    instance: str = Field(examples=["/v1/merchants/42"])
    code: str = Field(examples=["not_found"])
    request_id: str | None = Field(examples=["0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e"])
    errors: list[ProblemError] | None = None


def utc(value: datetime) -> str:
    """Format a time as RFC 3339 in UTC."""
    return value.isoformat().replace("+00:00", "Z")
