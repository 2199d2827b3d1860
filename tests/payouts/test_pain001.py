"""pain.001 files: valid by the schema of ISO 20022, exact sums in every currency, and names that no bank chokes on."""

import string
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import xmlschema
from hypothesis import given
from hypothesis import strategies as st

from app.ids import new_id
from app.models import PayoutMethodKind
from app.money import parse_decimal
from app.services.payouts.accounts import PayoutAccount
from app.services.payouts.bank_files import BankTransfer
from app.services.payouts.pain001 import MOST_MINOR, Debtor, bank_text, build_pain001

SCHEMA = xmlschema.XMLSchema(Path(__file__).parents[1] / "data" / "iso20022" / "pain.001.001.09.xsd")
DEBTOR = Debtor("Cashback Größe GmbH & Co", "DE89370400440532013000", "COBADEFFXXX")
AT = datetime(2026, 2, 1, 23, 59, 30, tzinfo=UTC)
REFERENCE = "20260201-EUR-3a5c1d7e9b20"
LATIN = set(string.ascii_letters + string.digits + "/-?:().,'+ ")
HOSTILE = [
    "<script>alert(1)</script>",
    "]]> & <!-- \"quoted\" 'too'",
    "Ayesha\nKhan\r\n\tSecond line",
    "x" * 300,
    "😀 Zoë 🏦",
    "😀😀😀",
    "عائشہ خان",
    "Ελένη Παπαδοπούλου",
    "Иван Петров",
    "李小龍",
    "\u202eevil\u200b",
    "/code/ //",
    "=1+1",
    "\x01\x02",
    "\ud800",
    "",
]


def transfer(amount_minor: int = 1_234, currency: str = "EUR", **changes: Any) -> BankTransfer:
    values = {"holder": "Zoë Müller", "country": "DE", "iban": "DE75512108001245126199", "bic": "SOLADEST600"}
    account = PayoutAccount(PayoutMethodKind.IBAN, **{**values, **changes})
    return BankTransfer(new_id(), amount_minor, currency, account)


def build(*transfers: BankTransfer, debtor: Debtor = DEBTOR) -> bytes:
    return build_pain001(transfers, reference=REFERENCE, debtor=debtor, at=AT)


def read(content: bytes) -> ET.Element:
    """The message, its namespace taken off; invalid by the schema is an error."""
    SCHEMA.validate(content)
    document = ET.fromstring(content)  # noqa: S314 - made by us just now
    for element in document.iter():
        element.tag = element.tag.removeprefix("{urn:iso:std:iso:20022:tech:xsd:pain.001.001.09}")
    return document


def texts(document: ET.Element, path: str) -> list[str]:
    return [str(element.text) for element in document.iterfind(f"CstmrCdtTrfInitn/{path}")]


def test_message_says_who_pays_whom_how_much_and_when() -> None:
    first, second = transfer(1_234), transfer(100_000, holder="Jan", bic=None)
    document = read(build(first, second))
    assert texts(document, "GrpHdr/MsgId") == texts(document, "PmtInf/PmtInfId") == [REFERENCE]
    assert texts(document, "GrpHdr/CreDtTm") == ["2026-02-01T23:59:30Z"]
    assert texts(document, "GrpHdr/InitgPty/Nm") == texts(document, "PmtInf/Dbtr/Nm") == ["Cashback Grosse GmbH + Co"]
    assert texts(document, "PmtInf/PmtMtd") == ["TRF"]
    assert texts(document, "PmtInf/ChrgBr") == ["SLEV"]
    assert texts(document, "PmtInf/ReqdExctnDt/Dt") == ["2026-02-01"]
    assert texts(document, "PmtInf/DbtrAcct/Id/IBAN") == ["DE89370400440532013000"]
    assert texts(document, "PmtInf/DbtrAgt/FinInstnId/BICFI") == ["COBADEFFXXX"]
    payments = "PmtInf/CdtTrfTxInf"
    assert texts(document, f"{payments}/Amt/InstdAmt") == ["12.34", "1000.00"]
    assert texts(document, f"{payments}/Cdtr/Nm") == ["Zoe Muller", "Jan"]
    assert texts(document, f"{payments}/CdtrAcct/Id/IBAN") == ["DE75512108001245126199"] * 2
    # Where the bank is not known, the agent is left out and not made up.
    assert texts(document, f"{payments}/CdtrAgt/FinInstnId/BICFI") == ["SOLADEST600"]
    assert texts(document, f"{payments}/RmtInf/Ustrd") == [
        f"Cashback payout {one.payout_id.hex}" for one in (first, second)
    ]


