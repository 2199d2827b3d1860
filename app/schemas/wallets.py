"""Wallet answers. Balances follow the contract's flat form, one object a currency."""

from typing import Literal
from uuid import UUID

from pydantic import Field

from app.schemas.common import Currency, ResponseModel, SignedMinorAmount, UtcTime


class Balance(ResponseModel):
    """What a customer has in one currency, in minor units. Available may be below zero after a return."""

    currency: Currency
    pending_minor: SignedMinorAmount
    available_minor: SignedMinorAmount
    in_payout_minor: SignedMinorAmount
    paid_minor: SignedMinorAmount


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
    cause: str = Field(
        description="What caused it: for an order or a payout the state it came to.",
        examples=["pending", "payable", "reversed"],
    )
    order_id: UUID | None
    merchant_id: int | None
    payout_id: UUID | None
    created_at: UtcTime
