"""Payout batches: closing one, its files, and settling what became of its payouts."""

from enum import StrEnum
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator

from app.models import PayoutMethodKind, PayoutStatus
from app.schemas.common import Currency, Money, Page, RequestModel, ResponseModel, SafeText, UtcTime

Reason = Annotated[SafeText, Field(min_length=1, max_length=500, examples=["The bank says the account is closed."])]


class BatchFileFormat(StrEnum):
    """The files of a batch."""

    CSV = "csv"
    PAIN001 = "pain001"


class PayoutBatchClose(RequestModel):
    """Which approved payouts shall go to the bank now."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"currency": "EUR", "kinds": ["iban"]}]})

    currency: Currency
    kinds: list[PayoutMethodKind] | None = Field(
        None,
        min_length=1,
        description='Only payouts to methods of these kinds; `["iban"]` gives a batch that has a pain.001.',
    )


class PayoutBatchRead(ResponseModel):
    """A closed batch: its payouts are with the bank, and its files never change."""

    id: UUID = Field(examples=["0197b2a4-75c2-7b5d-8e0f-3a5c1d7e9b20"])
    reference: str = Field(
        description="The message id inside the pain.001, and the name of both files.",
        examples=["20260201-EUR-3a5c1d7e9b20"],
    )
    payout_count: int = Field(examples=[128])
    total: Money = Field(description="Sum of what customers receive: the control sum of the files.")
    formats: list[BatchFileFormat] = Field(description="The files there are.", examples=[["csv", "pain001"]])
    pain001_missing: str | None = Field(description="Why there is no pain.001; null when there is.", examples=[None])
    created_by_id: UUID = Field(description="The staff key that closed it.")
    created_at: UtcTime = Field(examples=["2026-02-01T12:00:00Z"])


PayoutBatchPage = Page[PayoutBatchRead]


class PayoutBatchPart(ResponseModel):
    """The payouts of a batch that are in one state."""

    status: PayoutStatus
    payout_count: int = Field(examples=[128])
    total: Money = Field(description="Sum of what customers receive.")


class PayoutBatchDetail(PayoutBatchRead):
    """A batch, and what became of its payouts; counts and sums of the parts add up to those of the batch."""

    parts: list[PayoutBatchPart]


class PayoutSettlement(RequestModel):
    """What became of a payout."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"status": "paid"}, {"status": "failed", "reason": "The bank says the account is closed."}]
        }
    )

    status: Literal[PayoutStatus.PAID, PayoutStatus.FAILED]
    reason: Reason | None = Field(None, description="Needed when it failed: the customer reads it.")

    @model_validator(mode="after")
    def _failure_has_a_reason(self) -> Self:
        if self.status is PayoutStatus.FAILED and self.reason is None:
            raise ValueError("a failed payout needs a reason, which the customer reads")
        return self


class PayoutFailure(RequestModel):
    """A payout of the batch that did not arrive."""

    payout_id: UUID = Field(description="As in the files, with or without hyphens.")
    reason: Reason


class PayoutBatchSettlement(RequestModel):
    """What became of a batch: all was paid but the failures."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "failures": [
                        {
                            "payout_id": "0197b2a4-70aa-7c11-8f21-9d1e5c7b6a40",
                            "reason": "The bank says the account is closed.",
                        }
                    ]
                }
            ]
        }
    )

    failures: list[PayoutFailure] = Field([], max_length=5_000)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len({failure.payout_id for failure in self.failures}) < len(self.failures):
            raise ValueError("failures name a payout twice")
        return self
