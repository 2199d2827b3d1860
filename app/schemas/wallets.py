"""Wallet answers. Balances follow the contract's flat form, one object a currency."""

from typing import Literal
from uuid import UUID

from pydantic import Field

from app.models import CauseType
from app.schemas.common import Currency, ResponseModel, SignedMinorAmount, UtcTime
from app.schemas.ledger import PagedPeriodQuery, StatementFormat, Total


class Balance(ResponseModel):
    """What a customer has in one currency, in minor units. Available may be below zero after a return."""

    currency: Currency
    pending_minor: SignedMinorAmount
    available_minor: SignedMinorAmount
    in_payout_minor: SignedMinorAmount
    paid_minor: SignedMinorAmount
    debt_minor: SignedMinorAmount = Field(
        description="Owed after a return that the balance did not cover; taken from later cashback.", examples=[0]
    )


class WalletRead(ResponseModel):
    """A customer's balances; empty before the first cashback."""

    balances: list[Balance]


class WalletEntryRead(ResponseModel):
    """One movement of one balance."""

    id: int
    balance: Literal["pending", "available", "in_payout", "debt"] = Field(
        description="`debt`: owed after a return that the balance did not cover, and taken from later cashback."
    )
    amount_minor: SignedMinorAmount = Field(description="Positive when the balance grew.")
    currency: Currency
    cause_type: CauseType = Field(description="What kind of thing caused it.")
    cause: str = Field(
        description="What caused it: for an order or a payout the state it came to.",
        examples=["pending", "payable", "reversed"],
    )
    order_id: UUID | None = Field(description="The order, also where cashback of it was clawed back.")
    merchant_id: int | None
    payout_id: UUID | None
    created_at: UtcTime


class StatementQuery(PagedPeriodQuery):
    """The period of a statement, and what it comes as."""

    currency: Currency | None = Field(None, description="Only this currency.")
    format: StatementFormat = Field(StatementFormat.JSON, description="`csv` is the whole statement, not a page of it.")


class StatementBalance(ResponseModel):
    """What a customer had in one currency at a time, in minor units."""

    currency: Currency
    pending_minor: Total = 0
    available_minor: Total = 0
    in_payout_minor: Total = 0
    debt_minor: Total = 0


class StatementLine(WalletEntryRead):
    """One movement, and its balance after it."""

    merchant: str | None = Field(description="The shop's name.", examples=["Khaadi"])
    balance_minor: Total = Field(description="That balance after this movement.")


class WalletStatement(ResponseModel):
    """The movements of a period, oldest first. Opening, plus all of them, is closing."""

    first: UtcTime = Field(serialization_alias="from")
    last: UtcTime = Field(serialization_alias="to")
    opening: list[StatementBalance]
    items: list[StatementLine]
    closing: list[StatementBalance]
    next_cursor: str | None = None
