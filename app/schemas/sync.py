"""Sync jobs as staff see them."""

from uuid import UUID

from pydantic import Field

from app.models import SyncStatus
from app.schemas.common import Page, ResponseModel, UtcTime

_JOB_ID = "0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e"


class SyncReceipt(ResponseModel):
    """The merchant's sync: a new one, or the one that has not finished yet."""

    job_id: UUID = Field(validation_alias="id", examples=[_JOB_ID])
    status: SyncStatus = Field(examples=["queued"])


class SyncJob(SyncReceipt):
    """One sync of one merchant. At its end `fetched` is created + updated + unchanged + rejected."""

    merchant_id: int = Field(examples=[42])
    fetched: int = Field(description="Offers and rejected rows read so far.", examples=[50_000])
    created: int = Field(examples=[120])
    updated: int = Field(description="Changed, or back after they were removed.", examples=[800])
    unchanged: int = Field(examples=[49_070])
    removed: int = Field(description="No longer in the feed, or deleted by a delta.", examples=[35])
    rejected: int = Field(description="Rows that could not be used.", examples=[10])
    started_at: UtcTime | None
    finished_at: UtcTime | None
    error: str | None = Field(
        description="Why it failed, or (while queued or running) what went wrong in the try before.", examples=[None]
    )


class RejectedRow(ResponseModel):
    """A row that could not be used."""

    row: int = Field(description="Its number in the feed, from 1, a header not counted.", examples=[7])
    reason: str = Field(examples=["price '1.299' may be 1.299 or 1299 USD; set decimal in the mapping"])


class SyncJobDetail(SyncJob):
    """A sync with the first of its rejected rows."""

    rejected_samples: list[RejectedRow]


SyncJobPage = Page[SyncJob]
