"""What every kind of payload is read into, and the error that says why one cannot be read."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.models import ReportKind


class PayloadError(Exception):
    """A payload that cannot be understood; its message is kept with the event for staff."""


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

    @property
    def click_id(self) -> UUID | None:
        """The click it names, or None when the reference is no id of ours."""
        try:
            return UUID(self.click_reference or "")
        except ValueError:
            return None
