"""How much cashback an order earns at the rate its click was promised, and the steps that explain it.

The steps' amounts are whole minor units and add up to the cashback; that is what the customer is shown. Boosts of
campaigns have steps of their own (`boosts.py`).
"""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from app.models import Click, RateKind
from app.money import Rounding, format_minor, share

StepName = Literal["base", "rate", "tier", "boost", "cap", "rounding"]
Step: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Amounts:
    """An order's amounts in minor units of `currency`, the merchant's; `converted` says where they come from."""

    sale_minor: int
    commission_minor: int
    currency: str
    converted: str | None = None

    def show(self, amount_minor: int) -> str:
        """Return an amount for people."""
        return f"{format_minor(amount_minor, self.currency)} {self.currency}"


@dataclass(frozen=True, slots=True)
class Cashback:
    """An amount in minor units and the steps it is the sum of."""

    amount_minor: int
    steps: list[Step]


@dataclass(frozen=True, slots=True)
class Value:
    """What a rate, a tier or a boost is worth: a share in basis points, or a fixed amount in minor units."""

    kind: RateKind
    basis_points: int | None
    fixed_minor: int | None

    def of(self, amounts: Amounts, rounding: Rounding) -> int:
        """Return the value for an order's amounts."""
        if self.fixed_minor is not None:
            # Nothing was sold: a fixed amount for it would be a gift.
            return self.fixed_minor if amounts.sale_minor > 0 else 0
        return share(self._base(amounts), self.basis_points or 0, rounding)

    def describe(self, amounts: Amounts) -> str:
        """Say in words what it is: `5 % of the sale`, or an amount for each order."""
        if self.fixed_minor is not None:
            return f"{amounts.show(self.fixed_minor)} for each order"
        return f"{_percent(self.basis_points or 0)} of the {self._base_name()}"

    def describe_base(self, amounts: Amounts) -> str:
        """Say in words what it is taken of."""
        if self.fixed_minor is not None:
            return f"an order of {amounts.show(amounts.sale_minor)}{amounts.converted or ''}"
        return f"the {self._base_name()} of {amounts.show(self._base(amounts))}{amounts.converted or ''}"

    def _base(self, amounts: Amounts) -> int:
        return amounts.commission_minor if self.kind is RateKind.PERCENT_OF_COMMISSION else amounts.sale_minor

    def _base_name(self) -> str:
        return "commission" if self.kind is RateKind.PERCENT_OF_COMMISSION else "sale"


def compute(click: Click, amounts: Amounts, *, rounding: Rounding, month_left_minor: int | None = None) -> Cashback:
    """Apply the click's frozen rate. `month_left_minor`: what its cap a month leaves of this order's month, if any."""
    rate = Value(click.rate_kind, click.rate_basis_points, click.rate_fixed_minor)
    steps = [_step("base", rate.describe_base(amounts), 0)]
    floor_minor = rate.of(amounts, "floor")
    steps.append(_step("rate", rate.describe(amounts), floor_minor))
    tier = _tier(click, amounts.sale_minor)
    if tier is not None:
        value = Value(click.rate_kind, tier.get("basis_points"), tier.get("fixed_minor"))
        tier_floor_minor = value.of(amounts, "floor")
        detail = f"{value.describe(amounts)} from {amounts.show(tier['from_minor'])} on"
        steps.append(_step("tier", detail, tier_floor_minor - floor_minor))
        rate, floor_minor = value, tier_floor_minor
    amount_minor = rate.of(amounts, rounding)
    if amount_minor != floor_minor:
        steps.append(_step("rounding", "to the nearest whole unit", amount_minor - floor_minor))
    if click.rate_cap_minor is not None and amount_minor > click.rate_cap_minor:
        detail = f"at most {amounts.show(click.rate_cap_minor)} an order"
        steps.append(_step("cap", detail, click.rate_cap_minor - amount_minor))
        amount_minor = click.rate_cap_minor
    if month_left_minor is not None and amount_minor > month_left_minor:
        detail = f"at most {amounts.show(click.rate_cap_month_minor or 0)} a month at this shop"
        steps.append(_step("cap", detail, month_left_minor - amount_minor))
        amount_minor = month_left_minor
    return Cashback(amount_minor, steps)


def boost(frozen: dict[str, Any], amounts: Amounts, *, rounding: Rounding) -> Cashback:
    """Compute what a campaign, frozen on the click, adds to an order, before its budget has its say."""
    value = Value(RateKind(frozen["kind"]), frozen["basis_points"], frozen["fixed_minor"])
    if amounts.sale_minor < frozen["minimum_sale_minor"]:
        detail = f"{frozen['name']}: only from {amounts.show(frozen['minimum_sale_minor'])} on"
        return Cashback(0, [_step("boost", detail, 0)])
    amount_minor = value.of(amounts, rounding)
    steps = [_step("boost", f"{frozen['name']}: {value.describe(amounts)}", amount_minor)]
    cap_minor = frozen["cap_minor"]
    if cap_minor is not None and amount_minor > cap_minor:
        detail = f"{frozen['name']}: at most {amounts.show(cap_minor)} an order"
        steps.append(_step("cap", detail, cap_minor - amount_minor))
        amount_minor = cap_minor
    return Cashback(amount_minor, steps)


def budget_step(frozen: dict[str, Any], missing_minor: int) -> Step:
    """Explain what a campaign's budget had not left."""
    return _step("cap", f"{frozen['name']}: its budget is used up", -missing_minor)


def _tier(click: Click, sale_minor: int) -> dict[str, Any] | None:
    reached = [tier for tier in click.rate_tiers or () if tier["from_minor"] <= sale_minor]
    return max(reached, key=lambda tier: int(tier["from_minor"]), default=None)


def _percent(basis_points: int) -> str:
    return f"{basis_points // 100}.{basis_points % 100:02d}".rstrip("0").rstrip(".") + " %"


def _step(step: StepName, detail: str, amount_minor: int) -> Step:
    return {"step": step, "detail": detail, "amount_minor": amount_minor}
