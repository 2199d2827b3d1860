"""Payout rules: what holds for payouts in a currency. Finance sets them; customers read their part of them."""

import logging
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import FieldError, InvalidRequestError, NotFoundError
from app.models import PayoutRule
from app.money import share
from app.schemas.payouts import PayoutRulePage, PayoutRuleRead, PayoutRuleWrite, PayoutTerms, PayoutTermsPage
from app.services.pagination import cut_page, decode_cursor, encode_cursor

logger = logging.getLogger(__name__)


class PayoutRuleNotFoundError(NotFoundError):
    """There are no payouts in this currency."""

    code = "payout_rule_not_found"
    title = "Payout rule not found"

    def __init__(self, currency: str) -> None:
        super().__init__(f"There is no payout rule for {currency}.")


class PayoutCurrencyError(InvalidRequestError):
    """A payout was asked for in a currency that has no rule."""

    code = "payout_currency_unavailable"
    title = "No payouts in this currency"

    def __init__(self, currency: str) -> None:
        where: FieldError = {"loc": ["body", "currency"], "msg": "No payouts in this currency", "type": self.code}
        super().__init__(f"Nothing can be paid out in {currency} at present.", errors=[where])


def fee_of(rule: PayoutRule, amount_minor: int) -> int:
    """Return the fee of a payout in minor units: the fixed part and the share, rounded down in the customer's favour.

    It is less than any amount from the minimum on, which the rule's CHECK sees to.
    """
    return rule.fee_minor + share(amount_minor, rule.fee_basis_points, "floor")


async def rule_for_request(session: AsyncSession, currency: str) -> PayoutRule:
    """Return the rule of a currency that somebody wants a payout in. Raises PayoutCurrencyError."""
    rule = await session.get(PayoutRule, currency)
    if rule is None:
        raise PayoutCurrencyError(currency)
    return rule


async def get_rule(session: AsyncSession, *, currency: str) -> PayoutRuleRead:
    """Return the rule of a currency. Raises PayoutRuleNotFoundError."""
    rule = await session.get(PayoutRule, currency)
    if rule is None:
        raise PayoutRuleNotFoundError(currency)
    return PayoutRuleRead.model_validate(rule)


async def put_rule(
    session: AsyncSession, *, currency: str, wanted: PayoutRuleWrite, staff_key_id: UUID
) -> PayoutRuleRead:
    """Set the rule of a currency, for requests from now on."""
    values = wanted.model_dump(mode="json")
    rule = await session.scalar(
        insert(PayoutRule)
        .values(currency=currency, **values)
        .on_conflict_do_update(index_elements=[PayoutRule.currency], set_={**values, "updated_at": func.now()})
        .returning(PayoutRule)
        .execution_options(populate_existing=True)
    )
    logger.info(
        "payout rule set",
        extra={"currency": currency, "staff_key_id": str(staff_key_id), **wanted.model_dump(mode="json")},
    )
    return PayoutRuleRead.model_validate(rule)


async def list_rules(session: AsyncSession, *, limit: int, cursor: str | None) -> PayoutRulePage:
    """Return the rules by currency. Raises InvalidCursorError."""
    rows, next_cursor = await _page(session, limit, cursor)
    return PayoutRulePage(items=[PayoutRuleRead.model_validate(row) for row in rows], next_cursor=next_cursor)


async def list_terms(session: AsyncSession, *, limit: int, cursor: str | None) -> PayoutTermsPage:
    """Return what customers know of the rules, by currency. Raises InvalidCursorError."""
    rows, next_cursor = await _page(session, limit, cursor)
    return PayoutTermsPage(items=[PayoutTerms.model_validate(row) for row in rows], next_cursor=next_cursor)


async def _page(session: AsyncSession, limit: int, cursor: str | None) -> tuple[list[PayoutRule], str | None]:
    statement = select(PayoutRule).order_by(PayoutRule.currency).limit(limit + 1)
    if cursor is not None:
        (last,) = decode_cursor(cursor, str)
        statement = statement.where(PayoutRule.currency > last)
    rows, more = cut_page((await session.scalars(statement)).all(), limit)
    return rows, encode_cursor(rows[-1].currency) if more else None
