"""The file of a batch for people and banks without ISO 20022: CSV (RFC 4180), a line for each payout."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from uuid import UUID

from app.money import format_minor
from app.services.payouts.accounts import PayoutAccount
from app.services.report_tables import escape_formula

COLUMNS = (
    "payout_id",
    "end_to_end_id",
    "kind",
    "holder",
    "country",
    "iban",
    "bic",
    "bank_code",
    "account_number",
    "phone",
    "provider",
    "email",
    "amount",
    "currency",
)


@dataclass(frozen=True, slots=True)
class BankTransfer:
    """What the bank is told of one payout: who gets how much. `amount_minor` is what the customer receives."""

    payout_id: UUID
    amount_minor: int
    currency: str
    account: PayoutAccount

    @property
    def end_to_end_id(self) -> str:
        """The payout's id in 32 characters, which every bank carries along; it finds the payout wherever an id does."""
        return self.payout_id.hex


def build_csv(transfers: Sequence[BankTransfer]) -> bytes:
    """Build the file: a header, then a line for each; amounts are decimals in the major unit.

    No cell runs as a formula. A phone number stands without its plus, so that it needs no escape.
    """
    output = StringIO(newline="")
    writer = csv.writer(output)
    writer.writerow(COLUMNS)
    for one in transfers:
        account = one.account
        texts = (
            account.holder,
            account.country,
            account.iban,
            account.bic,
            account.bank_code,
            account.account_number,
            account.phone and account.phone.removeprefix("+"),
            account.provider,
            account.email,
        )
        writer.writerow(
            [
                one.payout_id,
                one.end_to_end_id,
                account.kind.value,
                *(_cell(text) for text in texts),
                format_minor(one.amount_minor, one.currency),
                one.currency,
            ]
        )
    return output.getvalue().encode()


def _cell(text: str | None) -> str:
    # One line: a reader that splits at line ends would take the rest of a name for another payout.
    return escape_formula(" ".join((text or "").split()))
