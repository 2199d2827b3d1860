"""Sources as staff manage them. A secret is in an answer once, when it is made."""

from pydantic import ConfigDict, Field

from app.models import SourceKind, SourceStatus
from app.schemas.admin_catalogue import Name, ParameterName, absent
from app.schemas.common import Page, RequestModel, ResponseModel, UtcTime


class SourceCreate(RequestModel):
    """A new source of sales."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Khaadi direct", "kind": "direct"}]})

    name: Name
    kind: SourceKind
    subid_parameter: ParameterName | None = Field(
        None,
        description="Query parameter of a click-out that carries our click id; default: `click_id` for direct,"
        " `clickref` for Awin.",
    )


class SourceChange(RequestModel):
    """What to change; a member that is absent stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "disabled"}]})

    name: Name = Field(default_factory=absent)
    status: SourceStatus = Field(default_factory=absent)
    subid_parameter: ParameterName = Field(default_factory=absent)


class SourceRead(ResponseModel):
    """A source. Neither its secrets nor its address are shown."""

    id: int = Field(examples=[1])
    name: str = Field(examples=["Khaadi direct"])
    kind: SourceKind
    status: SourceStatus
    subid_parameter: str = Field(examples=["click_id"])
    created_at: UtcTime


class SourceDetail(SourceRead):
    """A source with the address it posts to, which is all that protects an unsigned one."""

    webhook_path: str = Field(examples=["/v1/webhooks/5mY0Vd3q..."])
    webhook_url: str = Field(examples=["https://api.example/v1/webhooks/5mY0Vd3q..."])
    live_secrets: int = Field(description="Signing secrets that are accepted; 0 for an unsigned kind.", examples=[1])


class SourceWithSecret(SourceDetail):
    """A source with the secret that was just made. It cannot be had again."""

    secret: str | None = Field(
        description="Standard Webhooks signing secret; null for an unsigned kind.",
        examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
    )


SourcePage = Page[SourceRead]
