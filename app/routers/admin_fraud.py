"""Fraud for staff: the rules that hold orders, what a rule would hold, and the orders that wait for a decision."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from app.dependencies import PageDep, SessionDep, SettingsDep, staff_with
from app.models import FraudRule, FraudRuleKind, OrderReview, ReviewStatus, StaffKey, StaffRole, StaffScope
from app.openapi import problems
from app.schemas.common import Page
from app.schemas.fraud import (
    FraudDryRun,
    FraudDryRunRead,
    FraudRuleRead,
    FraudRuleWanted,
    ReviewDecision,
    ReviewDetail,
    ReviewRead,
)
from app.services.fraud import decide, rules, show

router = APIRouter(prefix="/v1/admin", tags=["admin"], responses=problems(401, 403))

Viewer = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.ORDERS_READ)]
Trier = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.ORDERS_READ, on=FraudRule)]
RuleMaker = Annotated[StaffKey, staff_with(StaffRole.ADMIN, StaffScope.ORDERS_WRITE, on=FraudRule)]
RuleEnder = Annotated[StaffKey, staff_with(StaffRole.ADMIN, StaffScope.ORDERS_WRITE, on=FraudRule, by="rule_id")]
Reviewer = Annotated[StaffKey, staff_with(StaffRole.OPERATOR, StaffScope.ORDERS_WRITE, on=OrderReview, by="order_id")]


@router.put("/fraud-rules", summary="Set a fraud rule", responses=problems(404))
async def set_fraud_rule(session: SessionDep, member: RuleMaker, body: FraudRuleWanted) -> FraudRuleRead:
    """Let a rule hold orders from now on, in place of the one of its kind for the same merchant, or for all.

    A merchant's own rule counts in place of the one for all; switched off, none of the kind holds its orders. Orders
    that are held are judged anew; others are when they change, and before their cashback becomes payable.
    """
    return await rules.set_rule(session, wanted=body, member_id=member.id)


@router.get("/fraud-rules", summary="Fraud rules and their versions")
async def list_fraud_rules(
    session: SessionDep,
    _: Viewer,
    page: PageDep,
    kind: Annotated[FraudRuleKind | None, Query(description="Only of this kind.")] = None,
    merchant_id: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="Only this merchant's own.")] = None,
    live: Annotated[bool | None, Query(description="Only those that hold now, or only those that do not.")] = None,
) -> Page[FraudRuleRead]:
    """Return rules, newest first."""
    return await rules.list_rules(
        session, limit=page.limit, cursor=page.cursor, kind=kind, merchant_id=merchant_id, is_live=live
    )


@router.delete("/fraud-rules/{rule_id}", status_code=204, summary="End a fraud rule", responses=problems(404, 409))
async def end_fraud_rule(session: SessionDep, member: RuleEnder, rule_id: UUID) -> None:
    """End a rule; a merchant's own gives way to the one for all. Its versions stay to be read."""
    await rules.end_rule(session, rule_id=rule_id, member_id=member.id)


@router.post("/fraud-rules/dry-run", summary="Try a fraud rule on past orders")
async def try_fraud_rule(session: SessionDep, _: Trier, body: FraudDryRun) -> FraudDryRunRead:
    """Say how many, and which, orders of a period the rule would have held. Nothing is stored."""
    return await show.try_rule(session, wanted=body)


@router.get("/reviews", summary="Orders that are held")
async def list_reviews(
    session: SessionDep,
    _: Viewer,
    page: PageDep,
    status: Annotated[ReviewStatus | None, Query(description="Only in this state.")] = ReviewStatus.HELD,
    merchant_id: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="Only of this merchant.")] = None,
    kind: Annotated[FraudRuleKind | None, Query(description="Only where a rule of this kind found something.")] = None,
) -> Page[ReviewRead]:
    """Return orders with what rules found in them, those of the newest orders first."""
    return await show.list_reviews(
        session, limit=page.limit, cursor=page.cursor, status=status, merchant_id=merchant_id, kind=kind
    )


@router.get("/reviews/{order_id}", summary="One review with its steps", responses=problems(404))
async def get_review(session: SessionDep, _: Viewer, order_id: UUID) -> ReviewDetail:
    """Show why an order is or was held, and who decided what."""
    return await show.show_review(session, order_id=order_id)


@router.post("/reviews/{order_id}/release", summary="Release an order, with a reason", responses=problems(404, 409))
async def release_review(
    session: SessionDep, settings: SettingsDep, member: Reviewer, order_id: UUID, body: ReviewDecision
) -> ReviewDetail:
    """Let an order that is held, or was rejected, go its way.

    It is held again only by new evidence: by a rule that had found nothing then, or by twice as much of what was found.
    """
    await decide.release(session, settings, order_id=order_id, note=body.note, staff_key_id=member.id)
    return await show.show_review(session, order_id=order_id)


@router.post("/reviews/{order_id}/reject", summary="Reject an order, with a reason", responses=problems(404, 409))
async def reject_review(
    session: SessionDep, settings: SettingsDep, member: Reviewer, order_id: UUID, body: ReviewDecision
) -> ReviewDetail:
    """Owe nothing for an order that is held: it is declined, whatever its source says before and after.

    Releasing it later takes that back.
    """
    await decide.reject(session, settings, order_id=order_id, note=body.note, staff_key_id=member.id)
    return await show.show_review(session, order_id=order_id)
