"""From a payload to a report of a sale, by the rules of a source's definition. Asks nobody and writes nothing.

All that is wrong is collected, so that whoever maintains a definition sees it at once and not one error a try.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from app.expressions import Budget, Expression, ExpressionError
from app.models import ReportKind
from app.money import MoneyError, minor_digits
from app.schemas.source_authentication import HeaderPart, HmacAuthentication, StandardWebhooksAuthentication
from app.schemas.source_definitions import Reading, SourceDefinition
from app.schemas.source_fields import AmountRule, TextRule, TimeRule
from app.services.webhooks.delivery import Delivery, read_form, write_json
from app.services.webhooks.fields import UnreadableError, read_amount, read_text, read_time
from app.services.webhooks.payload import IgnoredError, PayloadError, Problem, SaleReport

RuleT = TypeVar("RuleT", bound=TextRule)
Found = TypeVar("Found")


class Reader:
    """A reading whose expressions are parsed: made once for a version, used for each of its events."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        rules = [rule for _, found in reading.mapping for rule in found or ()]
        self._expressions = {rule.path: Expression(rule.path) for rule in rules if rule.path is not None}

    def event_id(self, item: Any, request: Any) -> str | None:  # noqa: ANN401 - any JSON value
        """Return what tells a repeat of an event from a new one, or None where the payload has nothing of that."""
        event = _Event(self.reading, self._expressions, item, request)
        return event.text("event_id")

    def read(self, item: Any, request: Any, *, received_at: datetime) -> SaleReport:  # noqa: ANN401 - any JSON value
        """Read one event; `request` is what `of: delivery` looks at. Raises PayloadError and IgnoredError."""
        if not isinstance(item, dict):
            raise PayloadError("the event is no object")
        event = _Event(self.reading, self._expressions, item, request)
        kind = event.kind()
        currency = event.currency()
        occurred_at = event.time("occurred_at")
        report = SaleReport(
            external_order_id=event.text("order_reference") or "",
            kind=kind or ReportKind.CREATED,
            occurred_at=occurred_at or received_at,
            click_reference=event.text("click_reference"),
            currency=currency,
            sale_minor=event.amount("amount", currency),
            commission_minor=event.amount("commission", currency),
            network_merchant_ref=event.text("network_merchant_ref"),
            part=event.text("part"),
            ordered_at=event.time("ordered_at"),
            is_dated=occurred_at is not None or self.reading.undated == "arrival",
            is_delta=self.reading.sign_rule == "delta",
            row_id=event.text("event_id") if self.reading.sign_rule == "delta" else None,
        )
        event.check(report)
        return _taking_back(report) if report.is_delta and kind is ReportKind.RETURNED else report

    def digest(self, item: Any) -> bytes:  # noqa: ANN401 - any JSON value
        """Return the SHA-256 of all that is read of an event: equal as long as nothing that matters has changed."""
        budget = Budget()
        found = {}
        for path, expression in sorted(self._expressions.items()):
            try:
                found[path] = write_json(expression.search(item, budget)).decode()
            except (ExpressionError, PayloadError) as error:
                found[path] = f"unreadable: {error}"
        return hashlib.sha256(write_json(found)).digest()


def request_document(definition: SourceDefinition, delivery: Delivery) -> dict[str, Any]:
    """Return what rules with `of: delivery` look at: of a source that signs only what its signature covers."""
    query: dict[str, str] = {}
    headers: dict[str, str] = dict(delivery.headers)
    match definition.authentication:
        case HmacAuthentication() as hmac if definition.is_signed:
            signed = {part.name for part in hmac.parts if isinstance(part, HeaderPart)}
            headers = {name: value for name, value in headers.items() if name in signed}
            query = _query(delivery) if hmac.covers("query", "url") else {}
        case StandardWebhooksAuthentication():
            headers = {name: value for name, value in headers.items() if name.startswith("webhook-")}
        case _:
            query = _query(delivery)
    return {"method": delivery.method, "query": query, "headers": headers}


def _query(delivery: Delivery) -> dict[str, str]:
    try:
        return read_form(delivery.query)
    except PayloadError:
        return {}


def _taking_back(report: SaleReport) -> SaleReport:
    """Make a returned row of a delta network what it is: one that adds less than nothing."""
    return replace(
        report,
        kind=ReportKind.CREATED,
        sale_minor=-abs(report.sale_minor or 0),
        commission_minor=-abs(report.commission_minor or 0),
    )


