"""The CSV of a batch: a line for each payout, exact amounts, and no cell that a spreadsheet runs."""

import csv
from io import StringIO
from typing import Any
from uuid import UUID

import pytest

from app.ids import new_id
from app.models import PayoutMethodKind
from app.services.payouts.accounts import PayoutAccount
from app.services.payouts.bank_files import COLUMNS, BankTransfer, build_csv


def rows(*transfers: BankTransfer) -> list[dict[str, str]]:
    text = build_csv(transfers).decode()
    assert text.endswith("\r\n")
    return list(csv.DictReader(StringIO(text, newline=""), strict=True))


def transfer(kind: PayoutMethodKind, amount_minor: int = 1_234, currency: str = "PKR", **account: Any) -> BankTransfer:
    return BankTransfer(
        new_id(), amount_minor, currency, PayoutAccount(kind, account.pop("holder", "Ayesha Khan"), **account)
    )


def test_each_kind_of_account_has_its_cells() -> None:
    transfers = [
        transfer(PayoutMethodKind.IBAN, country="DE", iban="DE75512108001245126199", bic="SOLADEST600"),
        transfer(PayoutMethodKind.LOCAL_ACCOUNT, country="PK", bank_code="HABB", account_number="0012-3456"),
        transfer(PayoutMethodKind.MOBILE_WALLET, phone="+923001234567", provider="JazzCash"),
        transfer(PayoutMethodKind.EMAIL, email="ayesha@example.com", provider="PayPal"),
    ]
    found = rows(*transfers)
    assert [list(row) for row in found] == [list(COLUMNS)] * 4
    filled = [{name: value for name, value in row.items() if value} for row in found]
    common = {"holder": "Ayesha Khan", "amount": "12.34", "currency": "PKR"}
    assert [
        {name: value for name, value in row.items() if name not in {"payout_id", "end_to_end_id", *common}}
        for row in filled
    ] == [
        {"kind": "iban", "country": "DE", "iban": "DE75512108001245126199", "bic": "SOLADEST600"},
        {"kind": "local_account", "country": "PK", "bank_code": "HABB", "account_number": "0012-3456"},
        # Without its plus, which a spreadsheet would take for a formula.
        {"kind": "mobile_wallet", "phone": "923001234567", "provider": "JazzCash"},
        {"kind": "email", "email": "ayesha@example.com", "provider": "PayPal"},
    ]
    for row, one in zip(found, transfers, strict=True):
        assert {name: row[name] for name in common} == common
        assert UUID(row["payout_id"]) == UUID(row["end_to_end_id"]) == one.payout_id


@pytest.mark.parametrize(
    ("currency", "amount_minor", "text"),
    [("JPY", 1_500, "1500"), ("KWD", 1_500, "1.500"), ("PKR", 2**53 + 1, "90071992547409.93")],
)
def test_amounts_have_the_decimals_of_their_currency(currency: str, amount_minor: int, text: str) -> None:
    [row] = rows(transfer(PayoutMethodKind.EMAIL, amount_minor, currency))
    assert (row["amount"], row["currency"]) == (text, currency)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r@", "＝", "＋", "－", "＠"])
def test_no_cell_begins_as_a_formula(start: str) -> None:
    evil = f'{start}HYPERLINK("http://evil.example")'
    [row] = rows(
        transfer(PayoutMethodKind.EMAIL, holder=evil, provider=evil, email=evil, bank_code=evil, account_number=evil)
    )
    for name in ("holder", "provider", "email", "bank_code", "account_number"):
        assert row[name].startswith("'"), name


def test_a_name_with_line_ends_quotes_and_commas_stays_one_cell_of_one_line() -> None:
    content = build_csv([transfer(PayoutMethodKind.EMAIL, holder='Ayesha\r\n"Khan", née\u2028Malik 😀')])
    assert len(content.decode().splitlines()) == 2
    [row] = list(csv.DictReader(StringIO(content.decode(), newline=""), strict=True))
    assert row["holder"] == 'Ayesha "Khan", née Malik 😀'
