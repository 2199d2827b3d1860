"""SQLAlchemy models: tables, their constraints, and statements used in more than one place."""

from app.models.base import Base
from app.models.catalogue import Category, Merchant, MerchantStatus, Offer, Rate, RateKind
from app.models.clicks import Click
from app.models.customers import Customer, CustomerStatus, RefreshToken
from app.models.ledger import Account, CauseType, Posting, Transfer, Wallet
from app.models.operations import CronRun, IdempotencyKey
from app.models.orders import Order, OrderChange, OrderReport, OrderStatus, ReportKind
from app.models.staff import StaffKey, StaffRole
from app.models.sync import Feed, FeedFormat, OfferStaging, SyncRun, SyncStatus
from app.models.webhooks import Source, SourceKind, SourceStatus, WebhookEvent, WebhookStatus

__all__ = [
    "Account",
    "Base",
    "Category",
    "CauseType",
    "Click",
    "CronRun",
    "Customer",
    "CustomerStatus",
    "Feed",
    "FeedFormat",
    "IdempotencyKey",
    "Merchant",
    "MerchantStatus",
    "Offer",
    "OfferStaging",
    "Order",
    "OrderChange",
    "OrderReport",
    "OrderStatus",
    "Posting",
    "Rate",
    "RateKind",
    "RefreshToken",
    "ReportKind",
    "Source",
    "SourceKind",
    "SourceStatus",
    "StaffKey",
    "StaffRole",
    "SyncRun",
    "SyncStatus",
    "Transfer",
    "Wallet",
    "WebhookEvent",
    "WebhookStatus",
]
