"""Sources as staff manage them. A secret is in an answer once, when it is set."""

from typing import Annotated, Self

from pydantic import ConfigDict, Field, PlainSerializer, model_validator

from app.models import SourceStatus
from app.schemas.admin_catalogue import Name, absent
from app.schemas.common import ExactText, Page, RequestModel, ResponseModel, UtcTime
from app.schemas.source_definitions import SourceDefinition

# Shown as it was written: what is not there has its default.
ShownDefinition = Annotated[
    SourceDefinition,
    PlainSerializer(lambda definition: definition.model_dump(mode="json", by_alias=True, exclude_defaults=True)),
]
_SECRET = Field(
    None,
    min_length=8,
    max_length=500,
    description="A secret that the source has chosen; without it one is made.",
    examples=["a-key-that-the-network-shows"],
)


class SourceCreate(RequestModel):
    """A new source of sales: a copy of a preset, or a definition of its own."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Khaadi direct", "preset": "direct"}]})

    name: Name
    preset: str | None = Field(None, max_length=100, description="A name from `/v1/admin/source-presets`.")
    definition: SourceDefinition | None = None
    secret: ExactText | None = _SECRET

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.preset is None) == (self.definition is None):
            raise ValueError("either preset or definition")
        return self


class SourceChange(RequestModel):
    """What to change; a member that is absent stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "disabled"}]})

    name: Name = Field(default_factory=absent)
    status: SourceStatus = Field(default_factory=absent)


class SecretWrite(RequestModel):
    """The next secret."""

    secret: ExactText | None = _SECRET


class SourceRead(ResponseModel):
    """A source. Neither its secrets nor its address are shown."""

    id: int = Field(examples=[1])
    name: str = Field(examples=["Khaadi direct"])
    preset: str | None = Field(description="What it was made from; it may have changed since.", examples=["direct"])
    status: SourceStatus
    subid_parameter: str = Field(examples=["click_id"])
    created_at: UtcTime


class SourceDetail(SourceRead):
    """A source with the address it posts to, which is all that protects an unsigned one."""

    webhook_path: str = Field(examples=["/v1/webhooks/5mY0Vd3q..."])
    webhook_url: str = Field(examples=["https://api.example/v1/webhooks/5mY0Vd3q..."])
    live_secrets: int = Field(description="Secrets that are accepted; 0 where none is needed.", examples=[1])
    version: int = Field(description="Number of the definition's present version.", examples=[1])
    definition: ShownDefinition


class SourceWithSecret(SourceDetail):
    """A source with the secret that was just set. It cannot be had again."""

    secret: str | None = Field(
        description="What the source proves its requests with; null when none was set.",
        examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
    )


class SourceVersionRead(ResponseModel):
    """What a source was from a moment on."""

    number: int = Field(examples=[2])
    definition: ShownDefinition
    created_by: str | None = Field(description="The staff key; null: a command.", examples=["ops"])
    created_at: UtcTime


class SourcePreset(ResponseModel):
    """A definition that ships with the service, to be copied."""

    name: str = Field(examples=["awin"])
    title: str = Field(examples=["Awin transaction push"])
    description: str = Field(description="What its network does, and what to set there.")
    definition: ShownDefinition


SourcePage = Page[SourceRead]
SourceVersionPage = Page[SourceVersionRead]
SourcePresetPage = Page[SourcePreset]
