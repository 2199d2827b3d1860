"""Payouts: where customers want their money, what they asked for, and the batches the bank gets."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, UniqueConstraint
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, currency_check, minor, one_of, primary_key_uuid, updated_at


class PayoutMethodKind(StrEnum):
    """Where money goes."""

    IBAN = "iban"
    LOCAL_ACCOUNT = "local_account"
    MOBILE_WALLET = "mobile_wallet"
    EMAIL = "email"


class PayoutStatus(StrEnum):
    """The life of a payout; see `services/payouts` for the transitions."""

    REQUESTED = "requested"
    APPROVED = "approved"
    SENT = "sent"
    PAID = "paid"
    FAILED = "failed"
    REJECTED = "rejected"


class PayoutProvider(StrEnum):
    """Who moves the money: a file for the bank, or a provider's HTTP API."""

    BATCH = "batch"
    HTTP = "http"


class PayoutMethod(Base):
    """A customer's payout method. The details are sealed; `masked` is all that is ever shown."""

    __tablename__ = "payout_methods"
    __table_args__ = (
        one_of("kind", PayoutMethodKind),
        Index("ix_payout_methods_customer", "customer_id", postgresql_where="deleted_at IS NULL"),
        Index(None, "fingerprint"),
        Index(
            "uq_payout_methods_live",
            "customer_id",
            "fingerprint",
            unique=True,
            postgresql_where="deleted_at IS NULL",
        ),
    )

    id: Mapped[UUID] = primary_key_uuid()
    customer_id: Mapped[UUID] = mapped_column(ForeignKey("customers.id"))
    kind: Mapped[PayoutMethodKind] = mapped_column(TextEnum(PayoutMethodKind))
    # Holder and account as JSON, encrypted by ENCRYPTION_KEYS.
    details_encrypted: Mapped[bytes]
    masked: Mapped[str]
    # Keyed hash of the normalised account: equal for the same account of two customers, and tells nothing else.
    fingerprint: Mapped[bytes]
    # A new method waits: whoever took over an account shall not empty it at once.
    usable_from: Mapped[datetime]
    created_at: Mapped[datetime] = created_at()
    deleted_at: Mapped[datetime | None]


class PayoutRule(Base):
    """What holds for payouts in one currency; without a row there are none in it."""

    __tablename__ = "payout_rules"
    __table_args__ = (
        currency_check(),
        one_of("provider", PayoutProvider),
        CheckConstraint(
            "minimum_minor > 0 AND fee_minor >= 0 AND fee_basis_points BETWEEN 0 AND 9999"
            " AND daily_limit_minor >= minimum_minor AND daily_count > 0 AND auto_approve_minor >= 0"
            " AND method_hold_hours >= 0"
            # Of the smallest payout something is left after the fee, and so of every other.
            " AND fee_minor * 10000::numeric + minimum_minor::numeric * fee_basis_points"
            " < minimum_minor * 10000::numeric",
            name="amounts",
        ),
        CheckConstraint(
            "cardinality(method_kinds) > 0"
            " AND method_kinds <@ ARRAY['iban', 'local_account', 'mobile_wallet', 'email']",
            name="method_kinds",
        ),
    )

    currency: Mapped[str] = mapped_column(primary_key=True)
    minimum_minor: Mapped[int] = minor()
    # Taken from the amount: a fixed part and a share.
    fee_minor: Mapped[int] = minor(default=0)
    fee_basis_points: Mapped[int] = mapped_column(default=0, server_default="0")
    # Of one customer on one day (UTC).
    daily_limit_minor: Mapped[int] = minor()
    daily_count: Mapped[int]
    # Up to this amount no member of staff needs to look; 0: always.
    auto_approve_minor: Mapped[int] = minor(default=0)
    method_hold_hours: Mapped[int]
    provider: Mapped[PayoutProvider] = mapped_column(TextEnum(PayoutProvider))
    # The kinds of methods that the provider can pay to in this currency.
    method_kinds: Mapped[list[str]] = mapped_column(
        ARRAY(Text),
        default=lambda: [kind.value for kind in PayoutMethodKind],
        server_default="{iban,local_account,mobile_wallet,email}",
    )
    updated_at: Mapped[datetime] = updated_at()


