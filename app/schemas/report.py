"""The report: what is asked for, and a row for each merchant and currency."""

import re
from datetime import date
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from app.schemas.catalogue import MerchantId
from app.schemas.common import Currency, RequestModel, ResponseModel, Slug

_FULL_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _require_full_date(value: Any) -> Any:  # noqa: ANN401 - runs before the type is known
    # Pydantic alone would also take a number of seconds, or a time at midnight.
    if isinstance(value, str) and not _FULL_DATE.fullmatch(value):
        raise ValueError("must be a date like 2026-11-22")
    return value


FullDate = Annotated[date, BeforeValidator(_require_full_date)]


class ReportFormat(StrEnum):
    """What the report comes as."""

    JSON = "json"
    CSV = "csv"
    XLSX = "xlsx"


class ReportQuery(RequestModel):
    """The period, both days included, and what to show of it."""

    first: FullDate | None = Field(
        None, alias="from", description="First day (UTC); default: 29 days before `to`.", examples=["2026-11-01"]
    )
    last: FullDate | None = Field(
        None, alias="to", description="Last day (UTC), included; default: today.", examples=["2026-11-30"]
    )
    merchant_id: MerchantId | None = Field(None, description="Only this merchant.")
    format: ReportFormat = Field(ReportFormat.JSON, description="`csv` and `xlsx` are tables of `items`.")


class MoneySum(ResponseModel):
    """A sum of amounts, in the currency's minor unit."""

    # Not `Money`: each amount fits 64 bits, a sum of many need not.
    amount_minor: int = Field(examples=[1_250_000])
    currency: Currency


class ReportMerchant(ResponseModel):
    """The shop."""

    id: int = Field(examples=[42])
    slug: Slug
    name: str = Field(examples=["Khaadi"])


class ReportFigures(ResponseModel):
    """What happened in the period. Amounts are of live orders, as they stand now."""

    currency: Currency
    clicks: int = Field(examples=[1200])
    orders: int = Field(description="Live orders: pending, approved or payable.", examples=[54])
    declined_orders: int = Field(description="Orders declined, or reversed after they were payable.", examples=[3])
    conversion_basis_points: int | None = Field(
        description="Live orders to 10,000 clicks, rounded down; null without clicks.", examples=[450]
    )
    sales: MoneySum
    commission: MoneySum
    cashback: MoneySum
    margin: MoneySum = Field(description="Commission less cashback; below zero when more was promised than earned.")


class ReportRow(ReportFigures):
    """One merchant in one currency. A click counts in the currency it was made in, an order in its own."""

    merchant: ReportMerchant


class ReportRead(ResponseModel):
    """Merchants with a click or an order in the period, by name, and the sum of all for each currency."""

    first: date = Field(serialization_alias="from", examples=["2026-11-01"])
    last: date = Field(serialization_alias="to", examples=["2026-11-30"])
    items: list[ReportRow]
    totals: list[ReportFigures]
