"""How a feed is read: where our fields are in its rows, which rows are one offer, and how its pages follow each other.

A mapping is data, the same for every format; what only one format has is in that format's class. What a request leaves
out comes from its preset (`app/presets/feeds`), then from the defaults.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from app.schemas.common import Currency, RequestModel, SafeText

# A CSV column's name, or the dotted path of a member or element within an item.
FieldName = Annotated[SafeText, StringConstraints(min_length=1, max_length=200)]
# Several: the first that is not empty counts.
FieldNames = FieldName | Annotated[list[FieldName], Field(min_length=1, max_length=5)]
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
Delimiter = Literal[",", ";", "|", "\t"]
ItemsPath = Annotated[SafeText, StringConstraints(max_length=200)]
Word = Annotated[SafeText, StringConstraints(min_length=1, max_length=40, to_lower=True)]
Words = Annotated[list[Word], Field(min_length=1, max_length=10)]
# Of the first value of a header or trailer record.
Marker = Annotated[SafeText, StringConstraints(min_length=1, max_length=20)]


class FeedPreset(StrEnum):
    """A mapping that ships with the service, as a file of this name. An own value beside it wins."""

    SHOPIFY = "shopify"
    GOOGLE_MERCHANT = "google-merchant"
    GOOGLE_MERCHANT_ATOM = "google-merchant-atom"
    GOOGLE_MERCHANT_TEXT = "google-merchant-text"
    AWIN = "awin"
    SHAREASALE = "shareasale"
    ADMITAD = "admitad"
    IMPACT = "impact"
    PARTNERIZE = "partnerize"
    CJ = "cj"
    RAKUTEN = "rakuten"
    RAKUTEN_DELTA = "rakuten-delta"
    DIRECT_JSON = "direct-json"
    DIRECT_NDJSON = "direct-ndjson"


class PriceUnit(StrEnum):
    """What a bare number in a price field counts: `26.09` is major, `2609` minor."""

    MAJOR = "major"
    MINOR = "minor"


class OptionalFields(RequestModel):
    """Where our fields are: a CSV column, a path in a JSON item (`images.0.src`) or XML element (`link.@href`).

    Of several names the first that has a value counts.
    """

    external_id: FieldNames | None = Field(None, examples=["id"])
    title: FieldNames | None = Field(None, examples=["title"])
    description: FieldNames | None = Field(None, description="HTML in it becomes plain text.", examples=["description"])
    brand: FieldNames | None = Field(None, examples=["brand"])
    category: FieldNames | None = Field(
        None, description="A category's name or slug; an unknown one counts as the merchant's own.", examples=["type"]
    )
    url: FieldNames | None = Field(None, examples=[["link", "mobile_link"]])
    image_url: FieldNames | None = Field(None, examples=["image"])
    price: FieldNames | None = Field(
        None,
        description="An amount as people write it (`105.29 USD`, `1.299,00`, `Rs 1,299`), a number, or an object"
        ' `{"amount_minor": 1250, "currency": "PKR"}`.',
        examples=["price"],
    )
    sale_price: FieldNames | None = Field(
        None, description="Counts instead of the price when it is above zero and not above the price."
    )
    sale_period: FieldNames | None = Field(
        None, description="When the sale price counts: two ISO 8601 times with a slash between; empty: always."
    )
    price_max: FieldNames | None = Field(None, description="The dearest variant's price.", examples=["price_max"])
    currency: FieldNames | None = Field(None, examples=["currency"])
    available: FieldNames | None = Field(
        None,
        description="True, false, `in stock`, `out of stock` and the like, how many there are, or a word of"
        " `availability_words`.",
        examples=["in_stock"],
    )


class Fields(OptionalFields):
    """The same with what every offer must have."""

    external_id: FieldNames
    title: FieldNames
    price: FieldNames


class AvailabilityWords(RequestModel):
    """What the feed's own words say about availability, beside those that are always known; capitals do not matter."""

    yes: Words = Field(examples=[["auf lager"]])
    no: Words = Field(examples=[["ausverkauft"]])

    @model_validator(mode="after")
    def _mean_one_thing(self) -> Self:
        if both := set(self.yes) & set(self.no):
            raise ValueError(f"{min(both)!r} cannot mean yes and no")
        return self


class Delta(RequestModel):
    """The feed holds changes only: what it does not name stays as it is. Each row says what became of its offer."""

    field: FieldName = Field(description="Where a row has its action.", examples=["modification"])
    delete: Words = Field(["d", "delete", "deleted"])
    upsert: Words = Field(["i", "u", "a", "c", "insert", "update", "add", "change"])


class _Paging(RequestModel):
    total: FieldName | None = Field(
        None,
        description="Where a page says how many items there are in all; a feed that ends with fewer than 99 % of them"
        " is refused.",
        examples=["_meta.count"],
    )


class NextUrlPaging(_Paging):
    """Each page names the next one's address; without it the page was the last."""

    kind: Literal["next_url"]
    path: FieldName = Field("next", description="Where the address is in the page.")


class LinkHeaderPaging(_Paging):
    """The answer's `Link` header names the next page as `rel="next"` (RFC 8288); without it the page was the last."""

    kind: Literal["link_header"]


class PageNumberPaging(_Paging):
    """Pages are counted in a query parameter; the first one without items ends the feed."""

    kind: Literal["page"]
    parameter: FieldName = "page"
    first: int = Field(1, ge=0, le=1)
    pages: FieldName | None = Field(
        None, description="Where a page says how many pages there are; none is asked for beyond."
    )


