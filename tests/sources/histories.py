"""Lives of orders as each network tells them: random, and the same for a seed. Every network is told what it can say.

A history is a list of payloads, in the order things happened, of one order with this reference and this click.
"""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

Payload = dict[str, Any]
START = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Story:
    """What happens to one order, with chances and a clock that only goes forward."""

    def __init__(self, seed: int, reference: str, click_id: str) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - repeatable
        self.reference = reference
        self.click_id = click_id
        self.now = START

    def later(self) -> datetime:
        self.now += timedelta(minutes=self.chance.randint(1, 5000))
        return self.now

    def amounts(self, most: int = 100_000) -> tuple[str, str]:
        """A sale and a commission below it, as decimal text."""
        sale = self.chance.randint(100, most)
        return f"{sale / 100:.2f}", f"{self.chance.randint(1, sale) / 100:.2f}"

    def ends(self) -> list[str]:
        """How it may go on after it was reported: nothing, or one or several of approved and declined."""
        return self.chance.choice([[], ["approved"], ["declined"], ["approved", "declined"], ["declined", "approved"]])


def direct(story: Story) -> list[Payload]:
    def report(kind: str, **more: Any) -> Payload:
        return {"type": f"order.{kind}", "order_id": story.reference, "occurred_at": story.later().isoformat(), **more}

    def money() -> Payload:
        sale, commission = story.amounts()
        return {"amount": sale, "commission": commission, "currency": "USD"}

    told = [report("created", click_id=story.click_id, **money())]
    for _ in range(story.chance.randint(0, 3)):
        match story.chance.randrange(4):
            case 0:
                told.append(report("created", click_id=story.click_id, **money()))
            case 1:
                told.append(report("approved", **(money() if story.chance.random() < 0.5 else {})))
            case 2:
                told.append(report("declined"))
            case _:
                told.append(report("returned", amount=story.amounts(5_000)[0], currency="USD"))
    return told


def awin(story: Story) -> list[Payload]:
    sale, commission = story.amounts()
    push = {
        "transactionId": story.reference,
        "clickRef": story.click_id,
        "transactionDate": f"{story.later():%Y-%m-%d %H:%M:%S}",
        "transactionCurrency": "USD",
        "transactionAmount": sale,
        "commission": commission,
        "merchantId": "m",
    }
    return [push]


def admitad(story: Story) -> list[Payload]:
    told = []
    for action in range(story.chance.randint(1, 3)):
        sale, commission = story.amounts()
        event = {
            "admitad_id": f"{story.reference}-{action}",
            "order_id": story.reference,
            "subid": story.click_id,
            "offer_id": "m",
            "currency": "USD",
            "order_sum": sale,
            "payment_sum": commission,
            "time": str(int(START.timestamp())),
        }
        statuses = ["pending", *(["approved_but_stalled"] if story.chance.random() < 0.3 else []), *story.ends()]
        told += [{**event, "payment_status": status} for status in statuses]
    return told


def impact(story: Story) -> list[Payload]:
    sale, commission = story.amounts()
    event = {
        "ActionId": story.reference,
        "SubId1": story.click_id,
        "CampaignId": "m",
        "Currency": "USD",
        "Amount": sale,
        "Payout": commission,
        "EventDate": START.isoformat(),
    }
    told = [{**event, "Status": "PENDING"}]
    for end in story.ends():
        # The amounts are final with the approval.
        final = {"Amount": sale, "Payout": f"{float(commission) / 2:.2f}"} if end == "approved" else {}
        told.append({**event, **final, "Status": {"approved": "APPROVED", "declined": "REVERSED"}[end]})
    return told


def rakuten(story: Story) -> list[Payload]:
    told = []
    for row in range(story.chance.randint(1, 6)):
        sale, commission = story.amounts()
        sign = "-" if row and story.chance.random() < 0.4 else ""
        told.append(
            {
                "etransaction_id": f"{story.reference}-{row}",
                "order_id": story.reference,
                "u1": story.click_id,
                "advertiser_id": "m",
                "currency": "USD",
                "sale_amount": f"{sign}{sale}",
                "commissions": f"{sign}{commission}",
                "transaction_date": f"{story.later():%a %b %d %Y %H:%M:%S} GMT+0000 (UTC)",
            }
        )
    return told


