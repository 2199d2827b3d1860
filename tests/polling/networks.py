"""The APIs of four networks as they are documented: they check credentials and windows, page, and tell what is now.

Each keeps sales by their number and knows how a sale that changed is told. Sales are told in dollars.
"""

import base64
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from tests.feed_server import Reply, Request

TOKEN = "a-token-of-the-network"
USER, PASSWORD = "a-user", "a-password"
MERCHANT = "4711"


@dataclass
class Sale:
    """One sale at a network. Amounts in cents; `status` is pending, approved, declined or deleted."""

    number: int
    click_id: str
    sold_at: datetime
    sale: int
    commission: int
    status: str = "pending"
    changed_at: datetime | None = None
    # Of those with parts: what became of each half.
    halves: tuple[str, str] | None = None
    # Of CJ: every record that was ever posted for it.
    records: list[dict[str, Any]] = field(default_factory=list)

    @property
    def last_at(self) -> datetime:
        return self.changed_at or self.sold_at


class Network(ABC):
    """An API on a feed server. `shuffle` decides in which order, and on which pages, a list is told."""

    preset: str
    path: str
    credentials: dict[str, str]
    values: dict[str, str]

    def __init__(self, *, page_size: int = 3, shuffle: random.Random | None = None) -> None:
        self.sales: dict[int, Sale] = {}
        self.page_size = page_size
        self.shuffle = shuffle
        # Answers to give before any other, each once.
        self.troubles: list[Reply] = []
        self.asked: list[Request] = []

    def add(self, sale: Sale) -> None:
        """Track a sale."""
        self.sales[sale.number] = sale
        self.changed(sale)

    def change(self, number: int, status: str, *, sale: int | None = None, commission: int | None = None) -> None:
        """Decide a sale, or amend it, now."""
        found = self.sales[number]
        found.changed_at = datetime.now(UTC)
        found.status = status
        found.sale = found.sale if sale is None else sale
        found.commission = found.commission if commission is None else commission
        self.changed(found)

    def changed(self, sale: Sale) -> None:  # noqa: B027 - most networks only tell what is
        """Note what a change adds to the list."""

    def __call__(self, request: Request) -> Reply:
        self.asked.append(request)
        if not self.lets_in(request):
            return Reply(b'{"error": "unauthorized"}', status=401)
        if self.troubles:
            return self.troubles.pop(0)
        return Reply(orjson.dumps(self.answer(request)), headers={"Content-Type": "application/json"})

    def lets_in(self, request: Request) -> bool:
        pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        wanted = {"bearer": f"Bearer {TOKEN}", "basic": f"Basic {pair}"}[self.credentials["kind"]]
        return request.headers.get("authorization") == wanted

    def ordered(self, items: list[Any]) -> list[Any]:
        if self.shuffle is not None:
            self.shuffle.shuffle(items)
        return items

    @abstractmethod
    def answer(self, request: Request) -> Any:
        """Answer a request that was let in."""


def _within(at: datetime | None, start: str, end: str) -> bool:
    def read(text: str) -> datetime:
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)

    # Seconds are all that a request can name.
    return at is not None and read(start) <= at.replace(microsecond=0) <= read(end)


def _money(cents: int) -> str:
    return f"{'-' if cents < 0 else ''}{abs(cents) // 100}.{abs(cents) % 100:02d}"


class Awin(Network):
    preset = "awin"
    path = "/publishers/77/transactions/"
    credentials = {"kind": "bearer", "token": TOKEN}  # noqa: RUF012 - never changed
    values = {"publisher_id": "77"}  # noqa: RUF012 - never changed

    def answer(self, request: Request) -> Any:
        query = request.query
        start, end = datetime.fromisoformat(query["startDate"]), datetime.fromisoformat(query["endDate"])
        assert end - start <= timedelta(days=31)
        assert query["timezone"] == "UTC"
        by_validation = query["dateType"] == "validation"
        return self.ordered(
            [
                self.item(sale)
                for sale in self.sales.values()
                if _within(
                    self.validated_at(sale) if by_validation else sale.sold_at, query["startDate"], query["endDate"]
                )
            ]
        )

    def validated_at(self, sale: Sale) -> datetime | None:
        # What is deleted was never validated.
        return sale.changed_at if sale.status in {"approved", "declined"} else None

    def item(self, sale: Sale) -> dict[str, Any]:
        at = self.validated_at(sale)
        return {
            "id": sale.number,
            "advertiserId": int(MERCHANT),
            "publisherId": 77,
            "commissionStatus": sale.status,
            "commissionAmount": {"amount": sale.commission / 100, "currency": "USD"},
            "saleAmount": {"amount": sale.sale / 100, "currency": "USD"},
            "clickRefs": {"clickRef": sale.click_id},
            "transactionDate": f"{sale.sold_at:%Y-%m-%dT%H:%M:%S}",
            "validationDate": at and f"{at:%Y-%m-%dT%H:%M:%S}",
            # Nothing of ours depends on it.
            "lapseTime": len(self.asked),
        }