def test_control_sums_are_the_exact_sums_of_the_amounts() -> None:
    amounts = [1, 99, 1_234_567_890_123, 2**53 + 1]
    document = read(build(*(transfer(amount) for amount in amounts)))
    total = sum(Decimal(text) for text in texts(document, "PmtInf/CdtTrfTxInf/Amt/InstdAmt"))
    for part in ("GrpHdr", "PmtInf"):
        assert texts(document, f"{part}/NbOfTxs") == ["4"]
        assert [Decimal(text) for text in texts(document, f"{part}/CtrlSum")] == [total]
    assert total == Decimal(sum(amounts)).scaleb(-2)


@pytest.mark.parametrize(
    ("currency", "amount_minor", "text"),
    [
        ("JPY", 1_500, "1500"),
        ("KWD", 1_500, "1.500"),
        ("PKR", 1_500, "15.00"),
        ("EUR", 5, "0.05"),
        ("KWD", 7, "0.007"),
        ("EUR", MOST_MINOR, "9999999999999999.99"),
        ("JPY", MOST_MINOR, "999999999999999999"),
    ],
)
def test_amounts_have_the_decimals_of_their_currency(currency: str, amount_minor: int, text: str) -> None:
    document = read(build(transfer(amount_minor, currency)))
    [amount] = document.iterfind("CstmrCdtTrfInitn/PmtInf/CdtTrfTxInf/Amt/InstdAmt")
    assert (amount.text, amount.get("Ccy")) == (text, currency)
    assert texts(document, "GrpHdr/CtrlSum") == [text]
    assert parse_decimal(text, currency) == amount_minor


def test_end_to_end_id_finds_the_payout_again() -> None:
    one = transfer()
    document = read(build(one))
    [end_to_end_id] = texts(document, "PmtInf/CdtTrfTxInf/PmtId/EndToEndId")
    assert texts(document, "PmtInf/CdtTrfTxInf/PmtId/InstrId") == [end_to_end_id]
    assert len(end_to_end_id) <= 35
    assert UUID(end_to_end_id) == one.payout_id


def test_debtor_without_a_bic_is_found_by_the_iban() -> None:
    document = read(build(transfer(), debtor=Debtor("Cashback", "PK36SCBL0000001123456702", None)))
    assert texts(document, "PmtInf/DbtrAgt/FinInstnId/Othr/Id") == ["NOTPROVIDED"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text_of_the_latin_set(name: str) -> None:
    document = read(build(transfer(holder=name), debtor=Debtor(name, DEBTOR.iban, None)))
    for path in ("PmtInf/CdtTrfTxInf/Cdtr/Nm", "PmtInf/Dbtr/Nm", "GrpHdr/InitgPty/Nm"):
        [shown] = texts(document, path)
        assert 1 <= len(shown) <= 70
        assert set(shown) <= LATIN


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("Zoë Müller-Groß", "Zoe Muller-Gross"),
        ("Łukasz Øst", "Lukasz Ost"),
        ("Ελένη Παπαδοπούλου", "Eleni Papadopoyloy"),
        ("Иван Петров", "Ivan Petrov"),
        ("O’Brien & “Sons”", "O'Brien + 'Sons'"),
        ("a_b;c\\d|e<f>", "a-b,c/d/e(f)"),
        ("50% #1 *", "50. .1 ."),
        ("  two \n\t lines  ", "two lines"),
        ("/ /x/ /", "x"),
        ("😀 Ana 😀", "Ana"),
        ("😀", "NOTPROVIDED"),
        ("...", "NOTPROVIDED"),
        ("x" * 69 + " yz", "x" * 69),
    ],
)
def test_texts_are_written_in_the_latin_set(given: str, taken: str) -> None:
    assert bank_text(given, 70) == taken


@given(st.text(max_size=400), st.integers(min_value=11, max_value=140))
def test_any_text_becomes_one_that_every_bank_takes(text: str, limit: int) -> None:
    taken = bank_text(text, limit)
    assert 1 <= len(taken) <= limit
    assert set(taken) <= LATIN
    assert taken == taken.strip()
    assert not taken.startswith("/")
    assert not taken.endswith("/")
