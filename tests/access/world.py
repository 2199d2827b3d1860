"""One customer and one merchant who own a row of everything, another of each who own nothing, and all credentials."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from app.config import Settings
from app.ids import new_id
from app.models import (
    Account,
    Campaign,
    Claim,
    DataExport,
    Feed,
    FeedFormat,
    FraudRule,
    FraudRuleKind,
    Merchant,
    MonthClose,
    NotificationDelivery,
    NotificationEndpoint,
    Payout,
    PayoutBatch,
    PayoutMethod,
    Poller,
    Proposal,
    ProposalKind,
    RateKind,
    Referral,
    ReportKind,
    SettlementLine,
    Source,
    StaffRole,
    StaffScope,
    SyncRun,
    SyncStatus,
    Transfer,
    WebhookEvent,
    WebhookReplay,
    WebhookStatus,
)
from app.schemas.ledger import MonthReport
from app.schemas.merchant_keys import MerchantKeyCreate
from app.services import merchant_keys, staff
from app.services.secrets import seal
from tests.access.matrix import Caller, Operation
from tests.factories import customer_headers, make_customer, make_merchant, make_source, staff_headers
from tests.privacy.world import MARK, add_export, make_person

MONTH = date(2026, 1, 1)


async def _scoped(session: AsyncSession) -> dict[tuple[Caller, str], dict[str, str]]:
    """Keys with every role's power, limited to one scope each, and to all scopes but one."""
    keys: dict[tuple[Caller, str], dict[str, str]] = {}
    for scope in StaffScope:
        others = [one for one in StaffScope if one is not scope]
        for caller, scopes in ((Caller.SCOPED, [scope]), (Caller.OUT_OF_SCOPE, others)):
            _, key = await staff.create_key(session, name=caller.value, role=StaffRole.ADMIN, scopes=scopes)
            keys[caller, scope.value] = {"X-API-Key": key}
    return keys


def _rows(
    merchant_id: int, source_id: int, polled_id: int, member_id: UUID, proposer_id: UUID, payout_id: UUID
) -> dict[str, Any]:
    """What a person leaves no trace in, but staff and merchants have names of."""
    now = datetime.now(UTC)
    report = MonthReport(accounts=[], days=31, postings=0, transfers={})
    return {
        "campaign": Campaign(
            name="Eid",
            merchant_id=merchant_id,
            kind=RateKind.PERCENT_OF_SALE,
            basis_points=100,
            currency="PKR",
            valid_from=now,
        ),
        "rule": FraudRule(
            kind=FraudRuleKind.CLICK_TO_ORDER,
            merchant_id=merchant_id,
            number=1,
            enabled=True,
            thresholds={"kind": "click_to_order", "minimum_seconds": 10},
            created_by_id=member_id,
        ),
        "run": SyncRun(merchant_id=merchant_id, status=SyncStatus.FAILED),
        "feed": Feed(
            merchant_id=merchant_id,
            url="http://127.0.0.1:9/feed.json",
            format=FeedFormat.JSON,
            mapping={"external_id": "id", "title": "title", "url": "url", "price": "price"},
        ),
        "orphan": WebhookEvent(
            id=new_id(),
            source_id=source_id,
            merchant_id=merchant_id,
            dedupe_key="orphan",
            body=b"{}",
            body_sha256=b"x" * 32,
            content_type="application/json",
            headers={},
            status=WebhookStatus.ORPHANED,
            external_order_id="O-1",
            reported_kind=ReportKind.CREATED,
            reported_currency="PKR",
            reported_sale_minor=1,
            reported_at=now,
        ),
        "replay": WebhookReplay(filter={}, total=0, requested_by_id=member_id),
        "batch": PayoutBatch(
            reference="B-1",
            currency="PKR",
            payout_count=1,
            total_minor=4_500,
            csv_encrypted=b"",
            pain001_missing="no IBAN",
            created_by_id=member_id,
        ),
        "proposal": Proposal(
            kind=ProposalKind.PAYOUT_APPROVAL,
            target_id=payout_id,
            wanted=None,
            amount_minor=1,
            currency="PKR",
            proposed_by_id=proposer_id,
            expires_at=now + timedelta(days=1),
        ),
        "poller": Poller(source_id=polled_id, interval_seconds=3_600, enabled=False),
        "month": MonthClose(
            month=MONTH, report=report.model_dump(mode="json"), chain_hash=b"h" * 32, closed_by_id=member_id
        ),
    }


@dataclass
class World:
    """The application, what exists in it, and who can call it."""

    # Values of path parameters; `by_path` has those of paths where the name means something else.
    names: dict[str, str]
    by_path: dict[str, dict[str, str]]
    # What belongs to the first customer or merchant, and must be seen by no other.
    marks: dict[str, set[str]]
    credentials: dict[Caller, dict[str, str]]
    by_scope: dict[tuple[Caller, str], dict[str, str]]
    # Given by whoever calls.
    connection: AsyncConnection = field(init=False, repr=False)
    client: httpx.AsyncClient = field(init=False, repr=False)

    def url(self, operation: Operation) -> str:
        """The path of an operation with names of what exists."""
        special = next((names for start, names in self.by_path.items() if operation.path.startswith(start)), {})
        return operation.path.format_map({**self.names, **special})

    def headers(self, operation: Operation, caller: Caller) -> dict[str, str]:
        """The credential of a caller."""
        if operation.scope is not None and (caller, operation.scope) in self.by_scope:
            return self.by_scope[caller, operation.scope]
        return self.credentials[caller]

    async def call(self, method: str, url: str, headers: dict[str, str], **content: Any) -> httpx.Response:
        """Send a request and take back whatever it did."""
        async with self.undone():
            return await self.client.request(method, url, headers=headers, **content)

    @asynccontextmanager
    async def undone(self) -> AsyncIterator[None]:
        """Take back whatever the requests inside did to the database."""
        savepoint = await self.connection.begin_nested()
        try:
            yield
        finally:
            await savepoint.rollback()


