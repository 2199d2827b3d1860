"""Processing many events in one transaction and a few statements, as far as they are plain.

An event is plain when it makes an order from its click, or reports on one that is not yet payable, and nothing else
has a say. The first that is not, and what comes after it of its order, are left to `process_event`, which knows all
there is. Both follow the same rules, in the same functions; here all that they look at is read beforehand.

Locks: events and orders that others hold are skipped, and so are order numbers; nobody is waited for but at the end,
for wallets, in the order that all keep to.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Row, any_, func, literal, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import load_only

from app.config import Settings
from app.models import Click, Merchant, Order, Source, WebhookEvent, WebhookStatus, reference_key
from app.services.bulk import update_rows
from app.services.fraud.judge import reviewed
from app.services.orders.bulk import OrderBatch, is_plain
from app.services.orders.report import new_order
from app.services.sources.versions import CompiledDefinition, load_version
from app.services.webhooks.attribute import (
    NotAttributedError,
    check_reporter,
    currency_of_new,
    fence,
    fence_commission,
    same_currency,
)
from app.services.webhooks.payload import IgnoredError, PayloadError, SaleReport
from app.services.webhooks.process import said_by
from app.services.webhooks.read import has_several, read_report

_READ = (
    WebhookEvent.id,
    WebhookEvent.source_id,
    WebhookEvent.origin,
    WebhookEvent.method,
    WebhookEvent.query,
    WebhookEvent.body,
    WebhookEvent.content_type,
    WebhookEvent.headers,
    WebhookEvent.request_id,
    WebhookEvent.received_at,
    WebhookEvent.contradicts_id,
    WebhookEvent.matched_click_id,
    WebhookEvent.released_at,
    WebhookEvent.order_id,
)
# As `lock_reference`, for as many as are free.
_LOCK_REFERENCES = text(
    "SELECT number, source, pg_try_advisory_xact_lock(hashtextextended(number, source)) AS is_ours"
    " FROM unnest(CAST(:numbers AS text[]), CAST(:sources AS bigint[])) AS wanted (number, source)"
)
_FIND_ORDERS = text(
    "SELECT o.id, o.merchant_id, o.source_id, o.external_id"
    " FROM unnest(CAST(:merchants AS int[]), CAST(:numbers AS text[])) AS wanted (merchant, number)"
    " JOIN orders o ON o.merchant_id = wanted.merchant AND o.external_id = wanted.number"
)
_FIND_ORDERS_OF_SOURCES = text(
    "SELECT o.id, o.merchant_id, o.source_id, o.external_id"
    " FROM unnest(CAST(:sources AS int[]), CAST(:numbers AS text[])) AS wanted (source, number)"
    " JOIN orders o ON o.source_id = wanted.source AND o.external_id = wanted.number"
)
# What `find_granted` may find, and more.
_FIND_CLAIMS = text(
    "SELECT merchant_id, customer_id, reference_key FROM claims WHERE status = 'approved'"
    " AND merchant_id = ANY(CAST(:merchants AS int[]))"
    " AND (customer_id = ANY(CAST(:customers AS uuid[])) OR reference_key = ANY(CAST(:keys AS text[])))"
)

Reference = tuple[int, str]


ModelT = TypeVar("ModelT", Click, Merchant, Order, Source)


class NotPlainError(Exception):
    """Something has a say in an event that is not looked at here."""


@dataclass(frozen=True, slots=True)
class _Plain:
    """An event that may be plain, as far as its own row and its source tell."""

    event: WebhookEvent
    source: Source
    version: CompiledDefinition
    report: SaleReport

    @property
    def reference(self) -> Reference:
        return self.source.id, self.report.external_order_id


async def claim_events(
    session: AsyncSession, *, limit: int, among: Sequence[UUID] | None = None
) -> Sequence[WebhookEvent]:
    """Lock events that are due, oldest first, of those that nobody else has at hand."""
    # In the text of the statement, so that every plan of it can use the inbox's partial index.
    received = literal(WebhookStatus.RECEIVED, WebhookEvent.status.type, literal_execute=True)
    due = (
        select(WebhookEvent)
        .options(load_only(*_READ))
        .where(WebhookEvent.status == received, WebhookEvent.next_attempt_at <= func.now())
        .order_by(WebhookEvent.next_attempt_at, WebhookEvent.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    if among is not None:
        due = due.where(_is_one_of(WebhookEvent.id, among))
    return (await session.scalars(due)).all()


async def process_plain(session: AsyncSession, settings: Settings, events: Sequence[WebhookEvent]) -> set[UUID]:
    """Process those of locked events that are plain; returns their ids, and leaves the others as they are.

    The session is the batch's own: what it has loaded is forgotten. Any error is the whole batch's, which is then to
    be rolled back.
    """
    plain = await _lock_references(session, await _read(session, events))
    now = datetime.now(UTC)
    orders = OrderBatch(rounding=settings.cashback_rounding, now=now)
    known = await _load(session, plain, orders)
    # What follows is written by statements of its own, and never by the session.
    session.expunge_all()
    outcomes = []
    for one in plain:
        if one.reference in known.left:
            continue
        try:
            order, click, merchant = known.attribute(one)
        except (NotPlainError, NotAttributedError):
            known.left.add(one.reference)
            continue
        orders.take(order, one.event.id, said_by(one.report), click=click, merchant=merchant)
        known.remember(order)
        outcomes.append(_outcome(one, order, now))
    await orders.write(session)
    await update_rows(session, WebhookEvent, outcomes)
    await orders.post(session)
    return {outcome["id"] for outcome in outcomes}


async def _read(session: AsyncSession, events: Sequence[WebhookEvent]) -> list[_Plain]:
    """Read the reports of events that stand for themselves: new to us, and understood."""
    sources = await _by_id(session, Source, {event.source_id for event in events})
    read = []
    for event in events:
        source = sources[event.source_id]
        version = await load_version(session, source.version_id)
        decided = (event.contradicts_id, event.matched_click_id, event.released_at, event.order_id)
        if has_several(version, event) or decided != (None, None, None, None):
            continue
        try:
            read.append(_Plain(event, source, version, read_report(version, event)))
        except (PayloadError, IgnoredError):
            continue
    return read


async def _lock_references(session: AsyncSession, plain: Sequence[_Plain]) -> list[_Plain]:
    """Lock the numbers of orders that nobody else works on, and return the events about these."""
    wanted = sorted({one.reference for one in plain})
    if not wanted:
        return []
    rows = await session.execute(
        _LOCK_REFERENCES, {"numbers": [number for _, number in wanted], "sources": [source for source, _ in wanted]}
    )
    ours = {(row.source, row.number) for row in rows if row.is_ours}
    return [one for one in plain if one.reference in ours]


@dataclass(slots=True)
class _Known:
    """All that the attribution of a batch looks at, in memory."""

    clicks: dict[UUID, Click]
    merchants: dict[int, Merchant]
    # Merchants and numbers, or merchants and customers, of which a claim was credited.
    claimed: set[tuple[int, str | UUID]]
    # Orders that somebody else has locked, by merchant and by source.
    held_of_merchant: set[tuple[int, str]]
    held_of_source: set[Reference]
    # Orders that were suspicious once: what staff decided of them outranks their reports.
    reviewed: set[UUID]
    left: set[Reference] = field(default_factory=set)
    of_merchant: dict[tuple[int, str], Order] = field(default_factory=dict)
    of_source: dict[Reference, dict[UUID, Order]] = field(default_factory=lambda: defaultdict(dict))

    def remember(self, order: Order) -> None:
        """Let the next event find an order."""
        self.of_merchant[order.merchant_id, order.external_id] = order
        self.of_source[order.source_id, order.external_id][order.id] = order

    def attribute(self, one: _Plain) -> tuple[Order, Click, Merchant]:
        """Do what `attribute` does. Raises NotPlainError and NotAttributedError."""
        report = one.report
        click = self.clicks.get(report.click_id) if report.click_id is not None else None
        is_fenced = not one.version.definition.is_signed
        if click is None:
            order = self._only_order(one)
            click = self.clicks[order.click_id]
        else:
            found = self._of_click(one, click)
            if found is None:
                fence(report, click, is_fenced=is_fenced)
            order = found or self._new_order(one, click)
        if order.id in self.reviewed or not is_plain(order if order.revision else None, click):
            raise NotPlainError
        same_currency(order, report)
        if is_fenced:
            fence_commission(report)
        return order, click, self.merchants[order.merchant_id]

    def _of_click(self, one: _Plain, click: Click) -> Order | None:
        merchant = self.merchants[click.merchant_id]
        check_reporter(click, merchant, one.source, one.report)
        number = one.report.external_order_id
        order = self.of_merchant.get((merchant.id, number))
        if (merchant.id, number) in self.held_of_merchant or (order is not None and order.click_id != click.id):
            raise NotPlainError
        if order is None and {(merchant.id, reference_key(number)), (merchant.id, click.customer_id)} & self.claimed:
            raise NotPlainError
        return order

    def _new_order(self, one: _Plain, click: Click) -> Order:
        merchant, currency = self.merchants[click.merchant_id], currency_of_new(one.report)
        if currency != merchant.currency:
            raise NotPlainError
        return new_order(
            merchant=merchant,
            source_id=one.source.id,
            click=click,
            external_id=one.report.external_order_id,
            reported_currency=currency,
            ordered_at=one.report.sold_at,
        )

    def _only_order(self, one: _Plain) -> Order:
        wanted = one.report.network_merchant_ref
        orders = [
            order
            for order in self.of_source[one.reference].values()
            if wanted is None or self.merchants[order.merchant_id].network_merchant_ref == wanted
        ]
        if len(orders) != 1 or one.reference in self.held_of_source:
            raise NotPlainError
        return orders[0]


async def _load(session: AsyncSession, plain: Sequence[_Plain], orders: OrderBatch) -> _Known:
    """Read, in a few statements, all that the events refer to; orders are locked unless somebody else has them."""
    clicks = await _by_id(session, Click, {one.report.click_id for one in plain if one.report.click_id is not None})
    of_click, without = set(), set()
    for one in plain:
        click = clicks.get(one.report.click_id) if one.report.click_id is not None else None
        if click is None:
            without.add(one.reference)
        else:
            of_click.add((click.merchant_id, one.report.external_order_id))
    rows: list[Row[Any]] = []
    for find, key, wanted in (
        (_FIND_ORDERS, "merchants", of_click),
        (_FIND_ORDERS_OF_SOURCES, "sources", without),
    ):
        if wanted:
            found = await session.execute(
                find, {key: [one for one, _ in wanted], "numbers": [number for _, number in wanted]}
            )
            rows += found.all()
    locked = await _by_id(session, Order, {row.id for row in rows}, lock=True)
    clicks |= await _by_id(session, Click, {order.click_id for order in locked.values()} - clicks.keys())
    merchant_ids = {click.merchant_id for click in clicks.values()} | {one.merchant_id for one in locked.values()}
    held = [row for row in rows if row.id not in locked]
    known = _Known(
        clicks=clicks,
        merchants=await _by_id(session, Merchant, merchant_ids),
        claimed=await _claimed(session, of_click, clicks),
        held_of_merchant={(row.merchant_id, row.external_id) for row in held},
        held_of_source={(row.source_id, row.external_id) for row in held},
        reviewed=await reviewed(session, locked) if locked else set(),
    )
    for order in locked.values():
        known.remember(order)
    await orders.load_reports(session, locked)
    return known


async def _claimed(
    session: AsyncSession, wanted: Collection[tuple[int, str]], clicks: dict[UUID, Click]
) -> set[tuple[int, str | UUID]]:
    if not wanted:
        return set()
    rows = await session.execute(
        _FIND_CLAIMS,
        {
            "merchants": list({merchant_id for merchant_id, _ in wanted}),
            "customers": list({click.customer_id for click in clicks.values()}),
            "keys": list({reference_key(number) for _, number in wanted}),
        },
    )
    claimed: set[tuple[int, str | UUID]] = set()
    for row in rows:
        claimed |= {(row.merchant_id, row.reference_key), (row.merchant_id, row.customer_id)}
    return claimed


async def _by_id(
    session: AsyncSession, model: type[ModelT], ids: Collection[Any], *, lock: bool = False
) -> dict[Any, ModelT]:
    """Return rows by their ids; with `lock` those that nobody else has locked."""
    if not ids:
        return {}
    statement = select(model).where(_is_one_of(model.id, ids))
    if lock:
        statement = statement.with_for_update(skip_locked=True)
    return {row.id: row for row in await session.scalars(statement)}


def _is_one_of(column: Any, values: Collection[Any]) -> ColumnElement[bool]:  # noqa: ANN401 - a column of any type
    # One array, and so one statement for any number of values.
    is_one: ColumnElement[bool] = column == any_(literal(list(values), ARRAY(column.type)))
    return is_one


def _outcome(one: _Plain, order: Order, now: datetime) -> dict[str, Any]:
    report = one.report
    return {
        "id": one.event.id,
        "status": WebhookStatus.PROCESSED,
        "reason": None,
        "waits_for": None,
        "version_id": one.source.version_id,
        "processed_at": now,
        "external_order_id": report.external_order_id,
        "reported_kind": report.kind,
        "reported_currency": report.currency,
        "reported_sale_minor": report.sale_minor,
        "reported_at": report.sold_at,
        "order_id": order.id,
        "merchant_id": order.merchant_id,
    }
