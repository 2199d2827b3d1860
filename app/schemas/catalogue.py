"""What shoppers see of the catalogue: categories, merchants with their rate, offers; and how lists are filtered."""

from enum import StrEnum
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints, model_validator

from app.models import MerchantStatus, RateKind
from app.money import MAX_MINOR
from app.schemas.common import Currency, Money, Page, ResponseModel, SafeText, Slug

# PostgreSQL's INTEGER, the type of merchants' ids.
MAX_MERCHANT_ID = 2**31 - 1
MerchantId = Annotated[int, Field(ge=1, le=MAX_MERCHANT_ID, examples=[42])]
SearchText = Annotated[
    SafeText,
    StringConstraints(max_length=200),
    Field(description="Words that must all occur; the last may be unfinished.", examples=["lawn sui"]),
]
# A query string is text, so this cannot be strict as `MinorAmount` is.
PriceBound = Annotated[int, Field(ge=0, le=MAX_MINOR, examples=[150_000])]


class RateTier(ResponseModel):
    """What holds in place of the rate for the whole sale, from a sale of this amount on."""

    minimum_sale: Money
    basis_points: int | None = Field(None, description="Hundredths of a percent.", examples=[700])
    fixed: Money | None = Field(None, description="Cashback an order.", examples=[None])


class RateRead(ResponseModel):
    """A cashback rate: a share of the sale or of the commission, or a fixed amount an order."""

    kind: RateKind
    basis_points: int | None = Field(description="Hundredths of a percent; null for a fixed amount.", examples=[450])
    fixed: Money | None = Field(description="Cashback an order; null for a share.", examples=[None])
    cap: Money | None = Field(description="Most cashback an order; null without a limit.")
    cap_month: Money | None = Field(
        None,
        description="Most cashback of a customer at this merchant in a calendar month (UTC); null without a limit.",
    )
    tiers: list[RateTier] = Field([], description="By rising amounts; of those that the sale reaches the last holds.")

    @classmethod
    def of(
        cls,
        *,
        kind: RateKind,
        basis_points: int | None,
        fixed_minor: int | None,
        cap_minor: int | None,
        currency: str,
        cap_month_minor: int | None = None,
        tiers: list[dict[str, Any]] | None = None,
    ) -> Self:
        """Build it from the columns of a rate or a click; both amounts are in the merchant's currency."""
        return cls(
            kind=kind,
            basis_points=basis_points,
            fixed=_money(fixed_minor, currency),
            cap=_money(cap_minor, currency),
            cap_month=_money(cap_month_minor, currency),
            tiers=[
                RateTier(
                    minimum_sale=Money(amount_minor=tier["from_minor"], currency=currency),
                    basis_points=tier.get("basis_points"),
                    fixed=_money(tier.get("fixed_minor"), currency),
                )
                for tier in tiers or ()
            ],
        )


def _money(amount_minor: int | None, currency: str) -> Money | None:
    return None if amount_minor is None else Money(amount_minor=amount_minor, currency=currency)


class CategoryRead(ResponseModel):
    """A category and how many merchants are listed in it."""

    slug: Slug = Field(examples=["fashion"])
    name: str = Field(examples=["Fashion"])
    merchants: int = Field(examples=[37])


class MerchantRead(ResponseModel):
    """A merchant. A paused one is shown, but takes no clicks for now."""

    id: int = Field(examples=[42])
    slug: str = Field(examples=["khaadi"])
    name: str = Field(examples=["Khaadi"])
    description: str = Field(examples=["Handwoven fabrics and ready to wear."])
    status: MerchantStatus = Field(examples=["active"])
    category: str | None = Field(description="Slug of its category.", examples=["fashion"])
    currency: Currency
    logo_url: str | None = Field(examples=["https://cdn.example/khaadi.png"])
    hold_days: int = Field(description="Days from approval until cashback can be paid out.", examples=[30])
    rate: RateRead | None = Field(description="What a click promises now; null: no cashback at present.")


class OfferRead(ResponseModel):
    """A product of a merchant. With variants, `price` is the lowest and `price_max` the highest price."""

    id: UUID = Field(examples=["0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e"])
    merchant_id: int = Field(examples=[42])
    title: str = Field(examples=["Embroidered lawn suit, 3 pieces"])
    description: str = Field(examples=["Unstitched, with a printed dupatta."])
    brand: str | None = Field(examples=["Khaadi"])
    category: str | None = Field(description="Slug of its category.", examples=["fashion"])
    url: str = Field(examples=["https://khaadi.example/p/lawn-suit"])
    image_url: str | None = Field(examples=["https://khaadi.example/p/lawn-suit.jpg"])
    price: Money
    price_max: Money
    available: bool = Field(description="Whether the merchant says it is in stock.")


MerchantPage = Page[MerchantRead]
OfferPage = Page[OfferRead]
CategoryPage = Page[CategoryRead]


class OfferSort(StrEnum):
    """The order of a list of offers. Prices are compared as numbers of minor units, whatever their currency.

    Of more matches than 5,000, `relevance` ranks and lists the newest 5,000; every other list is complete.
    """

    NEWEST = "newest"
    PRICE_ASC = "price_asc"
    PRICE_DESC = "price_desc"
    RELEVANCE = "relevance"


class MerchantFilter(BaseModel):
    """Which merchants are wanted."""

    q: SearchText | None = None
    category: Slug | None = Field(None, description="Slug of a category.", examples=["fashion"])


class OfferFilter(BaseModel):
    """Which offers are wanted, in which order."""

    q: SearchText | None = None
    category: Slug | None = Field(None, description="Slug of a category.", examples=["fashion"])
    merchant_id: MerchantId | None = None
    min_price: PriceBound | None = Field(None, description="Lowest price, in minor units.")
    max_price: PriceBound | None = Field(None, description="Highest price, in minor units.")
    sort: OfferSort = Field(OfferSort.NEWEST, description="`relevance` needs `q`.")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.min_price is not None and self.max_price is not None and self.min_price > self.max_price:
            raise ValueError("min_price must not be above max_price")
        if self.sort is OfferSort.RELEVANCE and not self.q:
            raise ValueError("sort=relevance needs q")
        return self
