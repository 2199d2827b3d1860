"""What rules find in orders: one statement for any number of rules and orders, by lookups into indexes.

An order is judged by when purchases were made, never by when they were heard of: whatever order reports arrive in, the
same orders are found once all of them are there.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias, assert_never
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Integer,
    Numeric,
    Select,
    SQLColumnExpression,
    and_,
    cast,
    extract,
    func,
    literal,
    or_,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.models import Click, ClickOrigin, Customer, FraudRuleKind, Order, PayoutMethod
from app.schemas.fraud import (
    AmountOutlier,
    ClickToOrder,
    OrdersPerClick,
    SelfReferral,
    SharedPayoutMethod,
    Thresholds,
    Velocity,
)

# More of a customer's orders are not counted, and more of a merchant's not looked back at.
_MOST_COUNTED = 1_000
_LOOK_BACK = 200

_Statement: TypeAlias = Select[*tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule as it is applied; `id` is that of its version."""

    id: UUID
    thresholds: Thresholds


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule has found in an order. `measure` says how much of it, to tell new evidence from what was seen."""

    kind: FraudRuleKind
    rule_id: UUID
    measure: int
    evidence: Mapping[str, Any]

    def kept(self) -> dict[str, Any]:
        """Return it as it is kept with a review."""
        return {
            "kind": self.kind.value,
            "rule_id": str(self.rule_id),
            "measure": self.measure,
            "evidence": dict(self.evidence),
        }


async def assess(
    session: AsyncSession, rules: Sequence[Rule], order_ids: Sequence[UUID]
) -> Mapping[UUID, Sequence[Finding]]:
    """Return what the rules find, by order; nothing for an order in which they find nothing."""
    found: dict[UUID, list[Finding]] = defaultdict(list)
    if not rules or not order_ids:
        return found
    chosen = Order.id.in_(order_ids)
    by_number = dict(enumerate(rules))
    statement = union_all(
        *(_statement(rule.thresholds).add_columns(literal(n, Integer)).where(chosen) for n, rule in by_number.items())
    )
    for order_id, measure, evidence, number in await session.execute(statement):
        rule = by_number[number]
        found[order_id].append(Finding(rule.thresholds.kind, rule.id, measure, evidence))
    for findings in found.values():
        findings.sort(key=lambda finding: finding.kind)
    return found


def _statement(thresholds: Thresholds) -> _Statement:
    """Select (order, measure, evidence) of the orders that a rule finds."""
    match thresholds:
        case ClickToOrder():
            return _click_to_order(thresholds)
        case OrdersPerClick():
            return _orders_per_click(thresholds)
        case SelfReferral():
            return _self_referral(thresholds)
        case SharedPayoutMethod():
            return _shared_payout_method(thresholds)
        case Velocity():
            return _velocity(thresholds)
        case AmountOutlier():
            return _amount_outlier(thresholds)
        case _:
            assert_never(thresholds)


def _found(measure: SQLColumnExpression[Any] | int, **evidence: object) -> _Statement:
    pairs = [part for name, value in evidence.items() for part in (literal(name), value)]
    amount = literal(measure) if isinstance(measure, int) else measure
    return select(Order.id, cast(amount, BigInteger), func.jsonb_build_object(*pairs, type_=JSONB))


def _click_to_order(thresholds: ClickToOrder) -> _Statement:
    seconds = cast(extract("epoch", Order.ordered_at - Click.created_at), BigInteger)
    return (
        _found(1, seconds=seconds, minimum_seconds=literal(thresholds.minimum_seconds))
        .join(Click, Click.id == Order.click_id)
        .where(
            # A click that staff made for a claim has the time of the purchase.
            Click.origin == ClickOrigin.CUSTOMER,
            Order.ordered_at < Click.created_at + literal(timedelta(seconds=thresholds.minimum_seconds)),
        )
    )


def _count_up_to(conditions: Iterable[SQLColumnExpression[bool]], sibling: Any) -> Any:  # noqa: ANN401 - an aliased Order
    """Count siblings up to the order itself, by the time of the purchases."""
    place, own = (
        tuple_(one.ordered_at, one.merchant_id, one.external_id)  # what is unique, and no accident of arrival
        for one in (sibling, Order)
    )
    some = select(literal(1)).where(*conditions, place <= own).limit(_MOST_COUNTED).correlate(Order).subquery("some")
    return select(func.count().label("orders")).select_from(some).lateral("counted")


def _orders_per_click(thresholds: OrdersPerClick) -> _Statement:
    sibling = aliased(Order)
    counted = _count_up_to([sibling.click_id == Order.click_id], sibling)
    return (
        _found(counted.c.orders, orders=counted.c.orders, most_orders=literal(thresholds.most_orders))
        .join(counted, true())
        .where(counted.c.orders > thresholds.most_orders)
    )


def _velocity(thresholds: Velocity) -> _Statement:
    sibling = aliased(Order)
    window = literal(timedelta(hours=thresholds.hours))
    counted = _count_up_to(
        [sibling.customer_id == Order.customer_id, sibling.ordered_at > Order.ordered_at - window], sibling
    )
    return (
        _found(
            counted.c.orders,
            orders=counted.c.orders,
            most_orders=literal(thresholds.most_orders),
            hours=literal(thresholds.hours),
        )
        .join(counted, true())
        .where(counted.c.orders > thresholds.most_orders)
    )


def _self_referral(thresholds: SelfReferral) -> _Statement:
    customer, referrer = aliased(Customer), aliased(Customer)
    own, others = aliased(PayoutMethod), aliased(PayoutMethod)
    same_device = func.coalesce(customer.device_hint == referrer.device_hint, False)
    same_address = and_(
        literal(thresholds.same_address),
        func.coalesce(customer.address_hint == referrer.address_hint, False),
    )
    same_account = (
        select(literal(1))
        .where(
            own.customer_id == customer.id,
            others.customer_id == referrer.id,
            own.fingerprint == others.fingerprint,
        )
        .correlate(customer, referrer)
        .exists()
    )
    signs = {"same_device": same_device, "same_address": same_address, "same_payout_account": same_account}
    measure = sum((cast(sign, Integer) for sign in signs.values()), start=literal(0))
    return (
        _found(measure, **signs)
        .join(customer, customer.id == Order.customer_id)
        .join(referrer, referrer.id == customer.referred_by_id)
        .where(or_(*signs.values()))
    )


def _shared_payout_method(thresholds: SharedPayoutMethod) -> _Statement:
    own, others = aliased(PayoutMethod), aliased(PayoutMethod)
    some = (
        select(others.customer_id)
        .join(own, own.fingerprint == others.fingerprint)
        .where(own.customer_id == Order.customer_id, others.customer_id != Order.customer_id)
        .distinct()
        .limit(_MOST_COUNTED)
        .correlate(Order)
        .subquery("some")
    )
    counted = select(func.count().label("customers")).select_from(some).lateral("counted")
    return (
        _found(
            counted.c.customers,
            other_customers=counted.c.customers,
            most_others=literal(thresholds.most_others),
        )
        .join(counted, true())
        .where(counted.c.customers > thresholds.most_others)
    )


def _amount_outlier(thresholds: AmountOutlier) -> _Statement:
    earlier = aliased(Order)
    last = (
        select(earlier.sale_minor)
        .where(
            earlier.merchant_id == Order.merchant_id,
            earlier.ordered_at < Order.ordered_at,
            earlier.currency == Order.currency,
        )
        .order_by(earlier.ordered_at.desc(), earlier.external_id.desc())
        .limit(_LOOK_BACK)
        .correlate(Order)
        .subquery("last")
    )
    # A median: what is found today moves nobody's measure tomorrow.
    median = func.percentile_disc(0.5).within_group(last.c.sale_minor.asc())
    usual = select(median.label("median_minor"), func.count().label("orders")).select_from(last).lateral("usual")
    # Of nothing but free orders every sale would be without measure.
    base = func.greatest(usual.c.median_minor, 1)
    return (
        _found(
            func.div(Order.sale_minor, base),
            sale_minor=Order.sale_minor,
            median_minor=usual.c.median_minor,
            orders=usual.c.orders,
            factor=literal(thresholds.factor),
        )
        .join(usual, true())
        .where(
            usual.c.orders >= thresholds.fewest_orders,
            # Numeric, so that no amounts can overflow it.
            cast(Order.sale_minor, Numeric) > cast(base, Numeric) * thresholds.factor,
        )
    )
