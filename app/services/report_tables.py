"""The report as a table: CSV (RFC 4180) or an Excel workbook.

Building one takes processor time and asks nobody: callers do it in a thread, with no transaction open.
"""

import csv
import re
from decimal import Decimal
from io import BytesIO, StringIO
from typing import assert_never

from openpyxl import Workbook
from openpyxl.cell import Cell, WriteOnlyCell

from app.money import format_minor, minor_digits
from app.schemas.report import MoneySum, ReportFormat, ReportRead, ReportRow

MEDIA_TYPES = {
    ReportFormat.CSV: "text/csv; charset=utf-8; header=present",
    ReportFormat.XLSX: "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
COLUMNS = (
    "merchant_id",
    "merchant_slug",
    "merchant_name",
    "currency",
    "clicks",
    "orders",
    "declined_orders",
    "conversion_basis_points",
    "sales",
    "commission",
    "cashback",
    "margin",
)

# A spreadsheet takes a cell that begins so for a formula (OWASP, "CSV injection"); the wide forms count in some.
_FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")
# Everything but what XML 1.0 can hold (its production 2, Char).
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# A cell's number is a double: more digits than this would come out changed.
_EXACT_DIGITS = 15

Value = str | int | MoneySum | None


def build_table(report: ReportRead, form: ReportFormat) -> bytes:
    """Build the table of a report's items: a header, then a line for each. JSON is no table: ValueError."""
    match form:
        case ReportFormat.CSV:
            return _build_csv(report)
        case ReportFormat.XLSX:
            return _build_xlsx(report)
        case ReportFormat.JSON:
            raise ValueError("JSON is not a table")
        case _:
            assert_never(form)


def file_name(report: ReportRead, form: ReportFormat) -> str:
    """Return a name to save the table under, of letters that every header and file system takes."""
    return f"report_{report.first}_{report.last}.{form}"


def escape_formula(text: str) -> str:
    """Return text that no spreadsheet runs as a formula: a leading apostrophe makes it text."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _cells(row: ReportRow) -> tuple[Value, ...]:
    """Return a row's cells in the order of COLUMNS, text already harmless."""
    return (
        row.merchant.id,
        escape_formula(row.merchant.slug),
        escape_formula(row.merchant.name),
        row.currency,
        row.clicks,
        row.orders,
        row.declined_orders,
        row.conversion_basis_points,
        row.sales,
        row.commission,
        row.cashback,
        row.margin,
    )


def _build_csv(report: ReportRead) -> bytes:
    # The csv module's own dialect is RFC 4180: CRLF, and quotes where they are needed.
    output = StringIO(newline="")
    writer = csv.writer(output)
    writer.writerow(COLUMNS)
    for row in report.items:
        writer.writerow(_decimal(cell) if isinstance(cell, MoneySum) else cell for cell in _cells(row))
    return output.getvalue().encode()


def _build_xlsx(report: ReportRead) -> bytes:
    workbook = Workbook(write_only=True)
    sheet = workbook.create_sheet("report")
    sheet.freeze_panes = "A2"

    def cell(value: Value) -> Cell:
        made = WriteOnlyCell(sheet)
        if isinstance(value, MoneySum):
            exact, digits = _decimal(value), minor_digits(value.currency)
            made.value = Decimal(exact) if len(str(abs(value.amount_minor))) <= _EXACT_DIGITS else exact
            made.number_format = f"0.{'0' * digits}" if digits else "0"
        elif isinstance(value, str):
            made.value = _NOT_XML.sub("\ufffd", value)
            # Whatever it looks like: openpyxl would make an error cell of "#N/A".
            made.data_type = "s"
        else:
            made.value = value
        return made

    sheet.append(COLUMNS)
    for row in report.items:
        sheet.append([cell(value) for value in _cells(row)])
    output = BytesIO()
    workbook.save(output)
    return output.getvalue()


def _decimal(amount: MoneySum) -> str:
    return format_minor(amount.amount_minor, amount.currency)
