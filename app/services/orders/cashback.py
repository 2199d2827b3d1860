"""How much cashback an order earns at the rate its click was promised, and the steps that explain it.

The steps' amounts add up to the cashback; that is what the customer is shown.
"""

from dataclasses import dataclass
from typing import Any, assert_never

from app.models import Click, RateKind
from app.money import Rounding, format_minor, share


@dataclass(frozen=True, slots=True)
class Cashback:
    """An amount in minor units and its explanation (JSON)."""

    amount_minor: int
    explanation: dict[str, Any]


def compute(click: Click, *, sale_minor: int, commission_minor: int, currency: str, rounding: Rounding) -> Cashback:
    """Apply the click's frozen rate to an order's amounts, all in minor units of `currency`."""
    base_minor, detail = _base(click, sale_minor, commission_minor, currency, rounding)
    steps: list[dict[str, Any]] = [{"step": "rate", "detail": detail, "amount_minor": base_minor}]
    amount_minor = base_minor
    if click.rate_cap_minor is not None and amount_minor > click.rate_cap_minor:
        steps.append(
            {
                "step": "cap",
                "detail": f"at most {format_minor(click.rate_cap_minor, currency)} {currency} an order",
                "amount_minor": click.rate_cap_minor - amount_minor,
            }
        )
        amount_minor = click.rate_cap_minor
    return Cashback(amount_minor, {"currency": currency, "steps": steps, "cashback_minor": amount_minor})


def needs_merchant_currency(click: Click) -> bool:
    """Whether the click's rate names an amount, so that it can only be applied in that amount's currency."""
    return click.rate_kind is RateKind.FIXED or click.rate_cap_minor is not None


def _base(click: Click, sale_minor: int, commission_minor: int, currency: str, rounding: Rounding) -> tuple[int, str]:
    match click.rate_kind:
        case RateKind.PERCENT_OF_SALE:
            of_minor, name = sale_minor, "sale"
        case RateKind.PERCENT_OF_COMMISSION:
            of_minor, name = commission_minor, "commission"
        case RateKind.FIXED:
            fixed_minor = click.rate_fixed_minor or 0
            # Nothing was sold: a fixed amount for it would be a gift.
            earned = fixed_minor if sale_minor > 0 else 0
            return earned, f"{format_minor(fixed_minor, currency)} {currency} for each order"
        case _:
            assert_never(click.rate_kind)
    basis_points = click.rate_basis_points or 0
    percent = f"{basis_points // 100}.{basis_points % 100:02d}".rstrip("0").rstrip(".")
    detail = f"{percent} % of the {name} of {format_minor(of_minor, currency)} {currency}"
    return share(of_minor, basis_points, rounding), detail
