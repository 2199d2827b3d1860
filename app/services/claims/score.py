"""How well an orphan fits a claim: 0 to 100, the sum of named parts, each with its points and its sentence.

Integers only and nothing but its arguments, so that the same claim and orphan always score the same. By the weights,
neither the customer's own click nor the order number can be made up for by the rest.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

from app.models import Claim, WebhookEvent, reference_key
from app.money import format_minor

PartName: TypeAlias = Literal["merchant", "order_reference", "amount", "time", "click_history"]

MOST: dict[PartName, int] = {"merchant": 5, "order_reference": 35, "amount": 20, "time": 10, "click_history": 30}
# Shipping, tax and vouchers make the sale a shop reports differ from what the customer paid.
AMOUNT_TOLERANCE_BASIS_POINTS = 1_000
# After so many whole days the times say nothing any more.
TIME_TOLERANCE_DAYS = 5
_LATER_CLICK_POINTS = 20
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Part:
    """What one thing that was compared adds, at most `MOST` of its name, and why."""

    name: PartName
    points: int
    detail: str


@dataclass(frozen=True, slots=True)
class Score:
    """The parts; their points add up to the score."""

    parts: tuple[Part, ...]

    @property
    def points(self) -> int:
        """The score, 0 to 100."""
        return sum(part.points for part in self.parts)

    @property
    def reasons(self) -> list[dict[str, Any]]:
        """The parts as they are kept with a claim (`Claim.score_reasons`)."""
        return [
            {"part": part.name, "points": part.points, "most": MOST[part.name], "detail": part.detail}
            for part in self.parts
        ]


def score(claim: Claim, event: WebhookEvent, *, clicked_at: datetime | None) -> Score:
    """Compare a claim with what an orphan reports.

    `clicked_at`: the customer's last click to the merchant that the reported sale counts for, if there is one.
    """
    return Score(
        (
            _merchant(claim, event),
            _order_reference(claim, event),
            _amount(claim, event),
            _time(claim, event),
            _click_history(event, clicked_at),
        )
    )


def _merchant(claim: Claim, event: WebhookEvent) -> Part:
    if event.merchant_id is None:
        return Part("merchant", 0, "the report does not say which of its source's shops it is of")
    if event.merchant_id != claim.merchant_id:
        return Part("merchant", 0, "another shop")
    return Part("merchant", MOST["merchant"], "the same shop")


def _order_reference(claim: Claim, event: WebhookEvent) -> Part:
    reported = event.external_order_id or ""
    if reference_key(reported) == claim.reference_key:
        return Part("order_reference", MOST["order_reference"], f"the same order number, {reported}")
    return Part("order_reference", 0, f"order {reported or 'without a number'}, and {claim.order_reference} claimed")


def _amount(claim: Claim, event: WebhookEvent) -> Part:
    if event.reported_sale_minor is None or event.reported_currency is None:
        return Part("amount", 0, "the report has no amount")
    sold = f"{format_minor(event.reported_sale_minor, event.reported_currency)} {event.reported_currency}"
    if event.reported_currency != claim.currency:
        return Part("amount", 0, f"{sold}, and an amount in {claim.currency} claimed")
    difference_minor = abs(event.reported_sale_minor - claim.amount_minor)
    if difference_minor == 0:
        return Part("amount", MOST["amount"], f"the same amount, {sold}")
    # Rounded up: only what is equal counts as equal.
    difference = -(-difference_minor * 10_000 // claim.amount_minor)
    left = max(0, AMOUNT_TOLERANCE_BASIS_POINTS - difference)
    claimed = f"{format_minor(claim.amount_minor, claim.currency)} {claim.currency}"
    detail = f"{sold}, and {claimed} claimed: {difference // 100}.{difference % 100:02d} % off"
    return Part("amount", MOST["amount"] * left // AMOUNT_TOLERANCE_BASIS_POINTS, detail)


def _time(claim: Claim, event: WebhookEvent) -> Part:
    if event.reported_at is None:
        return Part("time", 0, "the report has no time")
    days = abs(event.reported_at - claim.ordered_at) // _DAY
    points = MOST["time"] * max(0, TIME_TOLERANCE_DAYS - days) // TIME_TOLERANCE_DAYS
    return Part("time", points, "less than a day apart" if days == 0 else f"{_days(days)} apart")


def _click_history(event: WebhookEvent, clicked_at: datetime | None) -> Part:
    if clicked_at is None or event.reported_at is None:
        return Part("click_history", 0, "no click of the customer to this shop that the sale counts for")
    # A click may be a little later than its sale by our clock.
    days = max(timedelta(0), event.reported_at - clicked_at) // _DAY
    if days == 0:
        return Part("click_history", MOST["click_history"], "the customer clicked less than a day before the sale")
    return Part("click_history", _LATER_CLICK_POINTS, f"the customer clicked {_days(days)} before the sale")


def _days(days: int) -> str:
    return "1 day" if days == 1 else f"{days} days"
