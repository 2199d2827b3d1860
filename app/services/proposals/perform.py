"""What can be proposed: how each kind is done, and how much it moves."""

from typing import Any, assert_never
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import undone
from app.models import (
    Order,
    Payout,
    PayoutBatch,
    PayoutStatus,
    ProposalKind,
    Settlement,
    SettlementLine,
    StaffKey,
    StaffRole,
    StaffScope,
    WebhookEvent,
)
from app.schemas.claims import ClaimApproval
from app.schemas.common import Money
from app.schemas.orders import OrderAdjustment
from app.schemas.orphans import OrphanMatch
from app.schemas.payout_batches import PayoutBatchSettlement, PayoutSettlement
from app.schemas.settlements import SettlementReopen, SettlementResolve
from app.schemas.webhooks import ReleaseRequest
from app.services.claims.resolve import approve_claim
from app.services.orders.adjust import UnknownOrderError, adjust_order
from app.services.orphans.decide import match_orphan
from app.services.payouts.decide import approve_by_staff
from app.services.payouts.settle import settle_batch, settle_payout
from app.services.settlements.resolve import reopen_line, resolve_line
from app.services.settlements.show import SettlementLineNotFoundError
from app.services.webhooks.inbox import release
from app.services.webhooks.process import process_event

# What whoever confirms must be allowed to do: the same as whoever does it in one go.
NEEDS: dict[ProposalKind, tuple[StaffRole, StaffScope]] = {
    ProposalKind.PAYOUT_APPROVAL: (StaffRole.OPERATOR, StaffScope.PAYOUTS_APPROVE),
    ProposalKind.PAYOUT_SETTLEMENT: (StaffRole.FINANCE, StaffScope.PAYOUTS_SEND),
    ProposalKind.BATCH_SETTLEMENT: (StaffRole.FINANCE, StaffScope.PAYOUTS_SEND),
    ProposalKind.ORDER_ADJUSTMENT: (StaffRole.FINANCE, StaffScope.ORDERS_WRITE),
    ProposalKind.CLAIM_APPROVAL: (StaffRole.OPERATOR, StaffScope.ORDERS_WRITE),
    ProposalKind.ORPHAN_MATCH: (StaffRole.OPERATOR, StaffScope.ORDERS_WRITE),
    ProposalKind.EVENT_RELEASE: (StaffRole.FINANCE, StaffScope.EVENTS_WRITE),
    ProposalKind.SETTLEMENT_RESOLUTION: (StaffRole.FINANCE, StaffScope.LEDGER_WRITE),
    ProposalKind.SETTLEMENT_REOPENING: (StaffRole.FINANCE, StaffScope.LEDGER_WRITE),
}


async def perform(  # noqa: PLR0911 - one return a kind
    session: AsyncSession,
    settings: Settings,
    *,
    kind: ProposalKind,
    target_id: UUID,
    member: StaffKey,
    wanted: dict[str, Any] | None,
) -> Money:
    """Do it, by the ordinary path and with that one's errors; returns the most that it moves anywhere."""
    match kind:
        case ProposalKind.PAYOUT_APPROVAL:
            payout = await approve_by_staff(session, payout_id=target_id, staff_key_id=member.id)
            return Money(amount_minor=payout.amount_minor, currency=payout.currency)
        case ProposalKind.PAYOUT_SETTLEMENT:
            settled = PayoutSettlement.model_validate(wanted)
            payout = await settle_payout(session, payout_id=target_id, wanted=settled, staff_key_id=member.id)
            # Only a failure gives money back, which can then be asked for again.
            failed = settled.status is PayoutStatus.FAILED
            return Money(amount_minor=payout.amount_minor if failed else 0, currency=payout.currency)
        case ProposalKind.BATCH_SETTLEMENT:
            return await _settle_batch(session, target_id, member, PayoutBatchSettlement.model_validate(wanted))
        case ProposalKind.ORDER_ADJUSTMENT:
            return await _adjust(session, settings, target_id, member, OrderAdjustment.model_validate(wanted))
        case ProposalKind.CLAIM_APPROVAL:
            approval = ClaimApproval.model_validate(wanted)
            claim = await approve_claim(session, settings, claim_id=target_id, member=member, wanted=approval)
            claimed = Money(amount_minor=claim.amount_minor, currency=claim.currency)
            return await _credited(session, claim.order_id, otherwise=claimed)
        case ProposalKind.ORPHAN_MATCH:
            match_ = OrphanMatch.model_validate(wanted)
            event = await match_orphan(session, settings, event_id=target_id, member=member, wanted=match_)
            return await _credited(session, event.order_id, otherwise=_reported(event))
        case ProposalKind.EVENT_RELEASE:
            reason = ReleaseRequest.model_validate(wanted).reason
            return await _release(session, settings, target_id, member, reason)
        case ProposalKind.SETTLEMENT_RESOLUTION | ProposalKind.SETTLEMENT_REOPENING:
            before = await _due_for_line(session, target_id)
            if kind is ProposalKind.SETTLEMENT_RESOLUTION:
                resolution = SettlementResolve.model_validate(wanted)
                await resolve_line(session, line_id=target_id, wanted=resolution, member_id=member.id)
            else:
                note = SettlementReopen.model_validate(wanted).note
                await reopen_line(session, line_id=target_id, note=note, member_id=member.id)
            after = await _due_for_line(session, target_id)
            return max(before, after, key=lambda money: money.amount_minor)
        case _:
            assert_never(kind)