def shareasale(story: Story) -> list[Payload]:
    sale, commission = story.amounts()
    event = {
        "afftrack": story.click_id,
        "transID": story.reference,
        "merchantID": "m",
        "orderNumber": story.reference,
        "amountOfSale": sale,
        "commission": commission,
        "transDate": f"{story.later():%Y-%m-%d %H:%M:%S}",
        "transtype": "sale",
    }
    return [event]


def tradedoubler(story: Story) -> list[Payload]:
    told = []
    for transaction in range(story.chance.randint(1, 2)):
        event = {
            "transactionId": f"{story.reference}-{transaction}",
            "orderNumber": story.reference,
            "epi": story.click_id,
            "programId": "m",
            "currency": "USD",
            "timeOfTransaction": START.isoformat(),
        }
        for status in ["P", *({"approved": "A", "declined": "D"}[end] for end in story.ends())]:
            sale, commission = story.amounts()
            told.append(
                {
                    **event,
                    "status": status,
                    "orderValue": sale,
                    "publisherCommission": commission,
                    "timeOfLastModified": story.later().isoformat(),
                }
            )
    return told


def wildfire(story: Story) -> list[Payload]:
    told = []
    for status in ["PENDING", *({"approved": "READY", "declined": "DISQUALIFIED"}[end] for end in story.ends())]:
        sale, commission = story.amounts()
        told.append(
            {
                "Type": "Commission",
                "Payload": {
                    "ID": story.reference,
                    "MerchantID": "m",
                    "TrackingCode": story.click_id,
                    "SaleAmount": sale,
                    "Amount": commission,
                    "Status": status,
                    "EventDate": START.isoformat(),
                    "ModifiedDate": story.later().isoformat(),
                },
            }
        )
    return told


def button(story: Story) -> list[Payload]:
    sale, commission = (int(float(amount) * 100) for amount in story.amounts())
    data = {
        "button_order_id": story.reference,
        "pub_ref": story.click_id,
        "commerce_organization": "m",
        "currency": "USD",
        "order_currency": "USD",
        "category": "new-user-order",
    }
    told = []
    for status in [
        "tx-pending",
        *({"approved": "tx-validated", "declined": "tx-declined"}[end] for end in story.ends()),
    ]:
        final = commission // 2 if status == "tx-validated" else commission
        told.append(
            {
                "id": f"{story.reference}-{status}",
                "event_type": status,
                "data": {**data, "order_total": sale, "amount": final},
            }
        )
    return told


def affise(story: Story) -> list[Payload]:
    sale, commission = story.amounts()
    event = {
        "transactionid": story.reference,
        "sub1": story.click_id,
        "offerid": "m",
        "currency": "USD",
        "sum": commission,
        "order_sum": sale,
    }
    statuses = ["2", *(["5"] if story.chance.random() < 0.3 else [])]
    statuses += [{"approved": "1", "declined": "3"}[end] for end in story.ends()]
    return [{**event, "status": status} for status in statuses]


def fidel(story: Story) -> list[Payload]:
    def transaction(event: str, number: int, sale: str, **more: Any) -> Payload:
        body = {
            "id": f"{story.reference}-{number}" if number else story.reference,
            "amount": float(sale),
            "currency": "USD",
            "updated": story.later().isoformat(),
            "datetime": START.isoformat(),
            "brand": {"id": "m"},
            "card": {"metadata": {"click_id": story.click_id}},
            **more,
        }
        return {"event": event, "body": body}

    sale, commission = story.amounts()
    told = [transaction("transaction.auth", 0, sale, offer={"cashback": float(commission)})]
    if story.chance.random() < 0.7:
        sale, commission = story.amounts()
        told.append(transaction("transaction.clearing", 0, sale, offer={"cashback": float(commission)}))
    for number in range(story.chance.randint(0, 2)):
        refund = f"-{story.amounts(3_000)[0]}"
        told.append(transaction("transaction.refund", number + 1, refund, originalTransactionId=story.reference))
    return told


HISTORIES: dict[str, Callable[[Story], list[Payload]]] = {
    "admitad": admitad,
    "affise": affise,
    "awin": awin,
    "button": button,
    "direct": direct,
    "fidel": fidel,
    "impact": impact,
    "rakuten": rakuten,
    "shareasale": shareasale,
    "tradedoubler": tradedoubler,
    "wildfire": wildfire,
}
# These say when what they report happened; of the others only kinds tell what came first.
UNDATED = {"admitad", "affise", "button", "impact"}