class Impact(Network):
    preset = "impact"
    path = "/Mediapartners/IRx1/Actions"
    credentials = {"kind": "basic", "username": USER, "password": PASSWORD}  # noqa: RUF012 - never changed
    values = {"account_sid": "IRx1"}  # noqa: RUF012 - never changed

    def answer(self, request: Request) -> Any:
        query = request.query
        assert int(query["PageSize"]) >= 2000
        dates = {"StartDate": "EndDate", "LockingDateStart": "LockingDateEnd", "ActionDateStart": "ActionDateEnd"}
        first = next(name for name in dates if name in query)
        start, end = query[first], query[dates[first]]
        assert datetime.fromisoformat(end) - datetime.fromisoformat(start) <= timedelta(days=45)
        at = {
            "StartDate": self.updated_at,
            "LockingDateStart": self.locked_at,
            "ActionDateStart": self.sold_at,
        }
        found = [self.item(sale) for sale in self.sales.values() if _within(at[first](sale), start, end)]
        page = int(query.get("Page", "1"))
        items = found[(page - 1) * self.page_size :][: self.page_size]
        is_last = page * self.page_size >= len(found)
        following = f"{self.path}?PageSize=2000&{first}={start}&{dates[first]}={end}&Page={page + 1}"
        return {
            "@page": str(page),
            "@pagesize": "2000",
            "@nextpageuri": "" if is_last else following.replace("+", "%2B"),
            "Actions": self.ordered(items),
        }

    def sold_at(self, sale: Sale) -> datetime | None:
        return sale.sold_at

    def updated_at(self, sale: Sale) -> datetime | None:
        # A change of the state alone is no update there.
        return sale.last_at if sale.status == "pending" else sale.sold_at

    def locked_at(self, sale: Sale) -> datetime | None:
        return None if sale.status == "pending" else sale.changed_at

    def item(self, sale: Sale) -> dict[str, Any]:
        state = {"pending": "PENDING", "approved": "APPROVED"}.get(sale.status, "REVERSED")
        return {
            "Id": f"1000.4636.{sale.number}",
            "CampaignId": MERCHANT,
            "State": state,
            "Payout": _money(sale.commission),
            "Amount": _money(sale.sale),
            "Currency": "USD",
            "EventDate": sale.sold_at.isoformat(),
            "CreationDate": sale.sold_at.isoformat(),
            "LockingDate": (self.locked_at(sale) or sale.sold_at + timedelta(days=30)).isoformat(),
            "SubId1": sale.click_id,
        }