async def _adjust(
    session: AsyncSession, settings: Settings, order_id: UUID, member: StaffKey, wanted: OrderAdjustment
) -> Money:
    order = await session.get(Order, order_id, with_for_update=True, populate_existing=True)
    if order is None:
        raise UnknownOrderError(order_id)
    status, was = order.status, (order.cashback_minor, order.commission_minor)
    await adjust_order(session, settings, order_id=order_id, member=member, wanted=wanted)
    now = (order.cashback_minor, order.commission_minor)
    if order.status is status:
        moved = max(abs(after - before) for before, after in zip(was, now, strict=True))
    else:
        # All of it comes to another account.
        moved = max(*was, *now)
    return Money(amount_minor=moved, currency=order.currency)


async def _settle_batch(
    session: AsyncSession, batch_id: UUID, member: StaffKey, wanted: PayoutBatchSettlement
) -> Money:
    await settle_batch(session, batch_id=batch_id, wanted=wanted, staff_key_id=member.id)
    failed = [failure.payout_id for failure in wanted.failures]
    given_back = await session.scalar(select(func.sum(Payout.amount_minor)).where(Payout.id.in_(failed)))
    currency = (await session.scalars(select(PayoutBatch.currency).where(PayoutBatch.id == batch_id))).one()
    return Money(amount_minor=int(given_back or 0), currency=currency)


async def _release(session: AsyncSession, settings: Settings, event_id: UUID, member: StaffKey, reason: str) -> Money:
    event = await release(session, event_id, member=member, reason=reason)
    # A worker credits it later; what that will move is tried here.
    async with undone(session):
        await process_event(session, settings, event_id)
        await session.refresh(event)
        moved = await _credited(session, event.order_id, otherwise=_reported(event))
    await session.refresh(event)
    return moved


async def _credited(session: AsyncSession, order_id: UUID | None, *, otherwise: Money) -> Money:
    """Return the cashback of an order; while it waits, for an exchange rate say, what its sale was."""
    order = None if order_id is None else await session.get(Order, order_id)
    if order is None:
        return otherwise
    return Money(amount_minor=order.cashback_minor, currency=order.currency)


def _reported(event: WebhookEvent) -> Money:
    # Nothing was read of it, so nothing can be credited either.
    if event.reported_sale_minor is None or event.reported_currency is None:
        return Money(amount_minor=0, currency="XXX")
    return Money(amount_minor=event.reported_sale_minor, currency=event.reported_currency)


async def _due_for_line(session: AsyncSession, line_id: UUID) -> Money:
    row = (
        await session.execute(
            select(SettlementLine.amount_minor, SettlementLine.order_id, Settlement.currency)
            .join(Settlement, Settlement.id == SettlementLine.settlement_id)
            .where(SettlementLine.id == line_id)
        )
    ).one_or_none()
    if row is None:
        raise SettlementLineNotFoundError(line_id)
    order = None if row.order_id is None else await session.get(Order, row.order_id)
    due_minor = 0 if order is None else abs(order.due_minor)
    return Money(amount_minor=max(abs(row.amount_minor), due_minor), currency=row.currency)
