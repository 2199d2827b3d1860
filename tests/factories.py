"""Rows for tests, valid by default; pass what the test is about."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.ids import new_id
from app.models import (
    Category,
    Click,
    Customer,
    CustomerSession,
    Merchant,
    Offer,
    Order,
    OrderStatus,
    Payout,
    PayoutMethod,
    PayoutMethodKind,
    PayoutProvider,
    PayoutRule,
    PayoutStatus,
    Rate,
    RateKind,
    Source,
    StaffRole,
)
from app.schemas.source_definitions import SourceDefinition
from app.services import sources, staff
from app.services.orders.change import Target, change
from app.services.orders.report import start_order
from app.services.payouts import decide, life
from app.services.payouts.accounts import PayoutAccount, fingerprint, mask, seal_account
from app.services.signing_keys import derived_ring
from app.services.tokens import issue_access_token

Row = TypeVar("Row")
_numbers = itertools.count(1)


async def make_customer(session: AsyncSession, **changes: Any) -> Customer:
    """An active customer with a verified address and without a password."""
    number = next(_numbers)
    values = {
        "email": f"customer-{number}-{new_id().hex[-8:]}@example.com",
        "email_verified_at": datetime.now(UTC),
        "referral_code": new_id().hex[-12:],
    }
    customer = await _add(session, Customer(**{**values, **changes}))
    # What `customer_headers` come from; so that those need no database, it has the customer's id.
    expires_at = datetime.now(UTC) + timedelta(days=30)
    await _add(session, CustomerSession(id=customer.id, customer_id=customer.id, expires_at=expires_at))
    return customer


async def make_category(session: AsyncSession, **changes: Any) -> Category:
    """A category."""
    number = next(_numbers)
    return await _add(session, Category(**{"slug": f"category-{number}", "name": f"Category {number}", **changes}))


async def make_source(
    session: AsyncSession,
    *,
    preset: str = "direct",
    definition: SourceDefinition | None = None,
    secrets_encrypted: bytes | None = None,
    **changes: Any,
) -> Source:
    """An active source, direct by default. Give `secrets_encrypted` when its signature matters."""
    number = next(_numbers)
    source = await sources.add_source(
        session,
        source_key=f"key-{number}-{new_id().hex[-12:]}",
        name=f"Source {number}",
        preset=None if definition is not None else preset,
        definition=definition or sources.get_preset(preset).definition,
        secrets_encrypted=secrets_encrypted,
    )
    for name, value in changes.items():
        setattr(source, name, value)
    await session.flush()
    return source


async def make_merchant(session: AsyncSession, *, rate_basis_points: int | None = 500, **changes: Any) -> Merchant:
    """An active merchant in PKR with a source of its own and 5 % of the sale; `rate_basis_points=None`: no rate."""
    number = next(_numbers)
    if "source_id" not in changes:
        changes["source_id"] = (await make_source(session)).id
    values = {
        "slug": f"merchant-{number}",
        "name": f"Merchant {number}",
        "currency": "PKR",
        "tracking_url": f"https://merchant-{number}.example/",
        "hold_days": 30,
    }
    merchant = await _add(session, Merchant(**{**values, **changes}))
    if rate_basis_points is not None:
        await make_rate(session, merchant, basis_points=rate_basis_points)
    return merchant


async def make_rate(session: AsyncSession, merchant: Merchant, **changes: Any) -> Rate:
    """A percentage of the sale, in force since yesterday."""
    values = {
        "merchant_id": merchant.id,
        "kind": RateKind.PERCENT_OF_SALE,
        "valid_from": datetime.now(UTC) - timedelta(days=1),
    }
    return await _add(session, Rate(**{**values, **changes}))


async def make_offer(session: AsyncSession, merchant: Merchant, **changes: Any) -> Offer:
    """A live offer of 10.00 in the merchant's currency."""
    number = next(_numbers)
    price = changes.pop("price_minor", 1000)
    values = {
        "merchant_id": merchant.id,
        "external_id": f"sku-{number}",
        "title": f"Product {number}",
        "url": f"https://merchant.example/p/{number}",
        "currency": merchant.currency,
        "price_minor": price,
        "price_max_minor": price,
        "content_hash": number.to_bytes(16, "big"),
    }
    return await _add(session, Offer(**{**values, **changes}))


async def make_click(session: AsyncSession, customer: Customer, merchant: Merchant, **changes: Any) -> Click:
    """A click of now at 5 % of the sale, good for 45 days."""
    values = {
        "customer_id": customer.id,
        "merchant_id": merchant.id,
        "target_url": merchant.tracking_url,
        "rate_kind": RateKind.PERCENT_OF_SALE,
        "rate_basis_points": 500,
        "currency": merchant.currency,
        "expires_at": datetime.now(UTC) + timedelta(days=45),
    }
    return await _add(session, Click(**{**values, **changes}))