async def make_world(session: AsyncSession, settings: Settings) -> World:
    """Create it, inside the session's transaction."""
    person = await make_person(session, settings)
    customer, order, merchant_id = person.customer, person.order, person.order.merchant_id
    source_id = order.source_id
    members = {role: await staff.create_key(session, name=f"{role}", role=role) for role in StaffRole}
    admin, _ = members[StaffRole.ADMIN]
    polled = await make_source(session, preset="awin", secrets_encrypted=seal(settings, ["whsec_" + "c2VjcmV0" * 4]))
    own_key = await merchant_keys.create_key(
        session, merchant_id=merchant_id, wanted=MerchantKeyCreate(name="own"), member_id=admin.id
    )
    other_merchant = await make_merchant(session)
    other_key = await merchant_keys.create_key(
        session, merchant_id=other_merchant.id, wanted=MerchantKeyCreate(name="other"), member_id=admin.id
    )
    proposer, _ = await staff.create_key(session, name="proposer", role=StaffRole.OPERATOR)
    await add_export(session, customer)
    paid = (await session.scalars(select(Payout).where(Payout.customer_id == customer.id))).one()
    rows = _rows(merchant_id, source_id, polled.id, admin.id, proposer.id, paid.id)
    session.add_all(rows.values())
    await session.flush()
    paid.batch_id = rows["batch"].id
    endpoint = (await session.scalars(select(NotificationEndpoint))).one()
    endpoint.secrets_encrypted = seal(settings, ["whsec_" + "c2VjcmV0" * 4])

    async def one(column: Any, *where: Any) -> str:
        return str((await session.scalars(select(column).where(*where).order_by(column).limit(1))).one())

    of_customer = {
        "session_id": str(customer.id),
        "method_id": await one(PayoutMethod.id, PayoutMethod.customer_id == customer.id),
        "payout_id": str(paid.id),
        "claim_id": await one(Claim.id, Claim.customer_id == customer.id),
        "order_id": str(order.id),
    }
    of_merchant = {"order_id": str(order.id), "event_id": str(person.event.id), "job_id": str(rows["run"].id)}
    slug = (await session.get_one(Merchant, merchant_id)).slug
    names = {
        "merchant_id": str(merchant_id),
        "id_or_slug": slug,
        "customer_id": str(customer.id),
        "currency": "PKR",
        **of_customer,
        **of_merchant,
        "click_id": str(order.click_id),
        "source_id": str(source_id),
        "source_key": await one(Source.source_key, Source.id == source_id),
        "campaign_id": str(rows["campaign"].id),
        "rule_id": str(rows["rule"].id),
        "replay_id": str(rows["replay"].id),
        "proposal_id": str(rows["proposal"].id),
        "batch_id": str(rows["batch"].id),
        "month": f"{MONTH:%Y-%m}",
        "account": Account.CUSTOMER_PENDING.value,
        "line_id": await one(SettlementLine.id),
        "settlement_id": await one(SettlementLine.settlement_id),
        "transfer_id": await one(Transfer.id),
        "program_id": await one(Referral.program_id),
        "referral_id": await one(Referral.id),
        "endpoint_id": str(endpoint.id),
        "delivery_id": await one(NotificationDelivery.id),
        "key_id": str(own_key.id),
    }
    by_path = {
        "/v1/admin/orphans": {"event_id": str(rows["orphan"].id)},
        "/v1/admin/staff-keys": {"key_id": str(admin.id)},
        "/v1/admin/sources/{source_id}/poll": {"source_id": str(polled.id)},
    }
    credentials = {
        Caller.ANONYMOUS: {},
        Caller.CUSTOMER: customer_headers(settings, customer),
        Caller.OTHER_CUSTOMER: customer_headers(settings, await make_customer(session)),
        Caller.MERCHANT: {"X-API-Key": own_key.key},
        Caller.OTHER_MERCHANT: {"Authorization": f"Bearer {other_key.key}"},
        **{Caller(role.value): {"X-API-Key": key} for role, (_, key) in members.items()},
        **dict.fromkeys((Caller.SCOPED, Caller.OUT_OF_SCOPE), await staff_headers(session)),
    }
    marks = {
        "customer": {
            *of_customer.values(),
            MARK,
            customer.email,
            customer.referral_code,
            str(order.click_id),
            await one(DataExport.id),
        },
        "merchant": {*of_merchant.values(), order.external_id},
    }
    return World(names, by_path, marks, credentials, await _scoped(session))
