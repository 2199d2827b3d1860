"""What a source is, as data: how it proves who it is, how its payload arrives, and where our fields are in it.

The same model checks what staff write, what ships as a preset (`app/presets/sources/`) and what a version keeps.
"""

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from app.models import ReportKind
from app.schemas.admin_catalogue import ParameterName
from app.schemas.source_authentication import Authentication, DefinitionModel, HmacAuthentication, PayloadName, by_kind
from app.schemas.source_fields import AmountField, Path, ShortText, TextField, TimeField
from app.schemas.source_polling import Polling


def _read_network(value: object) -> IPv4Network | IPv6Network:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str):
        raise ValueError("must be an address or a network, as 192.0.2.0/24")  # noqa: TRY004 - pydantic's own protocol
    return ip_network(value)


Network = Annotated[
    IPv4Network | IPv6Network,
    BeforeValidator(_read_network, json_schema_input_type=str),
    PlainSerializer(str, return_type=str),
]


class Mapping(DefinitionModel):
    """Where each of our fields is."""

    order_reference: TextField = Field(description="The order's number at the source.")
    click_reference: TextField | None = Field(None, description="The click id that the click-out carried.")
    status: TextField | None = Field(None, description="Looked up in `statuses`; without it every event is a sale.")
    amount: AmountField | None = Field(None, description="The sale.")
    commission: AmountField | None = Field(None, description="What the source owes for it.")
    currency: TextField | None = Field(None, description="ISO 4217, of both amounts.")
    amount_currency: TextField | None = Field(None, description="If the payload has it: must be the currency.")
    commission_currency: TextField | None = Field(None, description="If the payload has it: must be the currency.")
    occurred_at: TimeField | None = Field(
        None, description="When what is reported happened; reports of an order are taken in this order."
    )
    ordered_at: TimeField | None = Field(None, description="When the order was placed, if that is another time.")
    part: TextField | None = Field(None, description="The part of an order that is approved by itself.")
    network_merchant_ref: TextField | None = Field(None, description="The merchant's name at a network.")
    event_id: TextField | None = Field(
        None, description="Tells a repeat from a new event; default: the SHA-256 of the payload."
    )


class Reading(DefinitionModel):
    """How one reported event is understood."""

    mapping: Mapping
    statuses: dict[ShortText, ReportKind | Literal["ignore"]] = Field(
        {}, max_length=50, description="What each status means; `ignore` keeps the event and takes nothing from it."
    )
    unknown_status: Literal["reject", "ignore"] = "reject"
    sign_rule: Literal["status", "delta"] = Field(
        "status",
        description="`status`: amounts are those of the order as it is then. `delta`: rows add up, and one below zero"
        " takes back.",
    )
    undated: Literal["arrival", "by_status"] = Field(
        "arrival",
        description="Order of reports without a time: as they arrive, or created, approved, declined, returned.",
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.mapping.status is None) != (not self.statuses):
            raise ValueError("mapping.status and statuses need each other")
        if self.sign_rule == "delta":
            if self.mapping.part is not None:
                raise ValueError("mapping.part: the rows of a delta network add up over the whole order")
            if self.mapping.amount is None or self.mapping.commission is None:
                raise ValueError("mapping: a delta network needs amount and commission")
        return self


class QueryFormat(DefinitionModel):
    """The query string: a GET, or a POST without a body."""

    kind: Literal["query"]


class FormFormat(DefinitionModel):
    """A form: each field is a member; of several values the first."""

    kind: Literal["form"]


class FormJsonFormat(DefinitionModel):
    """A form with one field that holds JSON."""

    kind: Literal["form_json"]
    field: PayloadName = Field(examples=["payload"])


class JsonFormat(DefinitionModel):
    """JSON, whatever the content type says, unless it is a form's."""

    kind: Literal["json"]


PayloadFormat: TypeAlias = Annotated[
    Annotated[QueryFormat | FormFormat | FormJsonFormat | JsonFormat, Field(discriminator="kind")],
    BeforeValidator(
        by_kind,
        json_schema_input_type=Literal["query", "form", "json"]
        | QueryFormat
        | FormFormat
        | FormJsonFormat
        | JsonFormat,
    ),
]


class Transport(DefinitionModel):
    """How the payload arrives."""

    accepts: list[PayloadFormat] = Field(min_length=1, max_length=4, examples=[[{"kind": "json"}]])
    events: Path | None = Field(None, description="In a body with several events: the list of them.")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.kinds)) < len(self.accepts):
            raise ValueError("accepts: each kind once")
        return self

    @property
    def kinds(self) -> list[str]:
        """The kinds of payload that are understood."""
        return [one.kind for one in self.accepts]


class SourceDefinition(DefinitionModel):
    """A source as data. Each edit is a new version; an event remembers the one that read it."""

    authentication: Authentication
    allowed_networks: list[Network] = Field(
        [], max_length=200, description="Addresses it may send from, as CIDR; empty: any."
    )
    transport: Transport
    reading: Reading
    polled: Reading | None = Field(None, description="How an event reads that we fetched from the source instead.")
    polling: Polling | None = Field(None, description="How events are fetched from the source, if they are.")
    subid_parameter: ParameterName = Field(
        description="Query parameter of a click-out that carries our click id.", examples=["clickref"]
    )

    @property
    def is_signed(self) -> bool:
        """Whether the payload is proven, so that what it says needs no fence."""
        return self.authentication.kind == "standard_webhooks" or (
            isinstance(self.authentication, HmacAuthentication) and self.authentication.covers("body", "query", "url")
        )

    @property
    def needs_secret(self) -> bool:
        """Whether requests are proven with a secret."""
        return self.authentication.kind not in {"none", "closed"}

    @model_validator(mode="after")
    def _proof_covers_the_payload(self) -> Self:
        kinds = set(self.transport.kinds)
        match self.authentication:
            case HmacAuthentication() as hmac:
                if "query" in kinds and not hmac.covers("query", "url") and self.is_signed:
                    raise ValueError("transport.accepts: the signature does not cover a query")
                if kinds - {"query"} and not hmac.covers("body") and self.is_signed:
                    raise ValueError("transport.accepts: the signature does not cover a body")
            case _ if self.authentication.kind == "standard_webhooks" and "query" in kinds:
                raise ValueError("transport.accepts: Standard Webhooks sign a body, not a query")
            case _:
                pass
        told_apart = self.authentication.kind == "standard_webhooks" or self.reading.mapping.event_id is not None
        if self.reading.sign_rule == "delta" and not told_apart:
            raise ValueError("reading.mapping.event_id: a delta network needs it, else a repeat would count twice")
        return self

    @model_validator(mode="after")
    def _polled_items_are_told_apart(self) -> Self:
        if self.polling is not None and (self.polled or self.reading).mapping.event_id is None:
            raise ValueError("polled.mapping.event_id: needed, since what is polled is polled again")
        if self.authentication.kind == "closed" and self.polling is None:
            raise ValueError("authentication: a closed source needs polling, else nothing ever comes from it")
        return self
