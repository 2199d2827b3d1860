"""Fraud rules as data: versions that end each other, one live of a kind for all merchants and one for each merchant."""

from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import func, insert, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ring_after_commit
from app.errors import ConflictError, NotFoundError
from app.ids import new_id
from app.models import FraudRule, FraudRuleKind, Merchant, OrderReview, OrderReviewCheck, ReviewStatus
from app.schemas.common import Page
from app.schemas.fraud import FraudRuleRead, FraudRuleWanted, read_thresholds
from app.services.catalogue import MerchantNotFoundError
from app.services.fraud.assess import Rule
from app.services.pagination import newest_first


class FraudRuleNotFoundError(NotFoundError):
    """No version of a rule has this id."""

    code = "fraud_rule_not_found"
    title = "Fraud rule not found"

    def __init__(self, rule_id: UUID) -> None:
        super().__init__(f"There is no fraud rule {rule_id}.")


class FraudRuleEndedError(ConflictError):
    """Another version has taken its place, or it was ended."""

    code = "fraud_rule_ended"
    title = "Fraud rule ended"

    def __init__(self, rule: FraudRule) -> None:
        super().__init__(f"The fraud rule {rule.id} holds no more.")


async def rules_of(session: AsyncSession, merchant_id: int) -> list[Rule]:
    """Return the rules in force for a merchant."""
    live = await session.scalars(
        select(FraudRule)
        .where(
            FraudRule.ended_at.is_(None),
            or_(FraudRule.merchant_id.is_(None), FraudRule.merchant_id == merchant_id),
        )
        # The merchant's own last, so that it takes the other's place.
        .order_by(FraudRule.merchant_id.nulls_first())
    )
    by_kind = {rule.kind: rule for rule in live}
    return [Rule(rule.id, read_thresholds(rule.thresholds)) for rule in by_kind.values() if rule.enabled]


async def set_rule(session: AsyncSession, *, wanted: FraudRuleWanted, member_id: UUID) -> FraudRuleRead:
    """Let a rule hold from now on, in place of the version before. What is held is judged anew.

    Raises MerchantNotFoundError.
    """
    if wanted.merchant_id is not None and await session.get(Merchant, wanted.merchant_id) is None:
        raise MerchantNotFoundError(wanted.merchant_id)
    kind = wanted.thresholds.kind
    await session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('fraud rules', 4))"))
    of_kind = select(FraudRule).where(
        FraudRule.kind == kind, FraudRule.merchant_id.is_not_distinct_from(wanted.merchant_id)
    )
    before = await session.scalar(of_kind.order_by(FraudRule.number.desc()).limit(1))
    if before is not None and before.ended_at is None:
        _end(before, member_id)
        await session.flush()
    rule = FraudRule(
        id=new_id(),
        kind=kind,
        merchant_id=wanted.merchant_id,
        number=1 if before is None else before.number + 1,
        enabled=wanted.enabled,
        thresholds=wanted.thresholds.model_dump(mode="json"),
        created_by_id=member_id,
        created_at=datetime.now(UTC),
    )
    session.add(rule)
    await session.flush()
    await _judge_held(session, wanted.merchant_id)
    return FraudRuleRead.model_validate(rule)


async def end_rule(session: AsyncSession, *, rule_id: UUID, member_id: UUID) -> None:
    """End a rule: a merchant's own gives way to the one for all. Raises FraudRuleNotFoundError, FraudRuleEndedError."""
    rule = await session.get(FraudRule, rule_id, with_for_update=True)
    if rule is None:
        raise FraudRuleNotFoundError(rule_id)
    if rule.ended_at is not None:
        raise FraudRuleEndedError(rule)
    _end(rule, member_id)
    await session.flush()
    await _judge_held(session, rule.merchant_id)


async def list_rules(
    session: AsyncSession,
    *,
    limit: int,
    cursor: str | None,
    kind: FraudRuleKind | None,
    merchant_id: int | None,
    is_live: bool | None,
) -> Page[FraudRuleRead]:
    """Return versions of rules, newest first. Raises InvalidCursorError."""
    statement = select(FraudRule)
    if kind is not None:
        statement = statement.where(FraudRule.kind == kind)
    if merchant_id is not None:
        statement = statement.where(FraudRule.merchant_id == merchant_id)
    if is_live is not None:
        statement = statement.where(FraudRule.ended_at.is_(None) if is_live else FraudRule.ended_at.is_not(None))
    rows, next_cursor = await newest_first(session, statement, FraudRule.id, limit=limit, cursor=cursor)
    items = [FraudRuleRead.model_validate(row) for row in rows]
    return Page(items=items, next_cursor=next_cursor)


def _end(rule: FraudRule, member_id: UUID) -> None:
    rule.ended_at, rule.ended_by_id = datetime.now(UTC), member_id


async def _judge_held(session: AsyncSession, merchant_id: int | None) -> None:
    """Note that what is held must be judged by the rules as they are now."""
    held = select(OrderReview.order_id, func.now()).where(OrderReview.status == ReviewStatus.HELD)
    if merchant_id is not None:
        held = held.where(OrderReview.merchant_id == merchant_id)
    await session.execute(insert(OrderReviewCheck).from_select(["order_id", "created_at"], held))
    ring_after_commit(session, "judge_orders")
