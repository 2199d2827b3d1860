"""SQLAlchemy models: tables, their constraints, and statements used in more than one place."""

from app.models.alerts import Alert, AlertKind
from app.models.audit import AuditEntry
from app.models.base import Base
from app.models.campaigns import Campaign, CampaignStatus
from app.models.catalogue import (
    CatalogueVersion,
    Category,
    ClawbackPolicy,
    ExpireAs,
    Merchant,
    MerchantStatus,
    Offer,
    Rate,
    RateKind,
)
from app.models.claims import WAITING, Claim, ClaimStatus, EvidenceKind, reference_key
from app.models.clawbacks import Clawback, ClawbackStatus
from app.models.clicks import CLOCK_SKEW, Click, ClickOrigin
from app.models.customers import Customer, CustomerStatus, RefreshToken
from app.models.exchange_rates import ExchangeRate
from app.models.fraud import (
    BLOCKING,
    FraudRule,
    FraudRuleKind,
    OrderReview,
    OrderReviewChange,
    OrderReviewCheck,
    ReviewStatus,
)
from app.models.identity import (
    CustomerSession,
    ExternalIdentity,
    OneTimePurpose,
    OneTimeToken,
    SigningKey,
    SignInMethod,
)
from app.models.ledger import (
    Account,
    CauseType,
    LedgerCheck,
    LedgerDay,
    LedgerDayTotal,
    MonthClose,
    Posting,
    Transfer,
    Wallet,
)
from app.models.merchant_keys import MerchantKey, WebhookDuplicate
from app.models.messages import Message, MessageChannel, MessageKind, MessageStatus
from app.models.notifications import (
    DeliveryStatus,
    EndpointStatus,
    Notification,
    NotificationDelivery,
    NotificationEndpoint,
)
from app.models.operations import CronRun, IdempotencyKey
from app.models.orders import Order, OrderBoost, OrderChange, OrderReport, OrderStatus, ReportKind
from app.models.payouts import (
    Payout,
    PayoutBatch,
    PayoutChange,
    PayoutMethod,
    PayoutMethodKind,
    PayoutProvider,
    PayoutRule,
    PayoutStatus,
)
from app.models.polling import PolledItem, Poller
from app.models.privacy import DataExport, DataExportPart, ExportStatus
from app.models.proposals import Proposal, ProposalKind, ProposalStatus
from app.models.referrals import Referral, ReferralCheck, ReferralProgram, ReferralReason, ReferralStatus
from app.models.settlements import Settlement, SettlementLine, SettlementLineStatus, SettlementResolution
from app.models.sources import Source, SourceStatus, SourceVersion
from app.models.staff import StaffKey, StaffMember, StaffRole, StaffScope
from app.models.sync import Feed, FeedCredentialsKind, FeedFormat, FeedHost, OfferStaging, SyncRun, SyncStatus
from app.models.webhooks import EventOrigin, ReplayStatus, WebhookEvent, WebhookReplay, WebhookStatus

__all__ = [
    "BLOCKING",
    "CLOCK_SKEW",
    "WAITING",
    "Account",
    "Alert",
    "AlertKind",
    "AuditEntry",
    "Base",
    "Campaign",
    "CampaignStatus",
    "CatalogueVersion",
    "Category",
    "CauseType",
    "Claim",
    "ClaimStatus",
    "Clawback",
    "ClawbackPolicy",
    "ClawbackStatus",
    "Click",
    "ClickOrigin",
    "CronRun",
    "Customer",
    "CustomerSession",
    "CustomerStatus",
    "DataExport",
    "DataExportPart",
    "DeliveryStatus",
    "EndpointStatus",
    "EventOrigin",
    "EvidenceKind",
    "ExchangeRate",
    "ExpireAs",
    "ExportStatus",
    "ExternalIdentity",
    "Feed",
    "FeedCredentialsKind",
    "FeedFormat",
    "FeedHost",
    "FraudRule",
    "FraudRuleKind",
    "IdempotencyKey",
    "LedgerCheck",
    "LedgerDay",
    "LedgerDayTotal",
    "Merchant",
    "MerchantKey",
    "MerchantStatus",
    "Message",
    "MessageChannel",
    "MessageKind",
    "MessageStatus",
    "MonthClose",
    "Notification",
    "NotificationDelivery",
    "NotificationEndpoint",
    "Offer",
    "OfferStaging",
    "OneTimePurpose",
    "OneTimeToken",
    "Order",
    "OrderBoost",
    "OrderChange",
    "OrderReport",
    "OrderReview",
    "OrderReviewChange",
    "OrderReviewCheck",
    "OrderStatus",
    "Payout",
    "PayoutBatch",
    "PayoutChange",
    "PayoutMethod",
    "PayoutMethodKind",
    "PayoutProvider",
    "PayoutRule",
    "PayoutStatus",
    "PolledItem",
    "Poller",
    "Posting",
    "Proposal",
    "ProposalKind",
    "ProposalStatus",
    "Rate",
    "RateKind",
    "Referral",
    "ReferralCheck",
    "ReferralProgram",
    "ReferralReason",
    "ReferralStatus",
    "RefreshToken",
    "ReplayStatus",
    "ReportKind",
    "ReviewStatus",
    "Settlement",
    "SettlementLine",
    "SettlementLineStatus",
    "SettlementResolution",
    "SignInMethod",
    "SigningKey",
    "Source",
    "SourceStatus",
    "SourceVersion",
    "StaffKey",
    "StaffMember",
    "StaffRole",
    "StaffScope",
    "SyncRun",
    "SyncStatus",
    "Transfer",
    "Wallet",
    "WebhookDuplicate",
    "WebhookEvent",
    "WebhookReplay",
    "WebhookStatus",
    "reference_key",
]
