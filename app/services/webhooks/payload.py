"""What every kind of payload is read into, and the errors that say why one is not."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.models import ReportKind


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a payload: our field (or `payload`), where it was looked for, and what is wrong."""

    field: str
    path: str | None
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.path is None else f"{self.field} ({self.path}): {self.message}"


class PayloadError(Exception):
    """A payload that cannot be understood; its message is kept with the event for staff."""

    def __init__(self, problems: Sequence[Problem] | str) -> None:
        self.problems = [Problem("payload", None, problems)] if isinstance(problems, str) else list(problems)
        super().__init__(problems if isinstance(problems, str) else "; ".join(map(str, problems)))


class IgnoredError(Exception):
    """A payload that says nothing that concerns us, by the source's own definition."""


@dataclass(frozen=True, slots=True)
class SaleReport:
    """One report of a sale, in our terms. Amounts in minor units; None where the payload repeats none."""

    external_order_id: str
    kind: ReportKind
    occurred_at: datetime
    click_reference: str | None
    currency: str | None
    sale_minor: int | None
    commission_minor: int | None
    # The merchant's name at a network that reports for many.
    network_merchant_ref: str | None = None
    # The delivery it speaks of, where an order is delivered and approved in parts.
    part: str | None = None
    # When the order was placed, where that is told beside the time of what is reported.
    ordered_at: datetime | None = None
    # Whether `occurred_at` says which of two reports came first; else only their kinds do.
    is_dated: bool = True
    # Whether the amounts are a difference, to be added to those of the order's other reports.
    is_delta: bool = False
    # The id of such a row: what comes again with it was told again, and is not added again.
    row_id: str | None = None

    @property
    def sold_at(self) -> datetime:
        """When the order was placed, as far as this report tells."""
        return self.ordered_at or self.occurred_at

    @property
    def click_id(self) -> UUID | None:
        """The click it names, or None when the reference is no id of ours."""
        try:
            return UUID(self.click_reference or "")
        except ValueError:
            return None
