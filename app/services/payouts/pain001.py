"""The file of a batch for banks: ISO 20022 CustomerCreditTransferInitiation, pain.001.001.09.

Structure by the schema of that message; texts by the SEPA rules (EPC132-08, customer-to-bank guidelines), which banks
outside SEPA take as well: the basic Latin set, names of at most 70 characters, charges by the service level.
"""

import string
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from anyascii import anyascii

from app.money import format_minor
from app.services.payouts.bank_files import BankTransfer

_NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:pain.001.001.09"
_LONGEST_NAME = 70
_LONGEST_REMITTANCE = 140
# DecimalNumber and the amounts have at most 18 digits.
MOST_MINOR = 10**18 - 1

_ALLOWED = frozenset(string.ascii_letters + string.digits + "/-?:().,'+ ")
# A character of ASCII that has a relative in the set; any other becomes a full stop, as the EPC advises (EPC217-08).
_NEAREST = str.maketrans('&_~;"`\\|[{<]}>', "+--,''//((()))")
# What a text becomes of which no letter is left.
_NOT_PROVIDED = "NOTPROVIDED"


@dataclass(frozen=True, slots=True)
class Debtor:
    """Whose account pays."""

    name: str
    iban: str
    bic: str | None


def build_pain001(transfers: Sequence[BankTransfer], *, reference: str, debtor: Debtor, at: datetime) -> bytes:
    """Build the message of one batch, to be executed on the day of `at` (UTC).

    All transfers have one currency and an IBAN; together they are at most MOST_MINOR. `reference` has at most 35
    characters of the basic Latin set.
    """
    currency = transfers[0].currency
    count = str(len(transfers))
    control_sum = format_minor(sum(one.amount_minor for one in transfers), currency)
    document = ET.Element("Document", xmlns=_NAMESPACE)
    message = ET.SubElement(document, "CstmrCdtTrfInitn")

    header = ET.SubElement(message, "GrpHdr")
    _add(header, "MsgId", reference)
    _add(header, "CreDtTm", at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    _add(header, "NbOfTxs", count)
    _add(header, "CtrlSum", control_sum)
    _add(header, "InitgPty/Nm", bank_text(debtor.name, _LONGEST_NAME))

    payment = ET.SubElement(message, "PmtInf")
    _add(payment, "PmtInfId", reference)
    _add(payment, "PmtMtd", "TRF")
    _add(payment, "NbOfTxs", count)
    _add(payment, "CtrlSum", control_sum)
    _add(payment, "ReqdExctnDt/Dt", at.astimezone(UTC).date().isoformat())
    _add(payment, "Dbtr/Nm", bank_text(debtor.name, _LONGEST_NAME))
    _add(payment, "DbtrAcct/Id/IBAN", debtor.iban)
    if debtor.bic is not None:
        _add(payment, "DbtrAgt/FinInstnId/BICFI", debtor.bic)
    else:
        # The agent is mandatory; this is how a file says that the IBAN is enough to find it.
        _add(payment, "DbtrAgt/FinInstnId/Othr/Id", _NOT_PROVIDED)
    _add(payment, "ChrgBr", "SLEV")
    for one in transfers:
        _add_transfer(payment, one)
    text: bytes = ET.tostring(document, encoding="utf-8")
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + text


def bank_text(text: str, limit: int) -> str:
    """Return a text in the basic Latin set of SEPA, at most `limit` characters: other scripts are transliterated."""
    # Pictures have names in ASCII (":grinning:") that are no part of anybody's; control characters part words.
    letters = "".join(" " if unicodedata.category(one) in {"So", "Sk", "Cc", "Co", "Cs"} else one for one in text)
    plain = anyascii(letters).translate(_NEAREST)
    kept = " ".join("".join(one if one in _ALLOWED else "." for one in plain).split())
    # A slash at an end would be read as a code by systems behind the bank.
    cut = kept.strip(" /")[:limit].strip(" /")
    return cut if any(one.isalnum() for one in cut) else _NOT_PROVIDED


def _add_transfer(payment: ET.Element, one: BankTransfer) -> None:
    transfer = ET.SubElement(payment, "CdtTrfTxInf")
    identification = ET.SubElement(transfer, "PmtId")
    _add(identification, "InstrId", one.end_to_end_id)
    _add(identification, "EndToEndId", one.end_to_end_id)
    _add(transfer, "Amt/InstdAmt", format_minor(one.amount_minor, one.currency)).set("Ccy", one.currency)
    if one.account.bic is not None:
        _add(transfer, "CdtrAgt/FinInstnId/BICFI", one.account.bic)
    _add(transfer, "Cdtr/Nm", bank_text(one.account.holder, _LONGEST_NAME))
    _add(transfer, "CdtrAcct/Id/IBAN", one.account.iban or "")
    _add(transfer, "RmtInf/Ustrd", bank_text(f"Cashback payout {one.end_to_end_id}", _LONGEST_REMITTANCE))


def _add(parent: ET.Element, path: str, text: str) -> ET.Element:
    """Add an element below new ones of its own, as in `Id/IBAN`, and return it."""
    for name in path.split("/"):
        parent = ET.SubElement(parent, name)
    parent.text = text
    return parent
