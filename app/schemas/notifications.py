"""Notification endpoints and deliveries, as staff see them."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, ConfigDict, Field, StringConstraints

from app.models import DeliveryStatus, EndpointStatus
from app.schemas.admin_catalogue import HttpUrl, absent
from app.schemas.common import RequestModel, ResponseModel, SafeText, UtcTime

TopicName = Literal["order", "wallet", "payout", "alert"]
Topics = Annotated[
    set[TopicName],
    Field(min_length=1, description="Kinds of events: `order` for `order.approved` and all others of its kind."),
]
EndpointDescription = Annotated[SafeText, StringConstraints(max_length=500)]


class EndpointCreate(RequestModel):
    """Another system that wants to be told."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"url": "https://backend.example/cashback", "topics": ["order", "payout"]}]}
    )

    url: HttpUrl
    topics: Topics
    description: EndpointDescription = ""


class EndpointChange(RequestModel):
    """What to change; a member that is absent stays. Disabling gives up what is on its way."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "disabled"}]})

    url: HttpUrl = Field(default_factory=absent)
    topics: Topics = Field(default_factory=absent)
    description: EndpointDescription = Field(default_factory=absent)
    status: EndpointStatus = Field(default_factory=absent)


class EndpointRead(ResponseModel):
    """An endpoint."""

    id: UUID
    url: str = Field(examples=["https://backend.example/cashback"])
    description: str
    topics: list[TopicName]
    status: EndpointStatus
    disabled_reason: str | None = Field(description="Why we disabled it ourselves.", examples=[None])
    created_at: UtcTime
    updated_at: UtcTime


class EndpointWithSecret(EndpointRead):
    """An endpoint with the secret that was just made. It cannot be had again."""

    secret: str = Field(
        description="Standard Webhooks signing secret.", examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
    )


class DeliveryRead(ResponseModel):
    """One notification on its way to one endpoint, with what its last try ended with."""

    id: UUID
    notification_id: UUID = Field(description="The `webhook-id` that the endpoint sees.")
    endpoint_id: UUID
    type: str = Field(examples=["order.approved"])
    data: dict[str, Any]
    status: DeliveryStatus
    tries: int
    next_attempt_at: UtcTime | None
    last_status_code: int | None = Field(examples=[503])
    last_error: str | None = Field(examples=["answered 503"])
    last_attempt_at: UtcTime | None
    delivered_at: UtcTime | None
    created_at: UtcTime


class ReplayRequest(RequestModel):
    """A period whose notifications shall be sent again: `[since, until)`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"since": "2026-01-31T00:00:00Z"}]})

    since: AwareDatetime
    until: AwareDatetime | None = None


class ReplayRead(ResponseModel):
    """What a replay queued."""

    queued: int
    complete: bool = Field(description="Whether that was all; otherwise ask again with `since` at `last_at`.")
    last_at: UtcTime | None
