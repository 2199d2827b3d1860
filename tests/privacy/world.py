"""A person who is everywhere: each table that can name one has a row with a mark, to be found or missed."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import Table, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.ids import new_id
from app.models import (
    Base,
    Claim,
    ClaimStatus,
    Clawback,
    ClawbackPolicy,
    Customer,
    CustomerSession,
    DataExport,
    DataExportPart,
    ExternalIdentity,
    IdempotencyKey,
    Message,
    MessageChannel,
    MessageKind,
    Notification,
    NotificationDelivery,
    NotificationEndpoint,
    OneTimePurpose,
    OneTimeToken,
    Order,
    OrderReport,
    OrderReview,
    OrderReviewChange,
    OrderReviewCheck,
    OrderStatus,
    PayoutChange,
    PayoutMethodKind,
    Referral,
    ReferralCheck,
    ReferralProgram,
    RefreshToken,
    ReportKind,
    Settlement,
    SettlementLine,
    SettlementLineStatus,
    StaffRole,
    WebhookEvent,
    WebhookStatus,
)
from app.services import staff
from app.services.payouts.accounts import PayoutAccount
from app.services.secrets import keyed_hash
from tests.factories import (
    make_click,
    make_customer,
    make_merchant,
    make_order,
    make_payout_method,
    make_payout_rule,
    pay_out,
)

MARK = "Zyxwvu-Person"


@dataclass
class Person:
    """The customer, and what the tests ask about."""

    customer: Customer
    order: Order
    event: WebhookEvent


async def make_person(session: AsyncSession, settings: Settings, *, password_hash: str | None = None) -> Person:
    """A customer with a row in every table that leads to customers, MARK wherever a text can name somebody."""
    member, _ = await staff.create_key(session, name="desk", role=StaffRole.ADMIN)
    customer = await make_customer(
        session,
        email=f"{MARK}@example.com".lower(),
        display_name=MARK,
        password_hash=password_hash,
        address_hint=keyed_hash(settings, "address", "203.0.113.7"),
        device_hint=keyed_hash(settings, "device", MARK),
    )
    await session.execute(
        update(CustomerSession).where(CustomerSession.customer_id == customer.id).values(device_label=f"{MARK}'s phone")
    )
    friend = await make_customer(session)
    merchant = await make_merchant(session)
    click = await make_click(session, customer, merchant, address_hint=keyed_hash(settings, "address", "203.0.113.7"))
    # Below what could be paid out, so that nothing keeps the account open.
    order = await make_order(session, click, status=OrderStatus.PAYABLE, cashback=5_000, commission=8_000)
    event = WebhookEvent(
        id=new_id(),
        source_id=order.source_id,
        dedupe_key="message-1",
        body=orjson.dumps({"customer": MARK}),
        query=f"name={MARK}".encode(),
        body_sha256=b"x" * 32,
        content_type="application/json",
        headers={"x-customer": MARK},
        status=WebhookStatus.PROCESSED,
        order_id=order.id,
    )
    session.add(event)
    await session.flush()
    review = {"order_id": order.id, "status": "released", "findings": [], "note": f"{MARK} is fine"}
    session.add_all(
        [
            OrderReview(
                **review, merchant_id=merchant.id, held_since=order.ordered_at, decided_at=order.ordered_at, seen={}
            ),
            OrderReviewChange(**review),
            OrderReviewCheck(order_id=order.id),
            OrderReport(
                order_id=order.id,
                webhook_event_id=event.id,
                kind=ReportKind.CREATED,
                occurred_at=order.ordered_at,
                currency="PKR",
                sale_minor=100_000,
                commission_minor=8_000,
            ),
            OrderReport(
                order_id=order.id,
                staff_key_id=member.id,
                reason=f"{MARK} called",
                kind=ReportKind.APPROVED,
                occurred_at=order.ordered_at,
                currency="PKR",
            ),
            ExternalIdentity(customer_id=customer.id, issuer="https://idp.example", subject=MARK),
            Message(
                customer_id=customer.id, channel=MessageChannel.EMAIL, kind=MessageKind.VERIFY_EMAIL, recipient=MARK
            ),
            # Asked for without a sign-in.
            Message(channel=MessageChannel.EMAIL, kind=MessageKind.RESET_PASSWORD, recipient=customer.email),
            OneTimeToken(
                customer_id=customer.id,
                purpose=OneTimePurpose.VERIFY_EMAIL,
                address=MARK,
                token_hash=b"o" * 32,
                expires_at=datetime.now(UTC) + timedelta(days=1),
            ),
            RefreshToken(
                customer_id=customer.id,
                family_id=new_id(),
                token_hash=b"t" * 32,
                expires_at=datetime.now(UTC) + timedelta(days=1),
            ),
            Claim(
                customer_id=customer.id,
                merchant_id=merchant.id,
                order_reference="=HYPERLINK(1)",
                reference_key="r-1",
                ordered_at=order.ordered_at,
                amount_minor=100,
                currency="PKR",
                note=f"I am {MARK}",
                evidence=[{"kind": "other", "value": MARK}],
                status=ClaimStatus.REJECTED,
                due_at=datetime.now(UTC),
                resolution_note=f"Dear {MARK}",
            ),
            IdempotencyKey(
                scope=str(customer.id),
                key="k",
                request_hash=b"",
                status_code=200,
                body=MARK.encode(),
                expires_at=datetime.now(UTC) + timedelta(days=1),
            ),
        ]
    )
    await _add_books(session, customer, order, member.id)
    await _add_payouts(session, settings, customer)
    await _add_friends(session, customer, friend, order)
    await _add_notification(session, customer)
    await session.flush()
    return Person(customer, order, event)


async def _add_books(session: AsyncSession, customer: Customer, order: Order, member_id: Any) -> None:
    settlement = Settlement(
        merchant_id=order.merchant_id,
        reference="S-1",
        currency="PKR",
        paid_on=order.ordered_at.date(),
        total_minor=0,
        lines_by_status={},
        created_by_id=member_id,
    )
    session.add(settlement)
    await session.flush()
    session.add_all(
        [
            # Nothing paid, nothing expected: the books need no posting for it.
            SettlementLine(
                settlement_id=settlement.id,
                number=1,
                order_reference=order.external_id,
                amount_minor=0,
                expected_minor=0,
                order_id=order.id,
                status=SettlementLineStatus.MATCHED,
            ),
            Clawback(
                order_id=order.id,
                customer_id=customer.id,
                currency="PKR",
                policy=ClawbackPolicy.NEGATIVE,
                status="reinstated",
                shortfall_minor=1,
            ),
        ]
    )


async def _add_payouts(session: AsyncSession, settings: Settings, customer: Customer) -> None:
    await make_payout_rule(session, minimum_minor=4_000)
    account = PayoutAccount(PayoutMethodKind.EMAIL, MARK, provider="PayPal", email=f"{MARK}@example.com")
    await make_payout_method(session, settings, customer, account, masked=f"PayPal {MARK}")
    payout = await pay_out(session, settings, customer, 4_500, "PKR")
    payout.reason = f"paid to {MARK}"
    changes = await session.scalars(select(PayoutChange).where(PayoutChange.payout_id == payout.id))
    for change in changes:
        change.reason = f"because of {MARK}"


async def _add_friends(session: AsyncSession, customer: Customer, friend: Customer, order: Order) -> None:
    program = ReferralProgram(
        currency="PKR", referrer_bonus_minor=1, invited_bonus_minor=1, max_granted=1, valid_from=order.ordered_at
    )
    session.add(program)
    await session.flush()
    referral = Referral(
        id=new_id(),
        program_id=program.id,
        referrer_id=customer.id,
        invited_id=friend.id,
        status="refused",
        reason="by_staff",
        currency="PKR",
        referrer_bonus_minor=1,
        invited_bonus_minor=1,
        note=f"{MARK} is the friend",
    )
    session.add(referral)
    await session.flush()
    session.add(ReferralCheck(referral_id=referral.id))


async def _add_notification(session: AsyncSession, customer: Customer) -> None:
    endpoint = NotificationEndpoint(url="https://crm.example/", topics=["wallet"], secrets_encrypted=b"s")
    notification = Notification(id=new_id(), type="wallet.changed", data={"customer_id": str(customer.id)})
    session.add_all([endpoint, notification])
    await session.flush()
    session.add(NotificationDelivery(notification_id=notification.id, endpoint_id=endpoint.id))


async def add_export(session: AsyncSession, customer: Customer) -> None:
    """A finished export with a piece of it."""
    export = DataExport(
        id=new_id(),
        customer_id=customer.id,
        status="ready",
        ready_at=datetime.now(UTC),
        expires_at=datetime.now(UTC) + timedelta(days=1),
        size_bytes=3,
    )
    session.add(export)
    await session.flush()
    session.add(DataExportPart(export_id=export.id, number=0, content_encrypted=MARK.encode()))
    await session.flush()


def personal_tables() -> set[str]:
    """Names of all tables from which references lead to customers, by however many steps."""
    tables: dict[str, Table] = dict(Base.metadata.tables)
    # A notification names its customer in its JSON.
    found = {"customers", "notifications"}
    while True:
        more = {
            name
            for name, table in tables.items()
            if name not in found and any(key.column.table.name in found for key in table.foreign_keys)
        }
        if not more:
            return found
        found |= more


async def tables_with(session: AsyncSession, mark: str) -> set[str]:
    """Names of all tables, in the whole database, that have a row with the mark: in a text, in JSON or in bytes."""
    found = set()
    for name in Base.metadata.tables:
        statement = text(
            f"SELECT EXISTS (SELECT FROM {name} AS one WHERE one::text ILIKE :mark OR one::text ILIKE :in_bytes)"  # noqa: S608 - names of our own tables
        )
        shown = {"mark": f"%{mark}%", "in_bytes": f"%{mark.encode().hex()}%"}
        if (await session.execute(statement, shown)).scalar():
            found.add(name)
    return found


async def empty_tables(session: AsyncSession) -> set[str]:
    """Names of tables that lead to customers and have no row: the person is missing in them."""
    found = set()
    for name in personal_tables():
        if not (await session.execute(text(f"SELECT EXISTS (SELECT FROM {name})"))).scalar():  # noqa: S608 - see above
            found.add(name)
    return found