class Cj(Network):
    preset = "cj"
    path = "/query"
    credentials = {"kind": "bearer", "token": TOKEN}  # noqa: RUF012 - never changed
    values = {"publisher_id": "55"}  # noqa: RUF012 - never changed
    _count = 0

    def changed(self, sale: Sale) -> None:
        told = (
            sum(record["sale"] for record in sale.records),
            sum(record["commission"] for record in sale.records),
        )
        wanted = (0, 0) if sale.status in {"declined", "deleted"} else (sale.sale, sale.commission)
        if told != wanted:
            # A restatement: one record takes all back, another says what is.
            if any(told):
                self.post(sale, -told[0], -told[1], reason="RETURNED_MERCHANDISE")
            if any(wanted):
                self.post(sale, *wanted, reason="CORRECTED" if sale.records else None)

    def post(self, sale: Sale, amount: int, commission: int, *, reason: str | None) -> None:
        self._count += 1
        sale.records.append(
            {
                "id": f"{1_000_000 + self._count}",
                "sale": amount,
                "commission": commission,
                "reason": reason,
                "at": sale.last_at,
            }
        )

    def answer(self, request: Request) -> Any:
        document = orjson.loads(request.body)
        given = document["variables"]
        assert "publisherCommissions(" in document["query"]
        if given["publishers"] != ["55"]:
            return {"data": None, "errors": [{"message": "not your publisher"}]}
        found = [
            self.item(sale, record)
            for sale in self.sales.values()
            for record in sale.records
            if self.matches(given, sale, record)
        ]
        found.sort(key=lambda item: item["commissionId"])
        found = [item for item in found if item["commissionId"] > (given["since"] or "")]
        page = found[: self.page_size]
        return {
            "data": {
                "publisherCommissions": {
                    "count": len(page),
                    "payloadComplete": len(found) <= self.page_size,
                    "maxCommissionId": page[-1]["commissionId"] if page else None,
                    "records": self.ordered(page),
                }
            }
        }

    def matches(self, given: dict[str, Any], sale: Sale, record: dict[str, Any]) -> bool:
        if given.get("posted_from"):
            start, end = datetime.fromisoformat(given["posted_from"]), datetime.fromisoformat(given["posted_until"])
            assert end - start <= timedelta(days=31)
            return _within(record["at"], given["posted_from"], given["posted_until"])
        return _within(self.locked_at(sale), given["locked_from"], given["locked_until"])

    def locked_at(self, sale: Sale) -> datetime | None:
        return sale.changed_at if sale.status == "approved" else None

    def item(self, sale: Sale, record: dict[str, Any]) -> dict[str, Any]:
        at = self.locked_at(sale)
        return {
            "commissionId": record["id"],
            "original": record is sale.records[0],
            "originalActionId": str(sale.number),
            "correctionReason": record["reason"],
            "actionStatus": "locked" if at else "new",
            "advertiserId": MERCHANT,
            "orderId": f"order-{sale.number}",
            "shopperId": sale.click_id,
            "eventDate": f"{sale.sold_at:%Y-%m-%dT%H:%M:%SZ}",
            "postingDate": f"{record['at']:%Y-%m-%dT%H:%M:%S.%fZ}",
            "lockingDate": at and f"{at:%Y-%m-%dT%H:%M:%S.%fZ}",
            "saleAmountUsd": _money(record["sale"]),
            "pubCommissionAmountUsd": _money(record["commission"]),
        }


class Partnerize(Network):
    preset = "partnerize"
    path = "/reporting/report_publisher/publisher/77l9/conversion.json"
    credentials = {"kind": "basic", "username": USER, "password": PASSWORD}  # noqa: RUF012 - never changed
    values = {"publisher_id": "77l9"}  # noqa: RUF012 - never changed

    def answer(self, request: Request) -> Any:
        query = request.query
        start, end = query["start_date"], query["end_date"]
        by_change = query.get("date_type") == "last_updated"
        found = [
            self.item(sale)
            for sale in self.sales.values()
            if _within(sale.last_at if by_change else sale.sold_at, start, end)
        ]
        after = int(query.get("cursor_id", "0"))
        page = found[after : after + self.page_size]
        following = None
        if after + self.page_size < len(found):
            kept = "&".join(f"{name}={value}" for name, value in query.items() if name != "cursor_id")
            following = f"{self.path}?{kept}&cursor_id={after + self.page_size}".replace(" ", "%20")
        return {
            "count": len(found),
            "hypermedia": {"pagination": {"next_page": following}},
            "conversions": self.ordered([{"conversion_data": one} for one in page]),
        }

    def item(self, sale: Sale) -> dict[str, Any]:
        status = {"declined": "rejected", "deleted": "rejected"}.get(sale.status, sale.status)
        halves = sale.halves or (status, status)
        sales, commissions = (
            (sale.sale // 2, sale.sale - sale.sale // 2),
            (sale.commission // 2, -(-sale.commission // 2)),
        )
        return {
            "conversion_id": f"1011l{sale.number}",
            "campaign_id": MERCHANT,
            "conversion_time": f"{sale.sold_at:%Y-%m-%d %H:%M:%S}",
            "last_modified": f"{sale.last_at:%Y-%m-%d %H:%M:%S.%f}",
            "currency": "USD",
            "publisher_reference": sale.click_id,
            "conversion_value": {
                "conversion_status": halves[0] if halves[0] == halves[1] else "mixed",
                "value": _money(sale.sale),
                "publisher_commission": _money(sale.commission),
            },
            "conversion_items": [
                {
                    "conversion_item_id": f"{sale.number}-{number}",
                    "item_value": _money(sales[number]),
                    "item_publisher_commission": _money(commissions[number]),
                    "item_status": half,
                }
                for number, half in enumerate(halves)
            ],
        }


NETWORKS: dict[str, type[Network]] = {one.preset: one for one in (Awin, Cj, Impact, Partnerize)}
