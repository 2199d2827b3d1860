"""The ledger as finance sees it: trial balances, statements of accounts, transfers, sealed days and closed months."""

from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, StringConstraints

from app.models import Account, CauseType
from app.schemas.catalogue import MerchantId
from app.schemas.common import Currency, Page, RequestModel, ResponseModel, UtcTime
from app.schemas.report import FullDate


def _to_utc(value: date | datetime) -> date | datetime:
    try:
        return value.astimezone(UTC) if isinstance(value, datetime) else value
    except OverflowError:
        raise ValueError("must be a time between the years 1 and 9999 in UTC") from None


def _require_date_and_time(value: Any) -> Any:  # noqa: ANN401 - runs before the type is known
    # Pydantic alone would also take a number of seconds.
    if isinstance(value, str) and "T" not in value.upper():
        raise ValueError("must be a time like 2026-11-22T08:30:00Z")
    return value


# A day (UTC) stands for the whole of it.
DayOrTime = Annotated[
    FullDate | Annotated[AwareDatetime, BeforeValidator(_require_date_and_time)], AfterValidator(_to_utc)
]
Month = Annotated[
    str,
    StringConstraints(pattern=r"^[12][0-9]{3}-(0[1-9]|1[0-2])$"),
    Field(examples=["2026-11"], description="A month."),
]
# Each amount of the ledger fits 64 bits, a sum of many need not.
Total = Annotated[int, Field(examples=[1_250_000])]
HexHash = Annotated[str, Field(examples=["ca53b26b9019e1275eb0a3f14dc451d77d36e6b402595619aeb19f4719562697"])]


class StatementFormat(StrEnum):
    """What a statement comes as."""

    JSON = "json"
    CSV = "csv"


class PeriodQuery(RequestModel):
    """A period. A day stands for the whole of it; a time is exact, and `to` itself is not in the period."""

    first: DayOrTime | None = Field(
        None, alias="from", description="Default: 30 days before `to`.", examples=["2026-11-01", "2026-11-01T08:30:00Z"]
    )
    last: DayOrTime | None = Field(None, alias="to", description="Default: now.", examples=["2026-11-30"])


class PagedPeriodQuery(PeriodQuery):
    """A page of what happened in a period."""

    limit: int = Field(20, ge=1, le=100, description="Rows a page.")
    cursor: str | None = Field(None, max_length=512, description="`next_cursor` of the page before.")


class AccountStatementQuery(PagedPeriodQuery):
    """One account in one currency, of all merchants or of one."""

    currency: Currency
    merchant_id: MerchantId | None = Field(None, description="Only this merchant's part of the account.")


class TrialBalanceQuery(RequestModel):
    """The moment that a trial balance is of."""

    at: DayOrTime | None = Field(
        None, description="The end of a day, or an exact time; default: now.", examples=["2026-11-30"]
    )


class AccountTotals(ResponseModel):
    """What was posted to one account in one currency, in minor units."""

    account: Account
    currency: Currency
    debit_minor: Total
    credit_minor: Total
    balance_minor: Total = Field(description="Debits less credits: below zero where credits prevail.")


class CurrencyTotals(ResponseModel):
    """The sums over all accounts in one currency. In a sound ledger both are equal."""

    currency: Currency
    debit_minor: Total
    credit_minor: Total
    difference_minor: int = Field(description="Zero, or the ledger is broken.", examples=[0])


class TrialBalance(ResponseModel):
    """All that was posted before a moment, by account and currency."""

    at: UtcTime
    items: list[AccountTotals]
    totals: list[CurrencyTotals]


class AccountLine(ResponseModel):
    """One posting, and the balance of the account after it; positive: debit."""

    id: int
    transfer_id: UUID
    cause_type: CauseType
    cause_id: UUID = Field(description="The order, payout, settlement, clawback or referral.")
    purpose: str = Field(examples=["payable:3"])
    merchant_id: int | None
    customer_id: UUID | None
    amount_minor: Total
    balance_minor: Total
    created_at: UtcTime


class AccountStatement(ResponseModel):
    """The postings of an account in a period, oldest first. Opening, plus all of them, is closing."""

    account: Account
    currency: Currency
    merchant_id: int | None
    first: UtcTime = Field(serialization_alias="from")
    last: UtcTime = Field(serialization_alias="to")
    opening_minor: Total
    closing_minor: Total
    items: list[AccountLine]
    next_cursor: str | None = None


class TransferPosting(ResponseModel):
    """One line of a transfer; positive: debit."""

    id: int
    account: Account
    merchant_id: int | None
    customer_id: UUID | None
    currency: Currency
    amount_minor: Total


class TransferRead(ResponseModel):
    """One transfer: its postings sum to zero in each currency."""

    id: UUID
    cause_type: CauseType
    cause_id: UUID = Field(description="The order, payout, settlement, clawback or referral.")
    purpose: str = Field(examples=["payable:3"])
    corrects_id: UUID | None = Field(description="The transfer that this one corrects.")
    details: dict[str, Any]
    created_at: UtcTime
    postings: list[TransferPosting]


class LedgerDayRead(ResponseModel):
    """A sealed day. Its hash is over its postings and the hash of the day before."""

    day: date = Field(examples=["2026-11-25"])
    postings: int = Field(examples=[118_240])
    previous_hash: HexHash
    hash: HexHash
    sealed_at: UtcTime


LedgerDayPage = Page[LedgerDayRead]


class AccountMonth(ResponseModel):
    """What a month did to one account in one currency, in minor units; balances are debits less credits."""

    account: Account
    currency: Currency
    opening_minor: Total
    debit_minor: Total
    credit_minor: Total
    closing_minor: Total
    postings: int = Field(examples=[5210])


class MonthReport(ResponseModel):
    """The month's trial balances and movements. Each column of balances sums to zero in each currency."""

    accounts: list[AccountMonth]
    days: int = Field(description="Sealed days of the month.", examples=[30])
    postings: int = Field(examples=[3_541_200])
    transfers: dict[CauseType, int] = Field(
        description="How many transfers, by the type of their cause.", examples=[{"order": 1_020_300, "payout": 18_400}]
    )


class MonthCloseRead(ResponseModel):
    """A closed month, as it was closed and for good."""

    month: Month
    report: MonthReport
    chain_hash: HexHash = Field(description="The hash of the month's last day, which proves every day up to it.")
    closed_by_id: UUID = Field(description="The staff key that closed it.")
    closed_at: UtcTime


MonthClosePage = Page[MonthCloseRead]
