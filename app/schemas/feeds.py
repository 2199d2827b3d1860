"""A merchant's feed as staff set it: its address and credentials, how it is read, its schedule and its limits."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Base64Bytes, ConfigDict, Field, SecretStr, StringConstraints, model_validator

from app.models import FeedCredentialsKind, FeedFormat
from app.schemas.common import Money, RequestModel, ResponseModel, SafeText, UtcTime
from app.schemas.feed_mappings import FeedPreset, MappingWrite
from app.schemas.sync import RejectedRow
from app.urls import is_http_url

# Base64 makes a third more of it, and a request's body is limited.
MAX_SAMPLE_BYTES = 524_288
# They say where a request goes, where it ends, and what comes back.
_OUR_HEADERS = frozenset(
    {"host", "connection", "transfer-encoding", "te", "trailer", "upgrade", "range", "expect", "accept-encoding"}
)


def _require_http_url(value: str) -> str:
    if not is_http_url(value):
        raise ValueError("must be an http or https URL with a host")
    return value


def _require_free_header(name: str) -> str:
    if name.lower() in _OUR_HEADERS or name.lower().startswith(("content-", "if-", "proxy-")):
        raise ValueError("is a header that the request needs for itself")
    return name


def _require_header_value(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text.isascii() or not text.isprintable():
        raise ValueError("must be of visible ASCII characters")
    return value


FeedUrl = Annotated[
    SafeText,
    StringConstraints(max_length=2048),
    AfterValidator(_require_http_url),
    Field(
        description="An http or https address. A user name and password in it become `credentials`; `{secret}` in it"
        " stands for the value of credentials of the kind `path`.",
        examples=["https://shop.example/feed.json"],
    ),
]
Secret = Annotated[SecretStr, Field(min_length=1, max_length=1024)]
HeaderSecret = Annotated[Secret, AfterValidator(_require_header_value)]
HeaderName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$"), AfterValidator(_require_free_header)
]


class BasicCredentials(RequestModel):
    """User name and password, sent as Basic authentication."""

    kind: Literal["basic"]
    username: Annotated[SafeText, StringConstraints(max_length=255, pattern="^[^:]*$")]
    password: Annotated[SecretStr, Field(max_length=1024)]


class BearerCredentials(RequestModel):
    """A token, sent as `Authorization: Bearer ...`."""

    kind: Literal["bearer"]
    token: HeaderSecret


class HeaderCredentials(RequestModel):
    """A header of the server's own."""

    kind: Literal["header"]
    name: HeaderName = Field(examples=["X-Api-Key"])
    value: HeaderSecret


class QueryCredentials(RequestModel):
    """A query parameter."""

    kind: Literal["query"]
    name: Annotated[SafeText, StringConstraints(min_length=1, max_length=64)] = Field(examples=["apikey"])
    value: Secret


class PathCredentials(RequestModel):
    """What `{secret}` in the feed's address stands for."""

    kind: Literal["path"]
    value: Secret


FeedCredentials = Annotated[
    BasicCredentials | BearerCredentials | HeaderCredentials | QueryCredentials | PathCredentials,
    Field(discriminator="kind"),
]


class FeedLimits(RequestModel):
    """Limits of one feed; null: the service's own, which are also the most that a feed may have."""

    max_bytes: int | None = Field(None, ge=1024, description="Decompressed size; default and most: FEED_MAX_BYTES.")
    max_rows: int | None = Field(None, ge=1, description="Default and most: FEED_MAX_ROWS.")
    max_seconds: int | None = Field(None, ge=1, description="Of one sync; default and most: FEED_MAX_SECONDS.")
    calls_a_minute: int | None = Field(
        None,
        ge=1,
        le=6000,
        description="Requests to the feed's host, shared by all feeds that are there; null: as fast as it answers.",
        examples=[25],
    )


class FeedWrite(FeedLimits):
    """A merchant's feed as staff set it."""

    url: FeedUrl
    credentials: FeedCredentials | None = Field(
        None,
        description="Sent to the host of `url` only; kept encrypted and never shown. Leave it out to keep what is set,"
        " null removes it.",
    )
    format: FeedFormat | None = Field(None, description="Default: the preset's.")
    mapping: MappingWrite
    enabled: bool = Field(default=True, description="Whether it is synced by itself; by hand it always can be.")
    interval_seconds: int = Field(86_400, ge=60, le=30 * 86_400, description="Time from one sync to the next.")
    max_loss_basis_points: int = Field(
        3000, ge=0, le=10_000, description="A sync that would remove or reject a larger share changes nothing."
    )