class Payout(Base):
    """One payout. `amount_minor` leaves the wallet; the fee of it stays with us, the rest reaches the customer."""

    __tablename__ = "payouts"
    __table_args__ = (
        one_of("status", PayoutStatus),
        one_of("provider", PayoutProvider),
        currency_check(),
        CheckConstraint("amount_minor > 0 AND fee_minor >= 0 AND fee_minor < amount_minor", name="amounts"),
        CheckConstraint(
            "batch_id IS NULL OR (provider = 'batch' AND status IN ('sent', 'paid', 'failed'))", name="batch"
        ),
        Index(None, "customer_id", "id"),
        Index(None, "batch_id"),
        Index("ix_payouts_due", "next_attempt_at", postgresql_where="next_attempt_at IS NOT NULL"),
        Index(None, "status", "id"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    customer_id: Mapped[UUID] = mapped_column(ForeignKey("customers.id"))
    method_id: Mapped[UUID] = mapped_column(ForeignKey("payout_methods.id"))
    currency: Mapped[str]
    amount_minor: Mapped[int] = minor()
    fee_minor: Mapped[int] = minor()
    status: Mapped[PayoutStatus] = mapped_column(TextEnum(PayoutStatus))
    provider: Mapped[PayoutProvider] = mapped_column(TextEnum(PayoutProvider))
    batch_id: Mapped[UUID | None] = mapped_column(ForeignKey("payout_batches.id"))
    # The provider's own name of it, once it told us.
    provider_reference: Mapped[str | None]
    # Why it was rejected or failed, or why nobody knows yet.
    reason: Mapped[str | None]
    # Of the http provider: when to send, or to ask what became of it.
    next_attempt_at: Mapped[datetime | None]
    tries: Mapped[int] = mapped_column(default=0, server_default="0")
    # None: a rule decided.
    decided_by_id: Mapped[UUID | None] = mapped_column(ForeignKey("staff_keys.id"))
    created_at: Mapped[datetime] = created_at()
    updated_at: Mapped[datetime] = updated_at()

    @property
    def receives_minor(self) -> int:
        """What reaches the customer."""
        return self.amount_minor - self.fee_minor


class PayoutChange(Base):
    """One step in a payout's life."""

    __tablename__ = "payout_changes"
    __table_args__ = (one_of("status", PayoutStatus), Index(None, "payout_id"))

    id: Mapped[UUID] = primary_key_uuid()
    payout_id: Mapped[UUID] = mapped_column(ForeignKey("payouts.id"))
    status: Mapped[PayoutStatus] = mapped_column(TextEnum(PayoutStatus))
    reason: Mapped[str | None]
    staff_key_id: Mapped[UUID | None] = mapped_column(ForeignKey("staff_keys.id"))
    at: Mapped[datetime] = created_at()


class PayoutBatch(Base):
    """Payouts that go to the bank in one file. Closed once; its files are kept and never made again."""

    __tablename__ = "payout_batches"
    __table_args__ = (
        currency_check(),
        UniqueConstraint("reference"),
        CheckConstraint("payout_count > 0 AND total_minor > 0", name="totals"),
        CheckConstraint("(pain001_encrypted IS NULL) = (pain001_missing IS NOT NULL)", name="pain001"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    # The message id inside the files: at most 35 characters (ISO 20022, Max35Text).
    reference: Mapped[str]
    currency: Mapped[str]
    payout_count: Mapped[int]
    # Sum of what customers receive: the control sum of the files.
    total_minor: Mapped[int] = minor()
    # Sealed by ENCRYPTION_KEYS as the account numbers in them are; pain.001 only where every payout has an IBAN.
    csv_encrypted: Mapped[bytes]
    pain001_encrypted: Mapped[bytes | None]
    # Why there is no pain.001.
    pain001_missing: Mapped[str | None]
    created_by_id: Mapped[UUID] = mapped_column(ForeignKey("staff_keys.id"))
    created_at: Mapped[datetime] = created_at()
