"""How a merchant's feed is read: where our fields are in its rows, how its pages follow each other, and its schedule.

A mapping is data. What a request leaves out comes from its preset (`services/sync/presets.py`), then from the defaults.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from app.models import FeedFormat
from app.schemas.common import Currency, RequestModel, ResponseModel, SafeText, UtcTime
from app.urls import is_http_url


def _require_http_url(value: str) -> str:
    if not is_http_url(value):
        raise ValueError("must be an http or https URL with a host")
    return value


FeedUrl = Annotated[
    SafeText,
    StringConstraints(max_length=2048),
    AfterValidator(_require_http_url),
    Field(
        description="An http or https address; a password in it is sent as Basic authentication.",
        examples=["https://shop.example/feed.json"],
    ),
]
# A CSV column's name, or the dotted path of a member in a JSON item.
FieldName = Annotated[SafeText, StringConstraints(min_length=1, max_length=200)]
UrlTemplate = Annotated[
    SafeText,
    StringConstraints(min_length=1, max_length=2048),
    Field(
        description=(
            "Makes an offer's URL where the feed has none: `{Name}` is the value of that column or path, escaped."
            " A template without a host is joined to the merchant's tracking_url."
        ),
        examples=["https://shop.example/products/{Handle}"],
    ),
]
Encoding = Literal[
    "utf-8", "utf-16", "windows-1250", "windows-1251", "windows-1252", "windows-1256", "iso-8859-1", "iso-8859-15"
]


class FeedPreset(StrEnum):
    """A mapping that ships with the service. An own value beside it wins."""

    SHOPIFY = "shopify"
    DIRECT_JSON = "direct-json"


class PriceUnit(StrEnum):
    """What a bare number in a price field counts: `26.09` is major, `2609` minor."""

    MAJOR = "major"
    MINOR = "minor"


class OptionalFields(RequestModel):
    """Where our fields are: names of CSV columns, or dotted paths into a JSON item such as `images.0.src`."""

    external_id: FieldName | None = Field(None, examples=["id"])
    title: FieldName | None = Field(None, examples=["title"])
    description: FieldName | None = Field(None, description="HTML in it becomes plain text.", examples=["description"])
    brand: FieldName | None = Field(None, examples=["brand"])
    category: FieldName | None = Field(
        None, description="A category's name or slug; an unknown one counts as the merchant's own.", examples=["type"]
    )
    url: FieldName | None = Field(None, examples=["link"])
    image_url: FieldName | None = Field(None, examples=["image"])
    price: FieldName | None = Field(
        None,
        description='A decimal amount, or an object `{"amount_minor": 1250, "currency": "PKR"}`.',
        examples=["price"],
    )
    price_max: FieldName | None = Field(None, description="The dearest variant's price.", examples=["price_max"])
    currency: FieldName | None = Field(None, examples=["currency"])
    available: FieldName | None = Field(
        None, description="True, false, `in stock`, `out of stock` and the like.", examples=["in_stock"]
    )


class Fields(OptionalFields):
    """The same with what every offer must have."""

    external_id: FieldName
    title: FieldName
    price: FieldName


class NextUrlPaging(RequestModel):
    """Each page names the next one's address; without it the page was the last."""

    kind: Literal["next_url"]
    path: FieldName = Field("next", description="Where the address is in the page.")


class PageNumberPaging(RequestModel):
    """Pages are counted in a query parameter; the first one without items ends the feed."""

    kind: Literal["page"]
    parameter: FieldName = "page"
    first: int = Field(1, ge=0, le=1)


class CursorPaging(RequestModel):
    """Each page holds a token that asks for the next; without it the page was the last."""

    kind: Literal["cursor"]
    path: FieldName = Field("next_cursor", description="Where the token is in the page.")
    parameter: FieldName = Field("cursor", description="The query parameter that takes it.")


Paging = Annotated[NextUrlPaging | PageNumberPaging | CursorPaging, Field(discriminator="kind")]


class _Mapping(RequestModel):
    fields: Fields
    url_template: UrlTemplate | None = None
    currency: Currency | None = Field(None, description="Of prices without one; default: the merchant's.")
    price_unit: PriceUnit = PriceUnit.MAJOR

    @model_validator(mode="after")
    def _offers_have_urls(self) -> Self:
        if self.fields.url is None and self.url_template is None:
            raise ValueError("either fields.url or url_template is needed")
        return self


class CsvMapping(_Mapping):
    """A CSV file with a header line."""

    delimiter: Literal[",", ";", "|", "\t"] = ","
    encoding: Encoding = "utf-8"
    group_by: FieldName | None = Field(
        None, description="Rows next to each other with the same value here are variants of one offer."
    )


class JsonMapping(_Mapping):
    """JSON: one document or pages of them, each with an array of items."""

    items_path: Annotated[SafeText, StringConstraints(max_length=200)] = Field(
        "", description="Dotted path of the array; empty: the document is the array."
    )
    paging: Paging | None = None


class MappingWrite(RequestModel):
    """A preset and what is different, or a whole mapping. Members of the other format are refused."""

    preset: FeedPreset | None = None
    fields: OptionalFields | None = None
    url_template: UrlTemplate | None = None
    currency: Currency | None = None
    price_unit: PriceUnit | None = None
    delimiter: Literal[",", ";", "|", "\t"] | None = None
    encoding: Encoding | None = None
    group_by: FieldName | None = None
    items_path: Annotated[SafeText, StringConstraints(max_length=200)] | None = None
    paging: Paging | None = None

    def given(self) -> dict[str, Any]:
        """Return the members that were sent, without the preset."""
        return self.model_dump(mode="json", exclude_unset=True, exclude={"preset"})


class FeedWrite(RequestModel):
    """A merchant's feed as staff set it."""

    url: FeedUrl
    format: FeedFormat | None = Field(None, description="Default: the preset's.")
    mapping: MappingWrite
    enabled: bool = Field(True, description="Whether it is synced by itself; by hand it always can be.")  # noqa: FBT003 - pydantic's own signature
    interval_seconds: int = Field(86_400, ge=60, le=30 * 86_400, description="Time from one sync to the next.")
    max_loss_basis_points: int = Field(
        3000, ge=0, le=10_000, description="A sync that would remove or reject a larger share changes nothing."
    )


class FeedRead(ResponseModel):
    """A merchant's feed, its mapping complete."""

    merchant_id: int = Field(examples=[42])
    url: str = Field(examples=["https://shop.example/feed.json"])
    format: FeedFormat
    mapping: dict[str, Any] = Field(
        examples=[{"fields": {"external_id": "id", "title": "title", "price": "price", "url": "link"}}]
    )
    enabled: bool
    interval_seconds: int = Field(examples=[86_400])
    next_sync_at: UtcTime
    max_loss_basis_points: int = Field(examples=[3000])
    updated_at: UtcTime