class FeedRead(ResponseModel):
    """A merchant's feed, its mapping complete."""

    merchant_id: int = Field(examples=[42])
    url: str = Field(examples=["https://shop.example/feed.json"])
    credentials_kind: FeedCredentialsKind | None = Field(description="Which credentials are set; they are not shown.")
    format: FeedFormat
    mapping: dict[str, Any] = Field(
        examples=[{"fields": {"external_id": "id", "title": "title", "price": "price", "url": "link"}}]
    )
    enabled: bool
    interval_seconds: int = Field(examples=[86_400])
    next_sync_at: UtcTime
    max_loss_basis_points: int = Field(examples=[3000])
    max_bytes: int | None = Field(examples=[None])
    max_rows: int | None = Field(examples=[None])
    max_seconds: int | None = Field(examples=[None])
    calls_a_minute: int | None = Field(examples=[25])
    updated_at: UtcTime


class FeedPresetRead(ResponseModel):
    """A mapping that ships with the service."""

    name: FeedPreset
    about: str = Field(examples=["A Google Merchant feed as RSS 2.0."])
    format: FeedFormat
    mapping: dict[str, Any] = Field(examples=[{"items_path": "rss.channel.item"}])


class FeedPresetList(ResponseModel):
    """All presets."""

    items: list[FeedPresetRead]


class FeedTry(RequestModel):
    """A sample of a feed, and how to read it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "content": "id,title,price,link\n1,Mug,Rs 1299,https://shop.example/1\n",
                    "format": "csv",
                    "mapping": {"fields": {"external_id": "id", "title": "title", "price": "price", "url": "link"}},
                }
            ]
        }
    )

    content: Annotated[str, StringConstraints(max_length=MAX_SAMPLE_BYTES)] | None = Field(
        None, description="The sample as text."
    )
    content_base64: Base64Bytes | None = Field(
        None,
        description="The sample's bytes, such as of a zip or in another encoding. Either this or `content`.",
        max_length=MAX_SAMPLE_BYTES,
    )
    format: FeedFormat | None = None
    mapping: MappingWrite | None = Field(None, description="Default: that of the merchant's feed.")

    @model_validator(mode="after")
    def _has_one_sample(self) -> Self:
        if (self.content is None) == (self.content_base64 is None):
            raise ValueError("give either content or content_base64")
        return self

    @property
    def sample(self) -> bytes:
        """The sample's bytes."""
        return self.content_base64 if self.content_base64 is not None else (self.content or "").encode()


class TriedOffer(ResponseModel):
    """An offer as a sync would store it."""

    row: int = Field(description="The number of its row, or of the first.", examples=[1])
    external_id: str = Field(examples=["1"])
    title: str = Field(examples=["Mug"])
    description: str = Field(examples=[""])
    brand: str | None = Field(examples=[None])
    category: str | None = Field(description="Slug; one that is not known counts as the merchant's.", examples=["mugs"])
    url: str = Field(examples=["https://shop.example/1"])
    image_url: str | None = Field(examples=[None])
    price: Money
    price_max: Money
    available: bool


class FeedTrial(ResponseModel):
    """What a sync would make of a sample. Nothing is stored."""

    format: FeedFormat
    rows: int = Field(description="Rows read.", examples=[1])
    offers: list[TriedOffer] = Field(description="The first offers.")
    offer_count: int = Field(examples=[1])
    never_filled: list[str] = Field(
        description="Fields of the mapping that no row had a value for: is their name right?", examples=[["brand"]]
    )
    deleted: list[str] = Field(description="Of a delta, the first ids of offers that it takes out.", examples=[[]])
    rejected: int = Field(examples=[0])
    rejected_samples: list[RejectedRow]
    next_page: str | None = Field(description="What would be fetched next, in a feed of pages.", examples=[None])
    error: str | None = Field(
        description="Why a sync of this would fail as a whole, and from where on nothing was read.", examples=[None]
    )