class OffsetPaging(_Paging):
    """A query parameter counts items; a page without items, or the `total`, ends the feed."""

    kind: Literal["offset"]
    parameter: FieldName = "offset"
    size_parameter: FieldName | None = Field("limit", description="The parameter that takes the page's size.")
    size: int = Field(100, ge=1, le=10_000, description="Items a page.")


class CursorPaging(_Paging):
    """Each page holds a token that asks for the next; without it the page was the last."""

    kind: Literal["cursor"]
    path: FieldName = Field("next_cursor", description="Where the token is in the page.")
    parameter: FieldName = Field("cursor", description="The query parameter that takes it.")


Paging = Annotated[
    NextUrlPaging | LinkHeaderPaging | PageNumberPaging | OffsetPaging | CursorPaging, Field(discriminator="kind")
]


class Mapping(RequestModel):
    """What every format has."""

    fields: Fields
    url_template: UrlTemplate | None = None
    currency: Currency | None = Field(None, description="Of prices without one; default: the merchant's.")
    price_unit: PriceUnit = PriceUnit.MAJOR
    decimal: Literal[".", ","] | None = Field(
        None, description="The sign before a price's decimals; null: told by each price, and refused where it cannot."
    )
    availability_words: AvailabilityWords | None = None
    group_by: FieldNames | None = Field(
        None,
        description="Rows with the same value here are variants of one offer: the first of each text, the range of"
        " their prices. Rows that are not next to each other are found by the same external_id.",
    )
    delta: Delta | None = None
    paging: Paging | None = None
    member: FieldName | None = Field(
        None, description="Of a zip archive, which file; default: the only one.", examples=["products.csv"]
    )

    @model_validator(mode="after")
    def _offers_are_complete(self) -> Self:
        if self.fields.url is None and self.url_template is None:
            raise ValueError("either fields.url or url_template is needed")
        if self.delta is not None and self.group_by is not None:
            raise ValueError("a delta cannot have variants: it does not name those that did not change")
        return self


class _WithoutEnvelope(Mapping):
    """A format of rows alone: its pages can say nothing about themselves."""

    @model_validator(mode="after")
    def _pages_say_nothing(self) -> Self:
        if isinstance(self.paging, NextUrlPaging | CursorPaging):
            raise ValueError("next_url and cursor are read from pages; this format allows link_header, page, offset")  # noqa: TRY004 - pydantic's own way
        if self.paging is not None and (self.paging.total or getattr(self.paging, "pages", None)):
            raise ValueError("paging.total and paging.pages are read from pages, which this format does not allow")
        return self


class CsvMapping(_WithoutEnvelope):
    """Delimited text: a header line, then a row a line; or rows between a header and a trailer record."""

    delimiter: Delimiter | None = Field(None, description="Default: the one that yields the mapping's columns.")
    encoding: Encoding = Field("utf-8", description="A byte order mark in the file says it better.")
    quoted: bool = Field(default=True, description="Whether double quotes enclose values.")
    columns: Annotated[list[SafeText], Field(min_length=1, max_length=200)] | None = Field(
        None, description="The columns' names, in a file without a header line; further columns are passed over."
    )
    header_record: Marker | None = Field(
        None, description="First value of a record before everything else.", examples=["HDR"]
    )
    trailer_record: Marker | None = Field(
        None, description="First value of the last record; a file without it is cut short.", examples=["TRL"]
    )
    trailer_count: int = Field(
        1, ge=1, le=20, description="Which value of the trailer, from 0, is the number of rows; it is checked."
    )

    @model_validator(mode="after")
    def _names_need_a_delimiter(self) -> Self:
        if self.delimiter is None and (self.columns or self.header_record):
            raise ValueError(
                "columns and header_record need a delimiter: it is found in a header line that comes first"
            )
        return self


class JsonMapping(Mapping):
    """JSON: one document or pages of them, each with an array of items."""

    items_path: ItemsPath = Field("", description="Dotted path of the array; empty: the document is the array.")


class NdjsonMapping(_WithoutEnvelope):
    """A JSON object a line."""


class XmlMapping(Mapping):
    """XML: one document or pages of them. Names are as in the file, prefix included: `g:price`, `link.@href`."""

    items_path: Annotated[SafeText, StringConstraints(min_length=1, max_length=200)] = Field(
        description="Dotted path of the items' elements, from the root.", examples=["rss.channel.item"]
    )


AnyMapping = CsvMapping | JsonMapping | NdjsonMapping | XmlMapping


class MappingWrite(RequestModel):
    """A preset and what is different, or a whole mapping. Members of another format are refused."""

    preset: FeedPreset | None = None
    fields: OptionalFields | None = None
    url_template: UrlTemplate | None = None
    currency: Currency | None = None
    price_unit: PriceUnit | None = None
    decimal: Literal[".", ","] | None = None
    availability_words: AvailabilityWords | None = None
    group_by: FieldNames | None = None
    delta: Delta | None = None
    paging: Paging | None = None
    member: FieldName | None = None
    delimiter: Delimiter | None = None
    encoding: Encoding | None = None
    quoted: bool | None = None
    columns: Annotated[list[SafeText], Field(min_length=1, max_length=200)] | None = None
    header_record: Marker | None = None
    trailer_record: Marker | None = None
    trailer_count: int | None = None
    items_path: ItemsPath | None = None

    def given(self) -> dict[str, Any]:
        """Return the members that were sent, without the preset."""
        return self.model_dump(mode="json", exclude_unset=True, exclude={"preset"})
