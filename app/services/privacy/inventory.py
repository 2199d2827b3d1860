"""Where a person is in the database: what an export holds of each table, and what closing an account leaves in it.

Each table that leads to a customer, by however many references, is named here once; a test fails for one that is not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Select, exists, or_, select
from sqlalchemy.orm import InstrumentedAttribute

from app.models import (
    Base,
    Claim,
    Clawback,
    Click,
    Customer,
    CustomerSession,
    ExternalIdentity,
    Message,
    Notification,
    Order,
    OrderBoost,
    OrderChange,
    OrderReport,
    Payout,
    PayoutChange,
    PayoutMethod,
    Posting,
    Referral,
    RefreshToken,
    Transfer,
    Wallet,
)

Statement = Select[*tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Section:
    """One file of an export: rows of a table, all columns but those left out, each with its reason."""

    name: str
    model: type[Base]
    # Restricts a statement over the table to what concerns one customer.
    of: Callable[[Statement, UUID], Statement]
    left_out: Mapping[str, str] = field(default_factory=dict)
    # Of other tables, joined by `of`.
    extra: tuple[InstrumentedAttribute[Any], ...] = ()

    @property
    def columns(self) -> tuple[InstrumentedAttribute[Any], ...]:
        """The columns of the file, in their order."""
        own = (column.key for column in self.model.__mapper__.columns)
        return (*(getattr(self.model, key) for key in own if key not in self.left_out), *self.extra)

    def statement(self, customer_id: UUID) -> Statement:
        """Select a customer's rows, in the order of the table's key."""
        return self.of(select(*self.columns), customer_id).order_by(*self.model.__mapper__.primary_key)


def _own(model: Any) -> Callable[[Statement, UUID], Statement]:  # noqa: ANN401 - any model with a customer
    return lambda statement, customer_id: statement.where(model.customer_id == customer_id)


def _of_orders(model: Any) -> Callable[[Statement, UUID], Statement]:  # noqa: ANN401 - any model with an order
    return lambda statement, customer_id: statement.where(
        exists().where(Order.id == model.order_id, Order.customer_id == customer_id)
    )


def _of_payouts(statement: Statement, customer_id: UUID) -> Statement:
    return statement.where(exists().where(Payout.id == PayoutChange.payout_id, Payout.customer_id == customer_id))


def _with_cause(statement: Statement, customer_id: UUID) -> Statement:
    return statement.join(Transfer, Transfer.id == Posting.transfer_id).where(Posting.customer_id == customer_id)


_STAFF = "which member of staff it was concerns the company"
_HASHED = "a keyed hash that tells nothing, and would help whoever wants to pass for somebody else"
_MACHINERY = "the service's own bookkeeping"

SECTIONS: tuple[Section, ...] = (
    Section(
        "profile",
        Customer,
        lambda statement, customer_id: statement.where(Customer.id == customer_id),
        {
            "password_hash": "a secret",
            "address_hint": _HASHED,
            "device_hint": _HASHED,
            "referred_by_id": "another person; `referrals` says that there was one",
        },
    ),
    Section("sessions", CustomerSession, _own(CustomerSession)),
    Section(
        "refresh_tokens", RefreshToken, _own(RefreshToken), {"token_hash": "a secret", "successor_sealed": "a secret"}
    ),
    Section("external_identities", ExternalIdentity, _own(ExternalIdentity)),
    Section("messages", Message, _own(Message), {"next_attempt_at": _MACHINERY, "tries": _MACHINERY}),
    Section("clicks", Click, _own(Click), {"address_hint": _HASHED}),
    Section("orders", Order, _own(Order), {"source_id": _MACHINERY}),
    Section("order_history", OrderChange, _of_orders(OrderChange)),
    Section(
        "order_reports",
        OrderReport,
        _of_orders(OrderReport),
        {"webhook_event_id": _MACHINERY, "staff_key_id": _STAFF},
    ),
    Section("order_boosts", OrderBoost, _of_orders(OrderBoost)),
    Section("clawbacks", Clawback, _own(Clawback)),
    Section("wallets", Wallet, _own(Wallet)),
    Section(
        "wallet_entries",
        Posting,
        _with_cause,
        {"merchant_id": "never set on a customer's posting"},
        extra=(Transfer.cause_type, Transfer.cause_id, Transfer.purpose),
    ),
    Section(
        "payout_methods", PayoutMethod, _own(PayoutMethod), {"details_encrypted": "a secret", "fingerprint": _HASHED}
    ),
    Section(
        "payouts",
        Payout,
        _own(Payout),
        {"batch_id": _MACHINERY, "next_attempt_at": _MACHINERY, "tries": _MACHINERY, "decided_by_id": _STAFF},
    ),
    Section("payout_history", PayoutChange, _of_payouts, {"staff_key_id": _STAFF}),
    Section(
        "claims",
        Claim,
        _own(Claim),
        {
            "reference_key": _MACHINERY,
            "matched_event_id": _MACHINERY,
            "score": "how staff are helped to decide; the decision itself is there",
            "score_reasons": "see `score`",
            "compared_at": _MACHINERY,
            "resolved_by_id": _STAFF,
        },
    ),
    Section(
        "referrals",
        Referral,
        lambda statement, customer_id: statement.where(
            or_(Referral.referrer_id == customer_id, Referral.invited_id == customer_id)
        ),
        {
            "referrer_id": "another person, or the customer",
            "invited_id": "another person, or the customer",
            "order_id": "may be another person's",
            "decided_by_id": _STAFF,
            "note": "may speak of the other person",
        },
    ),
    Section(
        "notifications",
        Notification,
        # What other systems of the operator were told; kept for days only.
        lambda statement, customer_id: statement.where(Notification.data["customer_id"].astext == str(customer_id)),
    ),
)

# Tables that lead to customers and are not in an export.
NOT_EXPORTED: Mapping[str, str] = {
    "data_exports": "the export itself",
    "data_export_parts": "the export itself",
    "one_time_tokens": "hashes of tokens that are good for hours at most",
    "notification_deliveries": "when which of the operator's systems was told: `notifications` says of what",
    "order_review_changes": "how the company guards itself; a decision shows in `orders` and their history",
    "order_review_checks": _MACHINERY,
    "order_reviews": "see `order_review_changes`",
    "referral_checks": _MACHINERY,
    "settlement_lines": "what a network paid the company for an order",
    "webhook_events": "raw messages between companies, also of other people; what they say is in `order_reports`",
}

# What closing an account leaves in each table that leads to a customer.
AFTER_CLOSING: Mapping[str, str] = {
    "claims": "note, evidence and the decision's note go; a claim that waits is withdrawn",
    "clawbacks": "stays: amounts in the books",
    "clicks": "the address's hash goes; the rest is what orders are explained by",
    "customer_sessions": "deleted",
    "customers": "name, addresses, phone and password go; the referral code and the keyed hashes stay",
    "data_exports": "deleted",
    "data_export_parts": "deleted",
    "external_identities": "deleted",
    "messages": "deleted",
    "notification_deliveries": "goes with its notification, after days",
    "notifications": "ids and amounts only, deleted after days",
    "one_time_tokens": "deleted",
    "order_boosts": "stays: amounts in the books",
    "order_changes": "stays: amounts in the books",
    "order_reports": "what staff wrote goes; the amounts stay",
    "order_review_changes": "what staff wrote goes; what rules found stays: ids and numbers",
    "order_review_checks": "goes when the order is judged",
    "order_reviews": "as `order_review_changes`",
    "orders": "stays: amounts in the books",
    "payout_changes": "reasons go; the states stay",
    "payout_methods": "account and mask go; the keyed hash stays, or closing would be the way around the rules",
    "payouts": "the reason goes; amounts and the provider's reference stay in the books",
    "postings": "stays: append-only books",
    "referral_checks": "stays: ids only",
    "referrals": "what staff wrote goes",
    "refresh_tokens": "revoked; deleted when they expire",
    "settlement_lines": "stays: what a network paid",
    "wallets": "stays: amounts in the books",
    "webhook_events": "the raw bytes of the orders' events go; what was read of them stays",
}
