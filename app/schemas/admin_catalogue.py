"""The catalogue as staff manage it: categories, merchants, rates."""

from datetime import UTC, datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field, StringConstraints, model_validator

from app.models import ClawbackPolicy, ExpireAs, MerchantStatus, RateKind
from app.schemas.catalogue import RateRead
from app.schemas.common import (
    BasisPoints,
    Currency,
    MinorAmount,
    Money,
    Page,
    RequestModel,
    ResponseModel,
    SafeText,
    Slug,
    UtcTime,
)
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
ExpireDays = Annotated[int, Field(ge=1, le=3650)]
WriteOffDays = Annotated[int, Field(ge=0, le=3650)]
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


class MerchantPolicies(RequestModel):
    """When cashback is advanced, taken back and given up."""

    payable_after_payment: bool = Field(
        default=False, description="Cashback becomes payable only once the network has paid the order's commission."
    )
    exposure_limit_minor: MinorAmount | None = Field(
        None,
        description="Most cashback that may be payable before the network has paid for it, in minor units of the"
        " merchant's currency; null: no limit.",
    )
    clawback_policy: ClawbackPolicy = Field(
        ClawbackPolicy.NEGATIVE,
        description="What a clawback that the balance does not cover becomes: `negative` balance, `offset` against"
        " later cashback, or `write_off` after `write_off_days`.",
    )
    write_off_days: WriteOffDays | None = Field(None, description="With `write_off` only, and then needed.")
    expire_days: ExpireDays | None = Field(
        None, description="Days after the sale, after which an order that no report closed is closed; null: never."
    )
    expire_as: ExpireAs = Field(ExpireAs.DECLINED, description="What such an order becomes.")


class MerchantCreate(MerchantPolicies):
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

    @model_validator(mode="after")
    def _write_off_has_its_days(self) -> Self:
        if (self.clawback_policy is ClawbackPolicy.WRITE_OFF) != (self.write_off_days is not None):
            raise ValueError("clawback_policy 'write_off' needs write_off_days, and the others must not have it")
        return self


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
    payable_after_payment: bool = Field(default_factory=absent)
    exposure_limit_minor: MinorAmount | None = None
    clawback_policy: ClawbackPolicy = Field(default_factory=absent)
    write_off_days: WriteOffDays | None = None
    expire_days: ExpireDays | None = None
    expire_as: ExpireAs = Field(default_factory=absent)


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
    payable_after_payment: bool = Field(examples=[False])
    exposure_limit_minor: int | None = Field(examples=[None])
    clawback_policy: ClawbackPolicy = Field(examples=["negative"])
    write_off_days: int | None = Field(examples=[None])
    expire_days: int | None = Field(examples=[120])
    expire_as: ExpireAs = Field(examples=["declined"])
    created_at: UtcTime
    updated_at: UtcTime


class RateTierCreate(RequestModel):
    """What holds in place of the rate for the whole sale, from a sale of this amount on."""

    minimum_sale: PositiveMoney
    basis_points: BasisPoints | None = None
    fixed: PositiveMoney | None = None


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
                    "cap_month": {"amount_minor": 500_000, "currency": "PKR"},
                    "tiers": [{"minimum_sale": {"amount_minor": 1_000_000, "currency": "PKR"}, "basis_points": 700}],
                },
                {"kind": "fixed", "fixed": {"amount_minor": 25_000, "currency": "PKR"}},
            ]
        }
    )

    kind: RateKind
    basis_points: BasisPoints | None = Field(None, description="For a share: hundredths of a percent.")
    fixed: PositiveMoney | None = Field(None, description="For `fixed`: cashback an order.")
    category: Slug | None = Field(
        None, description="Slug of a category: the rate holds for clicks on the merchant's offers in it."
    )
    cap: PositiveMoney | None = Field(None, description="Most cashback an order.")
    cap_month: PositiveMoney | None = Field(
        None, description="Most cashback of a customer at this merchant in a calendar month (UTC)."
    )
    tiers: list[RateTierCreate] = Field(
        [], max_length=20, description="What holds for the whole sale from an amount on; by rising amounts."
    )
    valid_from: Moment | None = Field(None, examples=["2026-01-31T12:00:00Z"])
    valid_to: Moment | None = Field(None, examples=["2026-02-28T12:00:00Z"])

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        fixed = self.kind is RateKind.FIXED
        if fixed != (self.fixed is not None) or fixed == (self.basis_points is not None):
            raise ValueError("kind 'fixed' needs fixed and no basis_points; the others need basis_points and no fixed")
        for tier in self.tiers:
            if fixed != (tier.fixed is not None) or fixed == (tier.basis_points is not None):
                raise ValueError("a tier has the same of fixed and basis_points as its rate")
        amounts = [tier.minimum_sale.amount_minor for tier in self.tiers]
        if amounts != sorted(set(amounts)):
            raise ValueError("tiers must have rising minimum_sale amounts")
        return self


class RateAdminRead(RateRead):
    """A rate, as staff see it."""

    id: UUID
    category: str | None = Field(description="Slug of the category it holds for; null: for all others.")
    valid_from: UtcTime
    valid_to: UtcTime | None
    created_at: UtcTime


MerchantAdminPage = Page[MerchantAdminRead]
RateAdminPage = Page[RateAdminRead]
