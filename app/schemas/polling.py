"""The polling of a source, as staff set it, see it and try it. Credentials are never shown."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints

from app.models import FeedCredentialsKind
from app.schemas.common import RequestModel, ResponseModel, SafeText, UtcTime
from app.schemas.dry_run import DryEvent
from app.schemas.feeds import BasicCredentials, BearerCredentials, HeaderCredentials, QueryCredentials
from app.schemas.source_definitions import SourceDefinition

PollCredentials = Annotated[
    BasicCredentials | BearerCredentials | HeaderCredentials | QueryCredentials, Field(discriminator="kind")
]
ValueName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Value = Annotated[SafeText, StringConstraints(min_length=1, max_length=200)]
PassName = Annotated[str, StringConstraints(max_length=30)]


class PollingWrite(RequestModel):
    """What a source's polling needs beside its definition."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"values": {"publisher_id": "12345"}, "credentials": {"kind": "bearer", "token": "not-a-real-token"}}
            ]
        }
    )

    values: dict[ValueName, Value] = Field({}, max_length=20, description="For the placeholders of its requests.")
    credentials: PollCredentials | None = Field(
        None,
        description="Sent to the host of the definition's `url` only; kept encrypted. Leave it out to keep what is set,"
        " null removes it.",
    )
    interval_seconds: int | None = Field(
        None, ge=60, le=7 * 86_400, description="Time from one poll to the next; default: the definition's."
    )
    enabled: bool = Field(default=True, description="False: paused.")


class PollingChange(RequestModel):
    """Pause, or go on."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"enabled": False}]})

    enabled: bool


class PollingRead(ResponseModel):
    """How the polling of a source stands."""

    source_id: int = Field(examples=[1])
    enabled: bool
    is_running: bool = Field(description="Whether a worker has it now.")
    interval_seconds: int = Field(examples=[3600])
    values: dict[str, Any] = Field(examples=[{"publisher_id": "12345"}])
    missing: list[str] = Field(
        description="What must be set before it can be polled: names of values, or `credentials`.", examples=[[]]
    )
    credentials_kind: FeedCredentialsKind | None
    next_poll_at: UtcTime
    last_attempt_at: UtcTime | None
    last_success_at: UtcTime | None
    failures: int = Field(description="In a row, since it last succeeded.", examples=[0])
    last_error: str | None = Field(examples=[None])
    watermarks: dict[str, datetime] = Field(
        description="Up to when each pass has asked.", examples=[{"transactions": "2026-11-25T10:00:00Z"}]
    )
    fetched: int = Field(description="Items that the present or else the last poll fetched.", examples=[120])
    added: int = Field(description="Events that these made; the others said nothing new.", examples=[3])
    has_unfinished: bool = Field(description="Whether the next poll goes on where one had to stop.")


class PollDryRun(RequestModel):
    """Which page to try: the first one of the last so many hours."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"hours": 24}]})

    hours: int = Field(24, ge=1, le=24 * 31)
    polling_pass: PassName | None = Field(None, alias="pass", description="Default: the definition's first.")
    definition: SourceDefinition | None = Field(
        None, description="To be tried in place of the present version; its `url` must be at the same host."
    )


class PollTrial(ResponseModel):
    """What a page of a source holds. Nothing of it was kept."""

    items: int = Field(description="Items, or parts of them, on the page.", examples=[2])
    has_next_page: bool
    events: list[DryEvent] = Field(description="The first ones, as they are read.")
    error: str | None = Field(description="Why a poll of this would fail.", examples=[None])
