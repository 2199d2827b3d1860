"""Settlements: what networks say they paid, and what became of each line."""

from datetime import date
from typing import Annotated, Self
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator

from app.models import SettlementLineStatus, SettlementResolution
from app.schemas.catalogue import MerchantId
from app.schemas.common import Currency, Money, Page, RequestModel, ResponseModel, SafeText, SignedMinorAmount, UtcTime

Reference = Annotated[SafeText, Field(min_length=1, max_length=200)]
Note = Annotated[SafeText, Field(min_length=3, max_length=1000)]


class SettlementLineCreate(RequestModel):
    """What was paid for one order, in minor units; below zero where the network takes commission back."""

    order_reference: Reference = Field(examples=["A-1001"])
    amount_minor: SignedMinorAmount = Field(examples=[8_000])


class SettlementCreate(RequestModel):
    """A network's statement for one merchant in one currency. `total_minor` is what came into the bank account."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "merchant_id": 42,
                    "reference": "2026-11/0815",
                    "currency": "PKR",
                    "paid_on": "2026-11-20",
                    "total_minor": 13_500,
                    "lines": [
                        {"order_reference": "A-1001", "amount_minor": 8_000},
                        {"order_reference": "A-1002", "amount_minor": 6_000},
                        {"order_reference": "A-0990", "amount_minor": -500},
                    ],
                }
            ]
        }
    )

    merchant_id: MerchantId
    reference: Reference = Field(description="The network's own name of it, taken once a merchant.")
    currency: Currency = Field(description="The one the network reports these orders in.")
    paid_on: date
    total_minor: SignedMinorAmount = Field(description="Must be the sum of the lines.")
    lines: list[SettlementLineCreate] = Field(min_length=1, max_length=10_000)


class SettlementRead(ResponseModel):
    """A settlement and how its lines compared with what was owed."""

    id: UUID
    merchant_id: int = Field(examples=[42])
    reference: str = Field(examples=["2026-11/0815"])
    paid_on: date = Field(examples=["2026-11-20"])
    total: Money
    lines_by_status: dict[SettlementLineStatus, int] = Field(
        description="How many lines compared how, when they came.",
        examples=[{"matched": 2, "short_paid": 0, "over_paid": 0, "unknown": 1}],
    )
    open_lines: int = Field(description="Lines that do not match and wait for staff.", examples=[1])
    created_by_id: UUID = Field(description="The staff key that recorded it.")
    created_at: UtcTime


class SettlementLineRead(ResponseModel):
    """A line, how it compared when it came, and what became of it. All amounts are in the statement's currency."""

    id: UUID
    settlement_id: UUID
    merchant_id: int = Field(examples=[42])
    number: int = Field(description="Its place in the statement, from 1.", examples=[1])
    order_reference: str = Field(examples=["A-1001"])
    amount: Money
    expected: Money | None = Field(description="What was owed before it; null: no order was found.")
    status: SettlementLineStatus
    order_id: UUID | None
    due: Money | None = Field(
        description="What the network owes for the order now; below zero: it has paid too much, and will take it back."
    )
    resolution: SettlementResolution | None = Field(description="Null while it is open, or matched.")
    resolved: Money | None = Field(description="What was written off, or accepted.")
    resolution_note: str | None
    resolved_by_id: UUID | None = Field(description="The staff key; null: a change of the order made it right.")
    resolved_at: UtcTime | None


class SettlementDetail(SettlementRead):
    """A settlement with a page of its lines, in their order; `/v1/admin/settlement-lines` has the others."""

    lines: Page[SettlementLineRead]


class SettlementResolve(RequestModel):
    """What staff decide about a line that does not match.

    `written_off`: what is missing for its order will not come, or what was taken back for an unknown one is lost.
    `accepted`: what was paid too much, or for an unknown order, is kept. `assigned`: an unknown line was for this
    order. `settled_later`: nothing is missing any more.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"resolution": "written_off", "note": "The network keeps its fee, agreed on 3 May"}]
        }
    )

    resolution: SettlementResolution
    order_id: UUID | None = Field(None, description="With `assigned` only, and then needed.")
    note: Note

    @model_validator(mode="after")
    def _assigned_to_an_order(self) -> Self:
        if (self.resolution is SettlementResolution.ASSIGNED) != (self.order_id is not None):
            raise ValueError("resolution 'assigned' needs order_id, and the others must not have it")
        return self


class SettlementReopen(RequestModel):
    """Why a decision was wrong."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"note": "Assigned to the wrong order"}]})

    note: Note


SettlementPage = Page[SettlementRead]
SettlementLinePage = Page[SettlementLineRead]
