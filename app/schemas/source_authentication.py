"""How a source proves who it is: part of its definition (`source_definitions.py`).

Only `standard_webhooks` and `hmac` prove the payload. The others show a secret that anybody who saw it could show
again, so what they report stays fenced like that of a source which proves nothing.
"""

import re
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from app.schemas.common import ExactText, RequestModel, SafeText

HeaderName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$", to_lower=True), Field(examples=["x-signature"])
]
# A query parameter or form field, as networks name them.
PayloadName = Annotated[SafeText, StringConstraints(min_length=1, max_length=100)]
Prefix = Annotated[str, StringConstraints(max_length=40, pattern=r"^[\x21-\x7e ]*$")]
SignedKind = Literal["body", "query", "url", "path", "method", "timestamp"]


def by_kind(value: Any) -> Any:  # noqa: ANN401 - runs before the type is known
    """Let a kind without members be written as its name alone."""
    return {"kind": value} if isinstance(value, str) else value


class DefinitionModel(RequestModel):
    """A part of a definition. It never changes: an edit makes a new version."""

    model_config = ConfigDict(frozen=True, validate_by_name=True, validate_by_alias=True)


class RequestPart(DefinitionModel):
    """A part of the request itself. `url` is the public address with its query, `timestamp` what `timestamp` names."""

    kind: SignedKind


class HeaderPart(DefinitionModel):
    """The value of a header."""

    kind: Literal["header"]
    name: HeaderName


class ParameterPart(DefinitionModel):
    """The first value of a query parameter or form field, decoded; nothing where it is missing."""

    kind: Literal["parameter"]
    name: PayloadName


class LiteralPart(DefinitionModel):
    """A fixed text, such as the dot between two parts."""

    kind: Literal["literal"]
    text: ExactText = Field(min_length=1, max_length=50, examples=["."])


SignedPart: TypeAlias = Annotated[
    Annotated[RequestPart | HeaderPart | ParameterPart | LiteralPart, Field(discriminator="kind")],
    BeforeValidator(
        by_kind, json_schema_input_type=SignedKind | RequestPart | HeaderPart | ParameterPart | LiteralPart
    ),
]


class SignedTime(DefinitionModel):
    """A unix time that is signed too, so that an old request cannot be sent again."""

    header: HeaderName
    prefix: Prefix = Field("", description="What stands before it, as `t=` in `t=1764000000,v1=...`.")
    unit: Literal["seconds", "milliseconds"] = "seconds"
    tolerance_seconds: int = Field(300, ge=1, le=3600)


class StandardWebhooksAuthentication(DefinitionModel):
    """Standard Webhooks, version 1: the headers `webhook-id`, `webhook-timestamp`, `webhook-signature`.

    See https://www.standardwebhooks.com. The secret is `whsec_` and base64. Repeats are told by `webhook-id`.
    """

    kind: Literal["standard_webhooks"]


class HmacAuthentication(DefinitionModel):
    """An HMAC over chosen parts of the request, joined without anything between them."""

    kind: Literal["hmac"]
    parts: list[SignedPart] = Field(min_length=1, max_length=12, examples=[[{"kind": "body"}]])
    algorithm: Literal["sha256", "sha512", "sha1"] = "sha256"
    header: HeaderName = Field(description="Has the signature; of several, parted by commas or spaces, one must hold.")
    prefix: Prefix = Field("", description="What stands before a signature, as `sha256=`.")
    encoding: Literal["hex", "base64", "base64url"] = "hex"
    key_encoding: Literal["text", "hex", "base64"] = Field("text", description="How the secret writes the key.")
    rounds: int = Field(1, ge=1, le=2, description="2: the encoded signature is signed once more, as Fidel does.")
    timestamp: SignedTime | None = None
    live_secrets: int = Field(
        2, ge=2, le=10, description="Accepted at once: two in a rotation; more if each kind of event has its own."
    )

    @model_validator(mode="after")
    def _timestamp_is_signed(self) -> Self:
        signed = any(part.kind == "timestamp" for part in self.parts)
        if signed != (self.timestamp is not None):
            raise ValueError("a `timestamp` and a part of that kind need each other: unsigned it proves nothing")
        return self

    def covers(self, *kinds: SignedKind) -> bool:
        """Whether one of these parts is signed."""
        return any(part.kind in kinds for part in self.parts)


class TokenAuthentication(DefinitionModel):
    """A shared token that comes with each request. It is taken out before the request is kept."""

    kind: Literal["token"]
    place: Literal["header", "query", "form"] = Field(alias="in")
    name: PayloadName = Field(description="Of the header, the query parameter or the form field.")
    prefix: Prefix = Field("", description="What stands before it, as `Bearer `.")

    @model_validator(mode="after")
    def _header_has_a_headers_name(self) -> Self:
        if self.place == "header" and not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.name):
            raise ValueError("name: no header is called so")
        return self


class BasicAuthentication(DefinitionModel):
    """HTTP Basic: this user name, and the source's secret for a password."""

    kind: Literal["basic"]
    username: SafeText = Field(min_length=1, max_length=100, pattern=r"^[^:]+$")


class NoAuthentication(DefinitionModel):
    """Nothing but the unguessable address."""

    kind: Literal["none"]


class ClosedAuthentication(DefinitionModel):
    """No request proves anything: the source is only polled, and whatever is posted to its address is refused."""

    kind: Literal["closed"]


Authentication: TypeAlias = Annotated[
    Annotated[
        StandardWebhooksAuthentication
        | HmacAuthentication
        | TokenAuthentication
        | BasicAuthentication
        | NoAuthentication
        | ClosedAuthentication,
        Field(discriminator="kind"),
    ],
    BeforeValidator(
        by_kind,
        json_schema_input_type=Literal["standard_webhooks", "none", "closed"]
        | StandardWebhooksAuthentication
        | HmacAuthentication
        | TokenAuthentication
        | BasicAuthentication
        | NoAuthentication
        | ClosedAuthentication,
    ),
]
