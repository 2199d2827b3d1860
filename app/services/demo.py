"""A small demo for development: a catalogue with rates and offers, a customer, a staff key, sources, and the rules of
payouts and referrals.

Loading twice changes nothing. The credentials are derived from SECRET_KEY, so they differ between installations and
stay the same across restarts; outside development it refuses to load.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Environment, Settings
from app.models import (
    Campaign,
    CampaignStatus,
    Category,
    Customer,
    Merchant,
    Offer,
    PayoutProvider,
    PayoutRule,
    Rate,
    RateKind,
    ReferralProgram,
    Source,
    StaffKey,
    StaffRole,
)
from app.services.catalogue_version import catalogue_changed
from app.services.exchange_rates import add_exchange_rate
from app.services.passwords import Passwords
from app.services.secrets import seal
from app.services.sources import add_source, get_preset

CUSTOMER_EMAIL = "demo@example.com"
DIRECT_MERCHANT = "lahore-books"
_CATEGORIES = {"books": "Books", "fashion": "Fashion", "home": "Home"}
_VALID_FROM = datetime(2026, 1, 1, tzinfo=UTC)
# Made up, for orders that a Pakistani shop's network reports in these.
_EXCHANGE_RATES = {"USD": "278.45", "EUR": "322.10"}


@dataclass(frozen=True, slots=True)
class DemoCredentials:
    """What a person or a script needs to try the service."""

    staff_api_key: str
    merchant_id: int
    source_key: str
    webhook_secret: str
    customer_email: str
    customer_password: str


@dataclass(frozen=True, slots=True)
class _DemoMerchant:
    slug: str
    name: str
    description: str
    category: str
    currency: str
    rate: dict[str, object]
    hold_days: int
    products: Sequence[tuple[str, str, int]]  # brand, title, price in minor units


_MERCHANTS = (
    _DemoMerchant(
        DIRECT_MERCHANT,
        "Lahore Books",
        "Novels, poetry and school books, delivered in Pakistan.",
        "books",
        "PKR",
        {"kind": RateKind.PERCENT_OF_SALE, "basis_points": 500},
        # No return window: an approved order of the demo is available at once.
        0,
        (
            ("Sang-e-Meel", "Collected Poems of Faiz", 145_000),
            ("Oxford", "Atlas of Pakistan", 289_500),
            ("Penguin", "Moth Smoke", 119_900),
            ("Penguin", "The Reluctant Fundamentalist", 124_900),
        ),
    ),
    _DemoMerchant(
        "indus-fashion",
        "Indus Fashion",
        "Lawn, shawls and shoes from Karachi.",
        "fashion",
        "PKR",
        {"kind": RateKind.PERCENT_OF_COMMISSION, "basis_points": 6000, "cap_minor": 500_000},
        30,
        (
            ("Indus", "Printed lawn suit, three pieces", 649_000),
            ("Indus", "Embroidered shawl", 899_000),
            ("Chappal & Co", "Leather Peshawari chappal", 425_000),
        ),
    ),
    _DemoMerchant(
        "nordic-home",
        "Nordic Home",
        "Lamps and furniture, reported through a network.",
        "home",
        "EUR",
        {"kind": RateKind.FIXED, "fixed_minor": 400},
        14,
        (
            ("Nordic", "Copper bedside light", 5_999),
            ("Nordic", "Clay plant pot", 999),
            ("Hygge", "Wool throw, grey", 7_450),
        ),
    ),
)


# Amounts in minor units. New methods of the demo do not wait: its story is told in one go.
_PAYOUT_RULES = {
    currency: {
        "minimum_minor": 1_000,
        "fee_minor": 100,
        "daily_limit_minor": 10_000_000,
        "daily_count": 1_000,
        "auto_approve_minor": 10_000,
        "method_hold_hours": 0,
        "provider": PayoutProvider.BATCH,
    }
    for currency in ("EUR", "PKR")
}


async def load_demo(session: AsyncSession, settings: Settings) -> DemoCredentials:
    """Load the demo, or find it as it was loaded. Raises RuntimeError outside development."""
    if settings.environment is not Environment.DEVELOPMENT:
        raise RuntimeError("the demo's logins are for ENVIRONMENT=development only")
    credentials = _credentials(settings)
    merchant_id = await session.scalar(select(Merchant.id).where(Merchant.slug == DIRECT_MERCHANT))
    if merchant_id is None:
        merchant_id = await _create(session, settings, credentials)
    for currency, rule in _PAYOUT_RULES.items():
        # By itself, for demos of before there were payouts.
        await session.execute(insert(PayoutRule).values(currency=currency, **rule).on_conflict_do_nothing())
    return DemoCredentials(merchant_id=merchant_id, **credentials)


def _credentials(settings: Settings) -> dict[str, str]:
    def derived(purpose: str) -> bytes:
        key = settings.secret_key.get_secret_value().encode()
        return hmac.digest(key, f"demo {purpose}".encode(), hashlib.sha256)

    prefix = derived("staff prefix").hex()[:8]
    return {
        "staff_api_key": f"cbk_{prefix}_{base64.urlsafe_b64encode(derived('staff secret')).decode().rstrip('=')}",
        "source_key": f"demo-{derived('source').hex()[:24]}",
        "webhook_secret": f"whsec_{base64.b64encode(derived('webhook')).decode()}",
        "customer_email": CUSTOMER_EMAIL,
        "customer_password": f"demo-{derived('customer').hex()[:12]}",
    }


async def _create(session: AsyncSession, settings: Settings, credentials: dict[str, str]) -> int:
    _, prefix, secret = credentials["staff_api_key"].split("_", 2)
    session.add(
        StaffKey(name="demo", role=StaffRole.ADMIN, prefix=prefix, key_hash=hashlib.sha256(secret.encode()).digest())
    )
    session.add(
        Customer(
            email=CUSTOMER_EMAIL,
            password_hash=await Passwords(concurrency=1).hash(credentials["customer_password"]),
            display_name="Demo Customer",
            referral_code="DEMO0001",
        )
    )
    direct = await add_source(
        session,
        source_key=credentials["source_key"],
        name="Demo merchants (direct)",
        preset="direct",
        definition=get_preset("direct").definition,
        secrets_encrypted=seal(settings, [credentials["webhook_secret"]]),
    )
    awin = await add_source(
        session,
        source_key=f"{credentials['source_key']}-awin",
        name="Demo network",
        preset="awin",
        definition=get_preset("awin").definition,
        secrets_encrypted=None,
    )
    categories = {slug: Category(slug=slug, name=name) for slug, name in _CATEGORIES.items()}
    program = ReferralProgram(
        currency="PKR",
        referrer_bonus_minor=50_000,
        invited_bonus_minor=25_000,
        minimum_sale_minor=100_000,
        max_granted=50,
        valid_from=_VALID_FROM,
    )
    session.add_all([program, *categories.values()])
    await session.flush()
    catalogue_changed(session)
    merchants = [
        await _create_merchant(
            session, demo, category=categories[demo.category], source=awin if demo.currency == "EUR" else direct
        )
        for demo in _MERCHANTS
    ]
    session.add(
        Campaign(
            name="Welcome week",
            status=CampaignStatus.ACTIVE,
            merchant_id=merchants[1].id,
            kind=RateKind.PERCENT_OF_SALE,
            basis_points=200,
            currency=merchants[1].currency,
            cap_minor=50_000,
            minimum_sale_minor=500_000,
            budget_minor=10_000_000,
            spent_minor=0,
            valid_from=_VALID_FROM,
        )
    )
    for base, rate in _EXCHANGE_RATES.items():
        await add_exchange_rate(
            session, base=base, quote="PKR", rate=rate, effective_on=datetime.now(UTC).date(), created_by_id=None
        )
    await session.flush()
    return merchants[0].id


async def _create_merchant(
    session: AsyncSession, demo: _DemoMerchant, *, category: Category, source: Source
) -> Merchant:
    home = f"https://{demo.slug}.example"
    merchant = Merchant(
        slug=demo.slug,
        name=demo.name,
        description=demo.description,
        category_id=category.id,
        currency=demo.currency,
        tracking_url=f"{home}/",
        source_id=source.id,
        hold_days=demo.hold_days,
    )
    session.add(merchant)
    await session.flush()
    session.add(Rate(merchant_id=merchant.id, valid_from=_VALID_FROM, **demo.rate))
    for number, (brand, title, price_minor) in enumerate(demo.products, start=1):
        session.add(
            Offer(
                merchant_id=merchant.id,
                external_id=f"demo-{number}",
                title=title,
                brand=brand,
                category_id=category.id,
                url=f"{home}/products/{number}",
                currency=demo.currency,
                price_minor=price_minor,
                price_max_minor=price_minor,
                content_hash=hashlib.blake2b(title.encode(), digest_size=16).digest(),
            )
        )
    await session.flush()
    return merchant
