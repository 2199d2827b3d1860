"""Whatever happens in whatever order, every invariant of the ledger holds after each step.

Hypothesis chooses what happens: rates, campaigns, clicks, sales, approvals, returns, repeats, corrections by staff,
payouts, batches, statements of networks, claims, orphans. All of it goes over HTTP and through the workers' jobs, with
real commits. `MONEY_MACHINE_EXAMPLES` sets how many sequences are tried (200; `make test-money` tries 10,000).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.exc import IntegrityError

from app.models import CauseType
from app.services import ledger
from app.services.ledger import Entry, Line
from app.services.orders import boosts
from tests.money.stage import Play, Stage

EXAMPLES = int(os.environ.get("MONEY_MACHINE_EXAMPLES", "200"))
STEPS = 15

closings = st.sampled_from(["approved", "declined", "returned"])
sales = st.sampled_from([0, 1, 99, 10_000, 33_333, 2_000_000])
days = st.sampled_from([0, 1, 20, 35, 70])


@dataclass(frozen=True)
class Placed:
    """An order as the shop knows it."""

    merchant: int
    reference: str
    # None: lost on the way.
    click_id: str | None


class MoneyMachine(RuleBasedStateMachine):
    """One merchant's, customer's and operator's life after another, all at once."""

    stage: ClassVar[Stage]
    orders: Bundle[Placed] = Bundle("orders")

    def __init__(self) -> None:
        super().__init__()
        self.play: Play = self.stage.play()
        self.statements = 0

    def teardown(self) -> None:
        """Take the stage down, also after a failure."""
        self.play.end()

    @initialize(basis_points=st.sampled_from([100, 2_500]), budget=st.sampled_from([None, 3_000]))
    def begin(self, basis_points: int, budget: int | None) -> None:
        """Begin with a campaign at each shop, so that boosts are on most orders."""
        for merchant in range(len(self.play.merchants)):
            self.start_campaign(merchant, basis_points, budget)

    @rule(
        target=orders,
        customer=st.integers(0, 2),
        merchant=st.integers(0, 3),
        number=st.integers(0, 7),
        sale=sales,
        days_ago=days,
    )
    def shop(self, customer: int, merchant: int, number: int, sale: int, days_ago: int) -> Placed:
        """Click and buy. Two customers or two shops may use the same number."""
        click_id = self.play.click(self.play.customers[customer], self.play.merchants[merchant])
        order = Placed(merchant, f"A-{number}", click_id)
        self._report(order, "created", days_ago, sale, sale // 12)
        return order

    @rule(target=orders, merchant=st.integers(0, 3), kind=closings, days_ago=days)
    def close_before_the_sale(self, merchant: int, kind: str, days_ago: int) -> Placed:
        """Hear what became of an order before hearing of its sale."""
        click_id = self.play.click(self.play.customers[0], self.play.merchants[merchant])
        order = Placed(merchant, f"B-{len(self.play.bodies)}", click_id)
        self._report(order, kind, days_ago)
        return order

    @rule(order=orders, sale=sales, per_mille=st.sampled_from([0, 33, 80]), days_ago=days)
    def report_again(self, order: Placed, sale: int, per_mille: int, days_ago: int) -> None:
        """Report a sale late, or with other amounts."""
        self._report(order, "created", days_ago, sale, sale * per_mille // 1000)

    @rule(order=orders, kind=closings, days_ago=days)
    def close(self, order: Placed, kind: str, days_ago: int) -> None:
        """Approve, decline or take back whatever the order is by then."""
        self._report(order, kind, days_ago)

    @rule(order=orders, sale=st.sampled_from([1, 5_000, 40_000]), days_ago=days)
    def return_a_part(self, order: Placed, sale: int, days_ago: int) -> None:
        """Take a part of an order back."""
        self._report(order, "returned", days_ago, sale)

    @precondition(lambda self: self.play.bodies)
    @rule(number=st.integers(0, 50))
    def repeat(self, number: int) -> None:
        """Send a message again."""
        self.play.repeat(number)

    @rule(customer=st.integers(0, 2), share=st.sampled_from([2, 1]))
    def ask_for_a_payout(self, customer: int, share: int) -> None:
        """Ask for half or all of each available balance."""
        who = self.play.customers[customer]
        for balance in self.play.call("GET", "/v1/me/wallet", by=who).json()["balances"]:
            body = {
                "amount_minor": max(0, balance["available_minor"]) // share,
                "currency": balance["currency"],
                "method_id": self.play.method_ids[customer],
            }
            answer = self.play.call("POST", "/v1/me/payouts", by=who, json=body)
            assert (answer.status_code == 201) == (body["amount_minor"] >= 100), answer.text

    @rule(number=st.integers(0, 9), decision=st.sampled_from(["approve", "reject"]))
    def decide_a_payout(self, number: int, decision: str) -> None:
        """Approve or reject one that waits."""
        waiting = self.play.listed("/v1/admin/payouts?status=requested")
        if waiting:
            path = f"/v1/admin/payouts/{waiting[number % len(waiting)]['id']}/{decision}"
            answer = self.play.call("POST", path, json={"reason": "decided"} if decision == "reject" else None)
            assert answer.status_code == 200, answer.text

    @rule(currency=st.sampled_from(["PKR", "JPY", "KWD"]))
    def close_a_batch(self, currency: str) -> None:
        """Hand what is approved to the bank."""
        assert self.play.call("POST", "/v1/admin/payout-batches", json={"currency": currency}).status_code in {201, 409}

    @rule(number=st.integers(0, 9), status=st.sampled_from(["paid", "failed"]))
    def settle_a_payout(self, number: int, status: str) -> None:
        """Hear from the bank, also days later that a payout came back."""
        sent = self.play.listed("/v1/admin/payouts?status=sent") + self.play.listed("/v1/admin/payouts?status=paid")
        if sent:
            path = f"/v1/admin/payouts/{sent[number % len(sent)]['id']}/settle"
            body = {"status": status, "reason": "the bank said so"}
            assert self.play.call("POST", path, json=body).status_code in {200, 409}

    @rule(merchant=st.integers(0, 3), customer=st.integers(0, 2), number=st.integers(0, 7), sale=sales, days_ago=days)
    def claim(self, merchant: int, customer: int, number: int, sale: int, days_ago: int) -> None:
        """Miss an order that may be an orphan, somebody else's, or invented."""
        shop = self.play.merchants[merchant]
        body = {
            "merchant_id": shop.id,
            "order_reference": f"O-{number}",
            "ordered_at": (datetime.now(UTC) - timedelta(days=days_ago, minutes=1)).isoformat(),
            "amount": {"amount_minor": sale, "currency": shop.currency},
        }
        self.play.call("POST", "/v1/me/claims", by=self.play.customers[customer], json=body)
        self.play.work()

    @rule(merchant=st.integers(0, 3), number=st.integers(0, 7), sale=sales, days_ago=days)
    def lose_a_click(self, merchant: int, number: int, sale: int, days_ago: int) -> None:
        """Report a sale without its click: an orphan, unless it is claimed already."""
        order = Placed(merchant, f"O-{number}", None)
        self._report(order, "created", days_ago, sale, sale // 12)

    @rule(number=st.integers(0, 9), verdict=st.sampled_from(["approve", "reject"]), sale=sales)
    def decide_a_claim(self, number: int, verdict: str, sale: int) -> None:
        """Credit a claim, with its orphan or by hand, or reject it."""
        waiting = self.play.listed("/v1/admin/claims?status=matched") + self.play.listed("/v1/admin/claims?status=open")
        if not waiting:
            return
        claim = waiting[number % len(waiting)]
        body: dict[str, Any] = {"note": "looked at"}
        if verdict == "approve" and claim["status"] == "open":
            currency = claim["amount"]["currency"]
            body["sale"] = {"amount_minor": sale, "currency": currency}
            body["commission"] = {"amount_minor": sale // 12, "currency": currency}
        answer = self.play.call("POST", f"/v1/admin/claims/{claim['id']}/{verdict}", json=body)
        assert answer.status_code in {200, 409, 422}, answer.text
        self.play.work()

    @rule(number=st.integers(0, 9), kind=closings)
    def adjust(self, number: int, kind: str) -> None:
        """Let staff say what the source does not."""
        orders = self.play.orders()
        if orders:
            order = orders[number % len(orders)]
            body = {"kind": kind, "reason": "said on the telephone"}
            assert self.play.call("POST", f"/v1/admin/orders/{order.id}/adjustments", json=body).status_code == 201

    @rule(
        merchant=st.integers(0, 3),
        basis_points=st.sampled_from([100, 2_500]),
        budget=st.sampled_from([None, 150, 3_000]),
    )
    def start_campaign(self, merchant: int, basis_points: int, budget: int | None) -> None:
        """Promise more from now on."""
        shop = self.play.merchants[merchant]
        body: dict[str, Any] = {
            "name": "Boost",
            "currency": shop.currency,
            "merchant_id": shop.id,
            "kind": "percent_of_sale",
            "basis_points": basis_points,
        }
        if budget is not None:
            body["budget"] = {"amount_minor": budget, "currency": shop.currency}
        assert self.play.call("POST", "/v1/admin/campaigns", json=body).status_code == 201

    @rule(merchant=st.integers(0, 3), basis_points=st.sampled_from([1, 333, 900]), cap=st.sampled_from([None, 77]))
    def change_rate(self, merchant: int, basis_points: int, cap: int | None) -> None:
        """Promise another rate from now on, perhaps with a cap an order and a month."""
        shop = self.play.merchants[merchant]
        body: dict[str, Any] = {"kind": "percent_of_sale", "basis_points": basis_points}
        if cap is not None:
            body["cap"] = {"amount_minor": cap, "currency": shop.currency}
            body["cap_month"] = {"amount_minor": 2 * cap, "currency": shop.currency}
        answer = self.play.call("POST", f"/v1/admin/merchants/{shop.id}/rates", json=body)
        assert answer.status_code == 201, answer.text

    @rule(
        merchant=st.integers(0, 3),
        numbers=st.lists(st.integers(0, 9), min_size=1, max_size=4),
        percent=st.sampled_from([100, 100, 60, 130, 0, -100]),
    )
    def settle(self, merchant: int, numbers: list[int], percent: int) -> None:
        """Pay, or take back, parts of what some orders earned, perhaps one of them twice, and an unknown one's."""
        shop = self.play.merchants[merchant]
        known = [order for order in self.play.orders() if order.merchant_id == shop.id]
        paid = [known[number % len(known)] for number in numbers] if known else []
        lines = [
            (f"X-{numbers[0]}", percent),
            *((o.external_id, o.reported_commission_minor * percent // 100) for o in paid),
        ]
        self.statements += 1
        body = {
            "merchant_id": shop.id,
            "reference": f"statement {self.statements}",
            "currency": shop.currency,
            "paid_on": "2026-11-20",
            "total_minor": sum(amount for _, amount in lines),
            "lines": [{"order_reference": reference, "amount_minor": amount} for reference, amount in lines],
        }
        assert self.play.call("POST", "/v1/admin/settlements", json=body).status_code == 201
        self.play.work()

    @rule(
        number=st.integers(0, 30), resolution=st.sampled_from(["written_off", "accepted", "assigned", "settled_later"])
    )
    def decide(self, number: int, resolution: str) -> None:
        """Resolve a line that does not match, if the decision fits it."""
        line = self._line(number, open=True)
        if line is None:
            return
        body = {"resolution": resolution, "note": "as agreed"}
        if resolution == "assigned":
            known = [order for order in self.play.orders() if order.merchant_id == line["merchant_id"]]
            if not known:
                return
            body["order_id"] = str(known[number % len(known)].id)
        answer = self.play.call("POST", f"/v1/admin/settlement-lines/{line['id']}/resolve", json=body)
        assert answer.status_code in {200, 409}, answer.text
        self.play.work()

    @rule(number=st.integers(0, 30))
    def think_again(self, number: int) -> None:
        """Undo what became of a line."""
        line = self._line(number)
        if line is not None and line["resolution"] is not None:
            url = f"/v1/admin/settlement-lines/{line['id']}/reopen"
            assert self.play.call("POST", url, json={"note": "a mistake"}).status_code == 200

    @rule()
    def expire(self) -> None:
        """Let an hour pass, after which orders that nobody closed expire."""
        self.play.expire()

    def _line(self, number: int, **filters: bool) -> dict[str, Any] | None:
        listed = self.play.call("GET", "/v1/admin/settlement-lines", params={"limit": 100, **filters})
        lines: list[dict[str, Any]] = listed.json()["items"]
        return lines[number % len(lines)] if lines else None

    @invariant()
    def ledger_holds(self) -> None:
        """Every rule of the ledger holds, and each order's steps add up to its cashback."""
        assert self.play.violations() == []
        for order in self.play.orders():
            assert sum(step["amount_minor"] for step in order.explanation["steps"]) == order.cashback_minor

    def _report(
        self, order: Placed, kind: str, days_ago: int, sale: int | None = None, commission: int | None = None
    ) -> None:
        self.play.report(
            kind,
            order.reference,
            days_ago=days_ago,
            click_id=order.click_id,
            amount=sale,
            commission=commission,
            currency=self.play.merchants[order.merchant].currency,
        )


@pytest.fixture
def stage(template: str, worker_number: int) -> Iterator[Stage]:
    with Stage(template, worker_number) as stage:
        MoneyMachine.stage = stage
        yield stage


def tries(examples: int, **changes: Any) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        database=None,
        **changes,
    )


def test_every_invariant_holds_after_every_step(stage: Stage) -> None:
    run_state_machine_as_test(MoneyMachine, settings=tries(EXAMPLES))


async def _keep_boosts(*_: object) -> None:
    """Forget to give a dead order's boost back to its budget."""


def _forget_negative_lines(patch: pytest.MonkeyPatch) -> None:
    """Post to the wallet of an order only what makes it larger, one order at a time and many at once."""
    post, post_all = ledger.post, ledger.post_all

    def kept(cause_type: CauseType, lines: Sequence[Line]) -> list[Line]:
        return [
            line
            for line in lines
            if cause_type is not CauseType.ORDER or line.customer_id is None or line.amount_minor < 0
        ]

    async def broken_post(session: Any, *, cause_type: CauseType, lines: Sequence[Line], **values: Any) -> Any:
        return await post(session, cause_type=cause_type, lines=kept(cause_type, lines), **values)

    async def broken_post_all(session: Any, entries: Sequence[Entry], **values: Any) -> None:
        entries = [replace(entry, lines=kept(entry.cause_type, entry.lines)) for entry in entries]
        await post_all(session, entries, **values)

    patch.setattr(ledger, "post", broken_post)
    patch.setattr(ledger, "post_all", broken_post_all)


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(lambda patch: patch.setattr(boosts, "give_back", _keep_boosts), id="boost-kept"),
        pytest.param(_forget_negative_lines, id="return-not-taken-back"),
    ],
)
def test_a_bug_seeded_on_purpose_is_caught(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, seed: Callable[[pytest.MonkeyPatch], None]
) -> None:
    seed(monkeypatch)
    # The invariants see it, unless the database refused it at its commit.
    with pytest.raises((AssertionError, ExceptionGroup, IntegrityError)):
        run_state_machine_as_test(MoneyMachine, settings=tries(EXAMPLES, phases=[Phase.generate]))
