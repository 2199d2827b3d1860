"""The double-entry ledger: transfers with their postings, append-only, and each customer's wallet.

A posting's amount is positive for a debit and negative for a credit, so that a transfer sums to zero. Triggers
made by the migration refuse an unbalanced transfer at commit, and any UPDATE, DELETE or TRUNCATE.
"""

from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, Numeric, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, currency_check, minor, one_of, primary_key_uuid, updated_at


class Account(StrEnum):
    """The chart of accounts. What an account is kept per (merchant, customer) is checked by the database."""

    NETWORK_RECEIVABLE = "network_receivable"
    CASH = "cash"
    CUSTOMER_PENDING = "customer_pending"
    CUSTOMER_AVAILABLE = "customer_available"
    CUSTOMER_IN_PAYOUT = "customer_in_payout"
    MARGIN_PENDING = "margin_pending"
    MARGIN = "margin"
    CUSTOMER_DEBT = "customer_debt"
    PROMOTIONS = "promotions"
    BAD_DEBT = "bad_debt"
    PAYOUT_FEES = "payout_fees"
    # Between two currencies: what was bought of one against what was given of the other.
    CURRENCY_EXCHANGE = "currency_exchange"

    @property
    def per_customer(self) -> bool:
        """Whether it is kept per customer; all others are the house's."""
        return self in _PER_CUSTOMER


_PER_CUSTOMER = frozenset(
    {Account.CUSTOMER_PENDING, Account.CUSTOMER_AVAILABLE, Account.CUSTOMER_IN_PAYOUT, Account.CUSTOMER_DEBT}
)


class CauseType(StrEnum):
    """What made a transfer."""

    ORDER = "order"
    PAYOUT = "payout"
    SETTLEMENT = "settlement"
    CLAWBACK = "clawback"
    REFERRAL = "referral"
    ADJUSTMENT = "adjustment"


