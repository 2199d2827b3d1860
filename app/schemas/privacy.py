"""A customer's export, as the contract shows it."""

from uuid import UUID

from pydantic import Field

from app.models import ExportStatus
from app.schemas.common import RequestModel, ResponseModel, UtcTime
from app.schemas.customers import CurrentPassword


class ExportRequest(RequestModel):
    """The password once more: an export holds everything."""

    password: CurrentPassword


class ExportRead(ResponseModel):
    """How an export stands."""

    id: UUID = Field(examples=["0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e"])
    status: ExportStatus = Field(examples=[ExportStatus.READY])
    requested_at: UtcTime = Field(examples=["2026-01-31T12:00:00Z"])
    ready_at: UtcTime | None = Field(examples=["2026-01-31T12:00:05Z"])
    expires_at: UtcTime | None = Field(
        description="Until then it can be downloaded.", examples=["2026-02-07T12:00:05Z"]
    )
    size_bytes: int | None = Field(description="Of the ZIP file.", examples=[48_211])
