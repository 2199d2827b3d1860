"""A stage for the life of money: the real application, its jobs, and a new database for each play.

Synchronous outside, so that Hypothesis can drive it: everything runs on one event loop of its own.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar

import httpx
from sqlalchemy import select

from app import db
from app.config import Settings
from app.db import transaction
from app.ids import new_id
from app.main import create_app
from app.models import Customer, Merchant, Order, Source, StaffRole
from app.services.ledger.verify import Violation, violations
from app.workers.orders import order_expiry
from app.workers.settings import worker_kind
from tests.conftest import administer, drop_database, in_process, make_settings
from tests.factories import (
    customer_headers,
    make_customer,
    make_merchant,
    make_payout_method,
    make_payout_rule,
    staff_headers,
)
from tests.referrals.world import make_invited, make_program
from tests.servers import database_url, redis_url
from tests.webhooks.sender import make_signed_source, order_payload, post_signed

Result = TypeVar("Result")

# Of each merchant what decides how its money behaves.
MERCHANTS: tuple[dict[str, Any], ...] = (
    {"currency": "PKR", "hold_days": 0},
    {"currency": "PKR", "hold_days": 30, "clawback_policy": "offset"},
    {"currency": "JPY", "hold_days": 0, "clawback_policy": "write_off", "write_off_days": 0, "expire_days": 60},
    {"currency": "KWD", "hold_days": 0, "payable_after_payment": True, "exposure_limit_minor": 50_000},
)

# Of the worker's schedule: they look at the books, or keep house, and move no money.
NOT_OF_THE_PLAY = {"verify_ledger", "seal_days", "watch", "forget_expired", "sweep_notifications", "expire_orders"}


class Stage:
    """Where plays are set; built once for a test, with a `play()` for each sequence."""

    def __init__(self, template: str, worker_number: int) -> None:
        self.template = template
        self.worker_number = worker_number
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        self.settings = self._settings(template)
        schedule = worker_kind("default", self.settings).schedule
        self.tasks = [scheduled.run for scheduled in schedule if scheduled.name not in NOT_OF_THE_PLAY]
        self.client: httpx.AsyncClient

    def __enter__(self) -> Self:
        self.client = self.run(self.stack.enter_async_context(in_process(create_app(self.settings), self.settings)))
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.stack.aclose())
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine to its end."""
        return self.loop.run_until_complete(work)

    def play(self) -> "Play":
        """Return a new play on a new database."""
        return Play(self, f"{self.template}_{new_id().hex[-12:]}")

    def _settings(self, database: str) -> Settings:
        return make_settings(database_url=database_url(database), redis_url=redis_url(self.worker_number % 16))

    async def open(self, database: str) -> None:
        """Copy the migrated database and connect to the copy."""
        await administer(f'CREATE DATABASE "{database}" TEMPLATE "{self.template}"')
        await db.open_database(self._settings(database), application_name="tests", pool_size=5, max_overflow=5)

    async def close(self, database: str) -> None:
        """Disconnect and drop the copy."""
        await db.close_database()
        db.AsyncSessionLocal.configure(bind=None)
        await drop_database(database)


class Play:
    """Customers, merchants and staff on a database of their own, and what they may do."""

    def __init__(self, stage: Stage, database: str) -> None:
        self.stage = stage
        self.database = database
        self.run = stage.run
        self.run(stage.open(database))
        self.source: Source
        self.merchants: list[Merchant]
        self.customers: list[Customer]
        self.staff: dict[str, str]
        self.method_ids: list[str]
        self.run(self._cast())
        self.bodies: list[tuple[str, dict[str, Any]]] = []

    async def _cast(self) -> None:
        async with transaction() as session:
            self.source = await make_signed_source(session, self.stage.settings)
            self.merchants = [
                await make_merchant(session, source_id=self.source.id, network_merchant_ref=None, **values)
                for values in MERCHANTS
            ]
            self.staff = await staff_headers(session, StaffRole.ADMIN)
            for currency in ("PKR", "JPY", "KWD"):
                await make_payout_rule(session, currency, minimum_minor=100, fee_minor=10, auto_approve_minor=1_000)
            # One bonus at most, and two who could earn it.
            await make_program(
                session, minimum_sale_minor=10_000, referrer_bonus_minor=77, invited_bonus_minor=33, max_granted=1
            )
            first = await make_customer(session)
            self.customers = [first, *[await make_invited(session, first) for _ in range(2)]]
            methods = [await make_payout_method(session, self.stage.settings, who) for who in self.customers]
            self.method_ids = [str(method.id) for method in methods]

    def end(self) -> None:
        """Take the stage down."""
        self.run(self.stage.close(self.database))

    def violations(self) -> list[Violation]:
        """Check every invariant of the ledger, as `cashback ledger verify` does."""

        async def check() -> list[Violation]:
            async with db.AsyncSessionLocal() as session, session.begin():
                return await violations(session)

        return self.run(check())

    def call(self, method: str, path: str, *, by: Customer | None = None, **request: Any) -> httpx.Response:
        """Call the API as a customer, or else as staff. An answer of 500 or above is an error of ours."""
        headers = self.staff if by is None else customer_headers(self.stage.settings, by)
        answer = self.run(self.stage.client.request(method, path, headers=headers, **request))
        assert answer.status_code < 500, answer.text
        return answer

    def listed(self, path: str) -> list[dict[str, Any]]:
        """Return the first page of a list that staff see."""
        items: list[dict[str, Any]] = self.call("GET", path).json()["items"]
        return items

    def click(self, customer: Customer, merchant: Merchant) -> str:
        """Leave for a merchant; returns the click's id."""
        answer = self.call("POST", "/v1/clicks", by=customer, json={"merchant_id": merchant.id})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def report(self, kind: str, order: str, *, days_ago: int, **payload: Any) -> None:
        """Let the merchants' source report something, and process it."""
        message_id = f"msg_{new_id().hex}"
        body = order_payload(kind, order, at=datetime.now(UTC) - timedelta(days=days_ago), **payload)
        self.bodies.append((message_id, body))
        self._post(message_id, body, "accepted")

    def repeat(self, number: int) -> None:
        """Let the source send one of its messages again."""
        message_id, body = self.bodies[number % len(self.bodies)]
        self._post(message_id, body, "duplicate")

    def _post(self, message_id: str, body: dict[str, Any], status: str) -> None:
        posted = post_signed(self.stage.client, self.source.source_key, body, message_id=message_id)
        answer = self.run(posted)
        assert (answer.status_code, answer.json()["status"]) == (202, status), answer.text
        self.work()

    def work(self) -> None:
        """Do what the workers would do by now."""

        async def jobs() -> None:
            for task in self.stage.tasks:
                await task()

        self.run(jobs())

    def expire(self) -> None:
        """Close the orders whose time is over."""

        async def job() -> None:
            await order_expiry(self.stage.settings)()

        self.run(job())

    def orders(self) -> list[Order]:
        """Return all orders, oldest first."""

        async def load() -> list[Order]:
            async with transaction() as session:
                return list(await session.scalars(select(Order).order_by(Order.id)))

        return self.run(load())