async def make_order(
    session: AsyncSession,
    click: Click,
    *,
    status: OrderStatus = OrderStatus.PENDING,
    sale: int = 100_000,
    commission: int = 8_000,
    cashback: int = 5_000,
    **changes: Any,
) -> Order:
    """An order of the click in a state, posted to the ledger. Amounts in minor units of `currency`: the merchant's."""
    merchant = await session.get_one(Merchant, click.merchant_id)
    order = await start_order(
        session,
        merchant=merchant,
        source_id=merchant.source_id or 0,
        click=click,
        external_id=changes.pop("external_id", None) or f"A-{new_id()}",
        reported_currency=merchant.currency,
        ordered_at=changes.pop("ordered_at", None) or datetime.now(UTC),
        rate_max_age_days=7,
    )
    order.explanation = {
        "currency": order.currency,
        "steps": [{"step": "rate", "detail": "as the test has it", "amount_minor": cashback}],
        "cashback_minor": cashback,
    }
    order.currency = order.reported_currency = changes.pop("currency", order.currency)
    for name, value in changes.items():
        setattr(order, name, value)
    await change(session, order, Target(status, sale, commission, cashback, 0, sale, commission))
    return order


async def make_payout_rule(session: AsyncSession, currency: str = "PKR", **changes: Any) -> PayoutRule:
    """From 500.00 on, without a fee, 1,000,000.00 and 100 payouts a day, all decided by staff, sent in batches."""
    values = {
        "minimum_minor": 50_000,
        "fee_minor": 0,
        "fee_basis_points": 0,
        "daily_limit_minor": 100_000_000,
        "daily_count": 100,
        "auto_approve_minor": 0,
        "method_hold_hours": 24,
        "provider": PayoutProvider.BATCH,
    }
    return await _add(session, PayoutRule(currency=currency, **{**values, **changes}))


async def make_payout_method(
    session: AsyncSession, settings: Settings, customer: Customer, account: PayoutAccount | None = None, **changes: Any
) -> PayoutMethod:
    """A method whose hold is over; without an account: a bank account of this number alone."""
    account = account or PayoutAccount(
        PayoutMethodKind.LOCAL_ACCOUNT,
        "Ayesha Khan",
        country="PK",
        bank_code="HABB",
        account_number=f"{next(_numbers):014}",
    )
    values = {
        "customer_id": customer.id,
        "kind": account.kind,
        "details_encrypted": seal_account(settings, account),
        "masked": mask(account),
        "fingerprint": fingerprint(settings, account),
        "usable_from": datetime.now(UTC) - timedelta(hours=1),
    }
    return await _add(session, PayoutMethod(**{**values, **changes}))


async def pay_out(session: AsyncSession, settings: Settings, customer: Customer, amount: int, currency: str) -> Payout:
    """A payout that was asked for, approved, sent and paid, posted to the ledger."""
    payout = Payout(
        customer_id=customer.id,
        method_id=(await make_payout_method(session, settings, customer)).id,
        currency=currency,
        amount_minor=amount,
        fee_minor=0,
        status=PayoutStatus.REQUESTED,
        provider=PayoutProvider.BATCH,
    )
    await life.start(session, payout)
    for status in (PayoutStatus.APPROVED, PayoutStatus.SENT, PayoutStatus.PAID):
        await life.advance(session, payout, status)
    return payout


async def make_payout(
    session: AsyncSession,
    settings: Settings,
    *,
    customer: Customer | None = None,
    account: PayoutAccount | None = None,
    amount: int = 60_000,
    **changes: Any,
) -> Payout:
    """An approved payout in PKR by a batch, of a customer of its own who had the money, in the ledger."""
    customer = customer or await make_customer(session)
    currency = changes.get("currency", "PKR")
    merchant = await make_merchant(session, currency=currency)
    click = await make_click(session, customer, merchant)
    await make_order(
        session, click, status=OrderStatus.PAYABLE, sale=amount, commission=amount, cashback=amount, currency=currency
    )
    values = {
        "customer_id": customer.id,
        "method_id": (await make_payout_method(session, settings, customer, account)).id,
        "currency": currency,
        "amount_minor": amount,
        "fee_minor": 0,
        "status": PayoutStatus.REQUESTED,
        "provider": PayoutProvider.BATCH,
    }
    payout = Payout(**{**values, **changes})
    await life.start(session, payout)
    await decide.approve(session, payout, staff_key_id=None)
    return payout


async def staff_headers(session: AsyncSession, role: StaffRole = StaffRole.ADMIN) -> dict[str, str]:
    """Headers of a new staff key with a role."""
    _, key = await staff.create_key(session, name=f"test {role}", role=role)
    return {"X-API-Key": key}


def customer_headers(settings: Settings, customer: Customer) -> dict[str, str]:
    """Headers of a signed-in customer."""
    key = derived_ring(settings).signing()
    token = issue_access_token(settings, key, customer_id=customer.id, session_id=customer.id)
    return {"Authorization": f"Bearer {token}"}


async def _add(session: AsyncSession, row: Row) -> Row:
    session.add(row)
    await session.flush()
    return row
