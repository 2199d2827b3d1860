"""The catalogue as staff manage it: categories, merchants, rates."""

from datetime import UTC, datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field, StringConstraints, model_validator

from app.models import MerchantStatus, RateKind
from app.schemas.catalogue import RateRead
from app.schemas.common import BasisPoints, Currency, Money, Page, RequestModel, ResponseModel, SafeText, Slug, UtcTime
from app.urls import is_http_url


def _require_http_url(value: str) -> str:
    if not is_http_url(value):
        raise ValueError("must be an http or https URL")
    return value


def _refuse_digits(value: str) -> str:
    if value.isdecimal():
        raise ValueError("must not be a number: that would read as an id")
    return value


def _to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be a time between the years 1 and 9999 in UTC") from None


def absent() -> Any:  # noqa: ANN401 - stands in for any type
    """Fill a member that was not sent; `model_fields_set` tells, and the value is never used."""
    return None


def _require_amount(value: Money) -> Money:
    if value.amount_minor <= 0:
        raise ValueError("must be more than nothing")
    return value


Name = Annotated[SafeText, StringConstraints(min_length=1, max_length=200)]
Description = Annotated[SafeText, StringConstraints(max_length=5000)]
HttpUrl = Annotated[SafeText, StringConstraints(max_length=2000), AfterValidator(_require_http_url)]
# What names a query parameter, as networks use them: `ued`, `clickref`, `sub[1]`.
ParameterName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.~\[\]-]{1,64}$")]
MerchantSlug = Annotated[Slug, AfterValidator(_refuse_digits)]
NetworkRef = Annotated[SafeText, StringConstraints(min_length=1, max_length=200)]
HoldDays = Annotated[int, Field(ge=0, le=3650)]
SourceId = Annotated[int, Field(ge=1, le=2**31 - 1)]
Moment = Annotated[AwareDatetime, AfterValidator(_to_utc)]
PositiveMoney = Annotated[Money, AfterValidator(_require_amount)]


class CategoryCreate(RequestModel):
    """A new category."""

    slug: Slug = Field(examples=["fashion"])
    name: Name = Field(examples=["Fashion"])


class CategoryAdminRead(ResponseModel):
    """A category, as staff see it."""

    id: int = Field(examples=[3])
    slug: str = Field(examples=["fashion"])
    name: str = Field(examples=["Fashion"])


class MerchantCreate(RequestModel):
    """A new merchant. It takes clicks once it has a rate in force and an active source."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "slug": "khaadi",
                    "name": "Khaadi",
                    "category": "fashion",
                    "currency": "PKR",
                    "tracking_url": "https://network.example/click?mid=1001",
                    "deeplink_parameter": "ued",
                    "source_id": 1,
                    "network_merchant_ref": "1001",
                    "hold_days": 30,
                }
            ]
        }
    )

    slug: MerchantSlug
    name: Name
    description: Description = ""
    category: Slug | None = Field(None, description="Slug of its category.")
    currency: Currency
    logo_url: HttpUrl | None = None
    tracking_url: HttpUrl = Field(description="Where a click without an offer leads.")
    deeplink_parameter: ParameterName | None = Field(
        None, description="Parameter of `tracking_url` that takes an offer's URL; null: offers are opened directly."
    )
    source_id: SourceId | None = Field(None, description="Who reports its sales.")
    network_merchant_ref: NetworkRef | None = Field(None, description="The name it has at that source.")
    hold_days: HoldDays = Field(30, description="Days from approval until cashback can be paid out.")


class MerchantChange(RequestModel):
    """What to change; a member that is absent stays. The currency stays for ever: rates and offers are in it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "paused"}]})

    slug: MerchantSlug = Field(default_factory=absent)
    name: Name = Field(default_factory=absent)
    description: Description = Field(default_factory=absent)
    status: MerchantStatus = Field(default_factory=absent)
    category: Slug | None = None
    logo_url: HttpUrl | None = None
    tracking_url: HttpUrl = Field(default_factory=absent)
    deeplink_parameter: ParameterName | None = None
    source_id: SourceId | None = None
    network_merchant_ref: NetworkRef | None = None
    hold_days: HoldDays = Field(default_factory=absent)


class MerchantAdminRead(ResponseModel):
    """A merchant, as staff see it."""

    id: int = Field(examples=[42])
    slug: str = Field(examples=["khaadi"])
    name: str = Field(examples=["Khaadi"])
    description: str
    status: MerchantStatus
    category: str | None = Field(description="Slug of its category.", examples=["fashion"])
    currency: Currency
    logo_url: str | None
    tracking_url: str = Field(examples=["https://network.example/click?mid=1001"])
    deeplink_parameter: str | None = Field(examples=["ued"])
    source_id: int | None = Field(examples=[1])
    network_merchant_ref: str | None = Field(examples=["1001"])
    hold_days: int = Field(examples=[30])
    created_at: UtcTime
    updated_at: UtcTime


class RateCreate(RequestModel):
    """A new rate, in force from `valid_from` (default: now) until before `valid_to` (null: open-ended).

    Rates may overlap: the one that began last holds. So a campaign is a rate with an end over the usual one.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "percent_of_sale",
                    "basis_points": 450,
                    "cap": {"amount_minor": 100_000, "currency": "PKR"},
                },
                {"kind": "fixed", "fixed": {"amount_minor": 25_000, "currency": "PKR"}},
            ]
        }
    )

    kind: RateKind
    basis_points: BasisPoints | None = Field(None, description="For a share: hundredths of a percent.")
    fixed: PositiveMoney | None = Field(None, description="For `fixed`: cashback an order.")
    cap: PositiveMoney | None = Field(None, description="Most cashback an order.")
    valid_from: Moment | None = Field(None, examples=["2026-01-31T12:00:00Z"])
    valid_to: Moment | None = Field(None, examples=["2026-02-28T12:00:00Z"])

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        fixed = self.kind is RateKind.FIXED
        if fixed != (self.fixed is not None) or fixed == (self.basis_points is not None):
            raise ValueError("kind 'fixed' needs fixed and no basis_points; the others need basis_points and no fixed")
        return self


class RateAdminRead(RateRead):
    """A rate, as staff see it."""

    id: UUID
    valid_from: UtcTime
    valid_to: UtcTime | None
    created_at: UtcTime


MerchantAdminPage = Page[MerchantAdminRead]
RateAdminPage = Page[RateAdminRead]