class _Event:
    """One event on its way into a report."""

    def __init__(self, reading: Reading, expressions: dict[str, Expression], item: Any, request: Any) -> None:  # noqa: ANN401 - any JSON value
        self.reading = reading
        self.mapping = reading.mapping
        self.expressions = expressions
        self.documents = {"item": item, "delivery": request}
        self.budget = Budget()
        self.problems: list[Problem] = []

    def text(self, field: str) -> str | None:
        return self._first(field, getattr(self.mapping, field), read_text)

    def time(self, field: str) -> datetime | None:
        rules: list[TimeRule] | None = getattr(self.mapping, field)
        return self._first(field, rules, read_time)

    def amount(self, field: str, currency: str | None) -> int | None:
        rules: list[AmountRule] | None = getattr(self.mapping, field)
        return self._first(field, rules, lambda rule, value: read_amount(rule, value, currency))

    def kind(self) -> ReportKind | None:
        """Return what the status means; None, with a problem noted, when that is not known. Raises IgnoredError."""
        if self.mapping.status is None:
            return ReportKind.CREATED
        before = len(self.problems)
        status = self.text("status")
        meaning = self.reading.statuses.get(status) if status is not None else None
        if meaning is None and self.reading.unknown_status == "ignore":
            meaning = "ignore"
        if meaning == "ignore":
            raise IgnoredError(f"the status {status!r} is ignored by the source's definition")
        if meaning is None and len(self.problems) == before:
            known = ", ".join(self.reading.statuses)
            message = "missing" if status is None else f"{status[:80]!r} is none of {known}"
            self.problems.append(Problem("status", self.mapping.status[0].path, message))
        return meaning

    def currency(self) -> str | None:
        """Return the one currency that all the payload's statements of it agree on."""
        before = len(self.problems)
        currency = self.text("currency")
        if currency is None:
            return None
        try:
            minor_digits(currency)
        except MoneyError as error:
            if len(self.problems) == before:
                self.problems.append(Problem("currency", (self.mapping.currency or [])[0].path, str(error)))
            return None
        for field in ("amount_currency", "commission_currency"):
            other = self.text(field)
            if other not in (None, currency):
                message = f"{currency} and {str(other)[:10]}: one order has one currency"
                self.problems.append(Problem("currency", None, message))
        return currency

    def check(self, report: SaleReport) -> None:
        """Refuse what a report cannot be. Raises PayloadError naming all that is wrong."""
        event_id = self.text("event_id")
        if report.is_delta and event_id is None and self.mapping.event_id is not None:
            self.problems.append(Problem("event_id", self.mapping.event_id[0].path, "missing"))
        wrong = {problem.field for problem in self.problems}
        if not report.external_order_id and "order_reference" not in wrong:
            self.problems.append(Problem("order_reference", self.mapping.order_reference[0].path, "missing"))
        amounts = {"amount": report.sale_minor, "commission": report.commission_minor}
        is_sale = report.is_delta or report.kind is ReportKind.CREATED
        if is_sale and not self.problems and None in amounts.values():
            self.problems.append(Problem("payload", None, "a sale needs both amount and commission"))
        if not report.is_delta:
            for field, amount in amounts.items():
                if amount is not None and amount < 0:
                    message = "must not be negative; a status says that it was returned"
                    self.problems.append(Problem(field, getattr(self.mapping, field)[0].path, message))
        if self.problems:
            raise PayloadError(self.problems)

    def _first(self, field: str, rules: list[RuleT] | None, read: Callable[[RuleT, Any], Found | None]) -> Found | None:
        """Return what the first of the alternatives finds. One that finds something unreadable ends the search."""
        for rule in rules or ():
            try:
                found = read(rule, self._search(rule))
            except (ExpressionError, UnreadableError, MoneyError) as error:
                self.problems.append(Problem(field, rule.path, str(error)))
                return None
            if found is not None:
                return found
        if rules and any(rule.required for rule in rules):
            self.problems.append(Problem(field, rules[0].path, "missing"))
        return None

    def _search(self, rule: TextRule) -> Any:  # noqa: ANN401 - any JSON value
        return rule.path and self.expressions[rule.path].search(self.documents[rule.of], self.budget)