class Transfer(Base):
    """A balanced set of postings with one cause. The same cause and purpose is never posted twice."""

    __tablename__ = "transfers"
    __table_args__ = (
        one_of("cause_type", CauseType),
        UniqueConstraint("cause_type", "cause_id", "purpose"),
        Index(None, "created_at"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    cause_type: Mapped[CauseType] = mapped_column(TextEnum(CauseType))
    cause_id: Mapped[UUID]
    # For an order: the state reached and its revision, as `approved:3`.
    purpose: Mapped[str]
    # The transfer that this one corrects.
    corrects_id: Mapped[UUID | None] = mapped_column(ForeignKey("transfers.id"))
    details: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = created_at()


class Posting(Base):
    """One line of a transfer."""

    __tablename__ = "postings"
    __table_args__ = (
        one_of("account", Account),
        currency_check(),
        CheckConstraint("amount_minor <> 0", name="amount"),
        CheckConstraint(
            "CASE WHEN account IN ('customer_pending', 'customer_available', 'customer_in_payout', 'customer_debt')"
            " THEN customer_id IS NOT NULL AND merchant_id IS NULL"
            " WHEN account IN ('network_receivable', 'margin_pending', 'margin')"
            " THEN merchant_id IS NOT NULL AND customer_id IS NULL"
            " ELSE customer_id IS NULL END",
            name="dimension",
        ),
        Index(None, "transfer_id"),
        # With what a balance is the sum of: a customer's postings lie all over the table.
        Index(
            "ix_postings_customer",
            "customer_id",
            "id",
            postgresql_include=["currency", "account", "amount_minor"],
            postgresql_where="customer_id IS NOT NULL",
        ),
        # The statements of house accounts, in order, also for one merchant.
        Index(
            "ix_postings_house",
            "account",
            "currency",
            "created_at",
            "id",
            postgresql_include=["merchant_id", "amount_minor"],
            postgresql_where="customer_id IS NULL",
        ),
        # In order of time as rows come, so a few pages tell where a day begins.
        Index("ix_postings_created", "created_at", postgresql_using="brin", postgresql_with={"autosummarize": "on"}),
        Index("ix_postings_merchant", "merchant_id", "account", "currency", postgresql_where="merchant_id IS NOT NULL"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    transfer_id: Mapped[UUID] = mapped_column(ForeignKey("transfers.id"))
    account: Mapped[Account] = mapped_column(TextEnum(Account))
    merchant_id: Mapped[int | None] = mapped_column(ForeignKey("merchants.id"))
    customer_id: Mapped[UUID | None] = mapped_column(ForeignKey("customers.id"))
    currency: Mapped[str]
    # Positive: debit. Negative: credit.
    amount_minor: Mapped[int] = minor()
    created_at: Mapped[datetime] = created_at()


class Wallet(Base):
    """A customer's balances in one currency, changed in the transaction that posts, so that a read is one row."""

    __tablename__ = "wallets"
    __table_args__ = (
        currency_check(),
        # Available may go below zero through a clawback; the others never.
        CheckConstraint(
            "pending_minor >= 0 AND in_payout_minor >= 0 AND paid_minor >= 0 AND debt_minor >= 0", name="balances"
        ),
    )

    customer_id: Mapped[UUID] = mapped_column(ForeignKey("customers.id"), primary_key=True)
    currency: Mapped[str] = mapped_column(primary_key=True)
    pending_minor: Mapped[int] = minor(default=0)
    available_minor: Mapped[int] = minor(default=0)
    in_payout_minor: Mapped[int] = minor(default=0)
    paid_minor: Mapped[int] = minor(default=0)
    # Owed by the customer after a clawback that the balance could not cover; earned back from what becomes available.
    debt_minor: Mapped[int] = minor(default=0)
    updated_at: Mapped[datetime] = updated_at()


class LedgerDay(Base):
    """A sealed day: a hash over its postings and the hash of the day sealed before it, so that no past can change."""

    __tablename__ = "ledger_days"
    __table_args__ = (CheckConstraint("octet_length(hash) = 32 AND octet_length(previous_hash) = 32", name="hash"),)

    day: Mapped[date] = mapped_column(primary_key=True)
    postings: Mapped[int] = mapped_column(BigInteger)
    previous_hash: Mapped[bytes]
    hash: Mapped[bytes]
    sealed_at: Mapped[datetime] = created_at()


class LedgerDayTotal(Base):
    """What one account had on a sealed day, so that a balance of any time is a sum of days and not of all postings.

    Customers' accounts are totalled over all customers.
    """

    __tablename__ = "ledger_day_totals"
    __table_args__ = (
        UniqueConstraint("day", "account", "merchant_id", "currency", postgresql_nulls_not_distinct=True),
        CheckConstraint("debit_minor >= 0 AND credit_minor >= 0 AND postings > 0", name="amounts"),
        Index(None, "account", "currency", "day"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    day: Mapped[date] = mapped_column(ForeignKey("ledger_days.day"))
    account: Mapped[Account] = mapped_column(TextEnum(Account))
    merchant_id: Mapped[int | None]
    currency: Mapped[str]
    postings: Mapped[int] = mapped_column(BigInteger)
    # Each amount fits 64 bits, a sum of many need not.
    debit_minor: Mapped[Decimal] = mapped_column(Numeric(38, 0))
    credit_minor: Mapped[Decimal] = mapped_column(Numeric(38, 0))


class LedgerCheck(Base):
    """How far the sliced verification of one invariant has come, and what its last whole pass found."""

    __tablename__ = "ledger_checks"

    invariant: Mapped[str] = mapped_column(primary_key=True)
    # Where the next slice begins; None: at the beginning.
    position: Mapped[str | None]
    # Found by the last whole pass, and so far by the one that is on its way.
    violations: Mapped[int] = mapped_column(default=0, server_default="0")
    pass_violations: Mapped[int] = mapped_column(default=0, server_default="0")
    pass_started_at: Mapped[datetime | None]
    pass_finished_at: Mapped[datetime | None]
    checked_at: Mapped[datetime | None]


class MonthClose(Base):
    """A closed month: its trial balance as finance signed it off, never changed after."""

    __tablename__ = "month_closes"
    __table_args__ = (CheckConstraint("extract(day FROM month) = 1", name="first_day"),)

    # The first day of the month.
    month: Mapped[date] = mapped_column(primary_key=True)
    report: Mapped[dict[str, Any]]
    # The hash of the month's last day in the chain.
    chain_hash: Mapped[bytes]
    closed_by_id: Mapped[UUID] = mapped_column(ForeignKey("staff_keys.id"))
    closed_at: Mapped[datetime] = created_at()
