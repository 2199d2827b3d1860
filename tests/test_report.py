"""The merchant report: exact figures, days in UTC, tables that are safe to open, staff only."""

import csv
import threading
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import BytesIO, StringIO
from typing import Any

import httpx
import openpyxl
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app import db
from app.config import Settings
from app.models import Merchant, Order, OrderStatus, StaffRole
from app.schemas.report import MoneySum, ReportFormat, ReportMerchant, ReportRead, ReportRow
from app.services import report_tables
from app.services.report import InvalidPeriodError, choose_period
from app.services.report_tables import COLUMNS, build_table, escape_formula
from tests.factories import customer_headers, make_click, make_customer, make_merchant, make_order, staff_headers

NOON = datetime(2026, 5, 10, 12, tzinfo=UTC)
MAY = {"from": "2026-05-01", "to": "2026-05-31"}


async def place_order(
    session: AsyncSession,
    merchant: Merchant,
    *,
    status: OrderStatus = OrderStatus.PENDING,
    sale: int = 100_000,
    commission: int = 8_000,
    cashback: int = 5_000,
    currency: str | None = None,
    at: datetime = NOON,
    clicked_at: datetime | None = None,
) -> Order:
    """An order in a state, posted to the ledger, and the click it came from."""
    customer = await make_customer(session)
    click = await make_click(session, customer, merchant, created_at=clicked_at or at)
    return await make_order(
        session,
        click,
        status=status,
        sale=sale,
        commission=commission,
        cashback=cashback,
        ordered_at=at,
        currency=currency or merchant.currency,
    )


async def make_clicks(session: AsyncSession, merchant: Merchant, count: int, at: datetime = NOON) -> None:
    customer = await make_customer(session)
    for _ in range(count):
        await make_click(session, customer, merchant, created_at=at)


@pytest.fixture
async def viewer(session: AsyncSession) -> dict[str, str]:
    return await staff_headers(session, StaffRole.VIEWER)


async def get(client: httpx.AsyncClient, headers: dict[str, str], **query: Any) -> dict[str, Any]:
    response = await client.get("/report", params=query, headers=headers)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def pkr(amount_minor: int) -> dict[str, Any]:
    return {"amount_minor": amount_minor, "currency": "PKR"}


async def test_figures_are_exact_and_leave_dead_orders_out_of_the_money(
    client: httpx.AsyncClient, session: AsyncSession, viewer: dict[str, str]
) -> None:
    books, shoes = await make_merchant(session, name="Books"), await make_merchant(session, name="Shoes")
    await make_clicks(session, books, 1)
    await place_order(session, books, status=OrderStatus.PENDING, sale=100_001, commission=8_003, cashback=5_007)
    await place_order(session, books, status=OrderStatus.APPROVED, sale=20_000, commission=1_000, cashback=1_300)
    await place_order(session, books, status=OrderStatus.PAYABLE, sale=7, commission=5, cashback=0)
    await place_order(session, books, status=OrderStatus.DECLINED, sale=999_999)
    await place_order(session, books, status=OrderStatus.REVERSED, sale=888_888)
    await make_clicks(session, shoes, 2)
    await place_order(session, shoes, sale=50_000, commission=4_000, cashback=2_500)
    answer = await get(client, viewer, **MAY)
    assert (answer["from"], answer["to"]) == ("2026-05-01", "2026-05-31")
    assert answer["items"] == [
        {
            "merchant": {"id": books.id, "slug": books.slug, "name": "Books"},
            "currency": "PKR",
            "clicks": 6,
            "orders": 3,
            "declined_orders": 2,
            "conversion_basis_points": 5_000,
            "sales": pkr(120_008),
            "commission": pkr(9_008),
            "cashback": pkr(6_307),
            "margin": pkr(2_701),
        },
        {
            "merchant": {"id": shoes.id, "slug": shoes.slug, "name": "Shoes"},
            "currency": "PKR",
            "clicks": 3,
            "orders": 1,
            "declined_orders": 0,
            # A third, rounded down: a whole number and no float.
            "conversion_basis_points": 3_333,
            "sales": pkr(50_000),
            "commission": pkr(4_000),
            "cashback": pkr(2_500),
            "margin": pkr(1_500),
        },
    ]
    assert answer["totals"] == [
        {
            "currency": "PKR",
            "clicks": 9,
            "orders": 4,
            "declined_orders": 2,
            "conversion_basis_points": 4_444,
            "sales": pkr(170_008),
            "commission": pkr(13_008),
            "cashback": pkr(8_807),
            "margin": pkr(4_201),
        }
    ]


async def test_currencies_are_never_added_together(
    client: httpx.AsyncClient, session: AsyncSession, viewer: dict[str, str]
) -> None:
    merchant = await make_merchant(session, currency="PKR")
    await place_order(session, merchant, sale=1_000, commission=100, cashback=50)
    await place_order(session, merchant, sale=2_000, commission=300, cashback=400, currency="JPY")
    answer = await get(client, viewer, **MAY)
    yen, rupees = answer["items"]
    assert (yen["currency"], rupees["currency"]) == ("JPY", "PKR")
    # Both clicks were made in the merchant's own currency; the row of the other one has none to divide by.
    assert (rupees["clicks"], rupees["conversion_basis_points"]) == (2, 5_000)
    assert (yen["clicks"], yen["orders"], yen["conversion_basis_points"]) == (0, 1, None)
    assert yen["margin"] == {"amount_minor": -100, "currency": "JPY"}
    assert [total["currency"] for total in answer["totals"]] == ["JPY", "PKR"]


async def test_sums_beyond_64_bits_stay_exact(
    client: httpx.AsyncClient, session: AsyncSession, viewer: dict[str, str]
) -> None:
    merchant = await make_merchant(session)
    for _ in range(2):
        await place_order(session, merchant, sale=2**63 - 1, commission=2**53 + 1, cashback=1)
    answer = await get(client, viewer, **MAY)
    assert answer["items"][0]["sales"] == pkr(2**64 - 2)
    assert answer["items"][0]["commission"] == pkr(2**54 + 2)


async def test_period_without_anything_is_empty(
    client: httpx.AsyncClient, session: AsyncSession, viewer: dict[str, str]
) -> None:
    merchant = await make_merchant(session)
    await place_order(session, merchant, at=NOON - timedelta(days=60))
    assert await get(client, viewer, **MAY) == {"from": "2026-05-01", "to": "2026-05-31", "items": [], "totals": []}
    for form in ("csv", "xlsx"):
        response = await client.get("/report", params=MAY | {"format": form}, headers=viewer)
        assert response.status_code == 200
    table = await client.get("/report", params=MAY | {"format": "csv"}, headers=viewer)
    assert table.text == ",".join(COLUMNS) + "\r\n"


async def test_days_begin_and_end_at_midnight_utc(
    client: httpx.AsyncClient, session: AsyncSession, viewer: dict[str, str]
) -> None:
    merchant = await make_merchant(session)
    first = datetime(2026, 5, 10, tzinfo=UTC)
    instant = timedelta(microseconds=1)
    for at in (first - instant, first, first + timedelta(days=1) - instant, first + timedelta(days=1)):
        await place_order(session, merchant, at=at)
    for day, orders in (("2026-05-09", 1), ("2026-05-10", 2), ("2026-05-11", 1)):
        (item,) = (await get(client, viewer, **{"from": day, "to": day}))["items"]
        assert (item["clicks"], item["orders"]) == (orders, orders)
    (item,) = (await get(client, viewer, **{"from": "2026-05-09", "to": "2026-05-11"}))["items"]
    assert (item["clicks"], item["orders"]) == (4, 4)


async def test_click_and_order_count_each_on_its_own_day(
    client: httpx.AsyncClient, session: AsyncSession, viewer: dict[str, str]
) -> None:
    merchant = await make_merchant(session)
    await place_order(session, merchant, at=NOON, clicked_at=NOON - timedelta(days=1))
    (before,) = (await get(client, viewer, **{"from": "2026-05-09", "to": "2026-05-09"}))["items"]
    (after,) = (await get(client, viewer, **{"from": "2026-05-10", "to": "2026-05-10"}))["items"]
    assert (before["clicks"], before["orders"], before["conversion_basis_points"]) == (1, 0, 0)
    assert (after["clicks"], after["orders"], after["conversion_basis_points"]) == (0, 1, None)


async def test_one_merchant_alone(client: httpx.AsyncClient, session: AsyncSession, viewer: dict[str, str]) -> None:
    wanted, other = await make_merchant(session), await make_merchant(session)
    await place_order(session, wanted)
    await place_order(session, other)
    answer = await get(client, viewer, **MAY, merchant_id=wanted.id)
    assert [item["merchant"]["id"] for item in answer["items"]] == [wanted.id]
    assert answer["totals"][0]["orders"] == 1


async def test_unknown_merchant_is_not_an_empty_report(client: httpx.AsyncClient, viewer: dict[str, str]) -> None:
    response = await client.get("/report", params={"merchant_id": 2**31 - 1}, headers=viewer)
    assert response.status_code == 404
    assert response.json()["code"] == "merchant_not_found"


async def test_default_period_is_the_last_thirty_days(
    client: httpx.AsyncClient, session: AsyncSession, viewer: dict[str, str]
) -> None:
    merchant = await make_merchant(session)
    await make_click(session, await make_customer(session), merchant)
    answer = await get(client, viewer)
    first, last = date.fromisoformat(answer["from"]), date.fromisoformat(answer["to"])
    # The day may have changed between the request and this line.
    assert datetime.now(UTC).date() - last <= timedelta(days=1)
    assert (last - first).days == 29
    assert [item["clicks"] for item in answer["items"]] == [1]


def test_half_a_period_is_filled_up() -> None:
    today = date(2026, 5, 31)
    assert choose_period(None, None, today=today) == (date(2026, 5, 2), today)
    assert choose_period(date(2026, 5, 30), None, today=today) == (date(2026, 5, 30), today)
    assert choose_period(None, date(2026, 3, 1), today=today) == (date(2026, 1, 31), date(2026, 3, 1))
    # A leap year whole.
    assert choose_period(date(2024, 1, 1), date(2024, 12, 31), today=today) == (date(2024, 1, 1), date(2024, 12, 31))
    with pytest.raises(InvalidPeriodError):
        choose_period(date(2026, 6, 1), None, today=today)


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("2026-05-02", "2026-05-01"),
        ("2025-05-01", "2026-05-02"),  # 367 days
        ("0001-01-01", "9999-12-30"),
        ("9999-12-31", "9999-12-31"),
    ],
)
async def test_impossible_period_is_refused(
    client: httpx.AsyncClient, viewer: dict[str, str], first: str, last: str
) -> None:
    response = await client.get("/report", params={"from": first, "to": last}, headers=viewer)
    assert response.status_code == 422
    assert response.json()["code"] == "invalid_period"
    assert response.json()["errors"][0]["loc"] == ["query", "from"]


async def test_calendar_has_no_thirty_days_before_its_first(client: httpx.AsyncClient, viewer: dict[str, str]) -> None:
    response = await client.get("/report", params={"to": "0001-01-02"}, headers=viewer)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_period")
    assert (await get(client, viewer, **{"from": "0001-01-01", "to": "0001-01-02"}))["items"] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("from", "yesterday"),
        ("from", "1767225600"),
        ("from", "2026-05-01T00:00:00Z"),
        ("to", "2026-02-30"),
        ("to", "2026-5-1"),
        ("to", ""),
        ("merchant_id", "0"),
        ("merchant_id", str(2**31)),
        ("merchant_id", "all"),
        ("format", "parquet"),
        ("form", "csv"),
    ],
)
async def test_bad_query_is_refused_by_name(
    client: httpx.AsyncClient, viewer: dict[str, str], name: str, value: str
) -> None:
    response = await client.get("/report", params={name: value}, headers=viewer)
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["loc"] == ["query", name]
    if name == "format":
        assert "'json', 'csv' or 'xlsx'" in error["msg"]


async def test_csv_has_exact_decimals_of_each_currency(
    client: httpx.AsyncClient, session: AsyncSession, viewer: dict[str, str]
) -> None:
    merchant = await make_merchant(session, name='Say "hello", world', slug="hello")
    await place_order(session, merchant, sale=120_005, commission=10, cashback=1_000)
    await place_order(session, merchant, sale=2_000, commission=300, cashback=7, currency="JPY")
    await place_order(session, merchant, sale=1, commission=1, cashback=0, currency="KWD")
    response = await client.get("/report", params=MAY | {"format": "csv"}, headers=viewer)
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
    assert response.headers["Content-Disposition"] == 'attachment; filename="report_2026-05-01_2026-05-31.csv"'
    assert response.headers["Content-Length"] == str(len(response.content))
    lines = response.content.decode().split("\r\n")
    assert lines[0] == ",".join(COLUMNS)
    assert lines[1:] == [
        f'{merchant.id},hello,"Say ""hello"", world",JPY,0,1,0,,2000,300,7,293',
        f'{merchant.id},hello,"Say ""hello"", world",KWD,0,1,0,,0.001,0.001,0.000,0.001',
        f'{merchant.id},hello,"Say ""hello"", world",PKR,3,1,0,3333,1200.05,0.10,10.00,-9.90',
        "",
    ]


async def test_workbook_has_numbers_in_the_form_of_their_currency(
    client: httpx.AsyncClient, session: AsyncSession, viewer: dict[str, str]
) -> None:
    merchant = await make_merchant(session, name="خادی")
    await place_order(session, merchant, sale=120_005, commission=10, cashback=1_000)
    await place_order(session, merchant, sale=2_000, commission=300, cashback=7, currency="JPY")
    response = await client.get("/report", params=MAY | {"format": "xlsx"}, headers=viewer)
    assert response.headers["Content-Type"].startswith("application/vnd.openxmlformats-officedocument.spreadsheetml")
    assert response.headers["Content-Disposition"] == 'attachment; filename="report_2026-05-01_2026-05-31.xlsx"'
    sheet = openpyxl.load_workbook(BytesIO(response.content))["report"]
    header, yen, rupees = sheet.iter_rows()
    assert tuple(cell.value for cell in header) == COLUMNS
    assert [cell.value for cell in rupees[:8]] == [merchant.id, merchant.slug, "خادی", "PKR", 2, 1, 0, 5_000]
    assert [Decimal(str(cell.value)) for cell in rupees[8:]] == [
        Decimal("1200.05"),
        Decimal("0.1"),
        Decimal(10),
        Decimal("-9.9"),
    ]
    assert {cell.data_type for cell in rupees[8:]} == {"n"}
    assert [cell.number_format for cell in rupees[8:]] == ["0.00"] * 4
    assert [cell.number_format for cell in yen[8:]] == ["0"] * 4
    assert yen[7].value is None


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＠"])
async def test_no_cell_is_taken_for_a_formula(
    client: httpx.AsyncClient, session: AsyncSession, viewer: dict[str, str], start: str
) -> None:
    name = f'{start}HYPERLINK("https://evil.example";"x")'
    merchant = await make_merchant(session, name=name)
    await place_order(session, merchant)
    query = MAY | {"merchant_id": str(merchant.id)}
    table = await client.get("/report", params=query | {"format": "csv"}, headers=viewer)
    _, row = csv.reader(StringIO(table.text, newline=""))
    assert row[2] == f"'{name}"
    workbook = await client.get("/report", params=query | {"format": "xlsx"}, headers=viewer)
    cell = openpyxl.load_workbook(BytesIO(workbook.content))["report"]["C2"]
    assert cell.data_type == "s"
    assert str(cell.value).startswith(f"'{start}".replace("\r", "\n"))
    # JSON is read by programs, which want the name as it is.
    assert (await get(client, viewer, **query))["items"][0]["merchant"]["name"] == name


def test_harmless_text_stays_as_it_is() -> None:
    for text in ("", "Khaadi", "a=b", "'quoted", "1-2-3", "خادی"):
        assert escape_formula(text) == text


def make_report(*, name: str = "Shop", amount_minor: int = 1) -> ReportRead:
    """A report of one row, all of whose amounts are the same."""
    money = MoneySum(amount_minor=amount_minor, currency="PKR")
    row = ReportRow(
        merchant=ReportMerchant(id=1, slug="shop", name=name),
        currency="PKR",
        clicks=1,
        orders=1,
        declined_orders=0,
        conversion_basis_points=10_000,
        sales=money,
        commission=money,
        cashback=money,
        margin=money,
    )
    return ReportRead(first=date(2026, 5, 1), last=date(2026, 5, 31), items=[row], totals=[])


@pytest.mark.parametrize(
    ("name", "shown"),
    [("bell \x07 and \x1b[31m", "bell � and �[31m"), ("\ufffe\uffff", "��"), ("#N/A", "#N/A"), ("𝒞 🛍", "𝒞 🛍")],
)
def test_workbook_opens_whatever_a_name_holds(name: str, shown: str) -> None:
    sheet = openpyxl.load_workbook(BytesIO(build_table(make_report(name=name), ReportFormat.XLSX)))["report"]
    assert sheet["C2"].value == shown
    assert sheet["C2"].data_type == "s"


@pytest.mark.parametrize(
    ("amount_minor", "kept"),
    [
        (999_999_999_999_999, "9999999999999.99"),
        (-999_999_999_999_999, "-9999999999999.99"),
        # One digit more than a spreadsheet's numbers hold: text, so that no digit changes.
        (1_234_567_890_123_457, "12345678901234.57"),
        (2**64, "184467440737095516.16"),
    ],
)
def test_workbook_never_rounds_an_amount(amount_minor: int, kept: str) -> None:
    sheet = openpyxl.load_workbook(BytesIO(build_table(make_report(amount_minor=amount_minor), ReportFormat.XLSX)))
    cell = sheet["report"]["I2"]
    assert str(cell.value) == kept
    assert cell.data_type == ("n" if abs(amount_minor) < 10**15 else "s")


@pytest.mark.parametrize("form", [ReportFormat.CSV, ReportFormat.XLSX])
async def test_table_is_built_beside_the_event_loop_and_after_the_transaction(
    committed_client: httpx.AsyncClient, form: ReportFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with db.transaction() as session:
        headers = await staff_headers(session, StaffRole.VIEWER)
        await place_order(session, await make_merchant(session))
    seen: list[tuple[threading.Thread, str]] = []

    def watched(found: ReportRead, wanted: ReportFormat) -> bytes:
        assert db.engine is not None
        seen.append((threading.current_thread(), db.engine.pool.status()))
        return build_table(found, wanted)

    monkeypatch.setattr(report_tables, "build_table", watched)
    response = await committed_client.get("/report", params=MAY | {"format": form}, headers=headers)
    assert response.status_code == 200
    ((thread, pool),) = seen
    assert thread is not threading.current_thread()
    assert "Current Checked out connections: 0" in pool


async def test_table_that_cannot_be_built_is_a_problem_and_not_half_a_file(
    client: httpx.AsyncClient, viewer: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(found: ReportRead, wanted: ReportFormat) -> bytes:
        raise RuntimeError("no space for the workbook")

    monkeypatch.setattr(report_tables, "build_table", broken)
    response = await client.get("/report", params={"format": "xlsx"}, headers=viewer)
    assert response.status_code == 500
    assert response.headers["Content-Type"] == "application/problem+json"
    assert "Content-Disposition" not in response.headers


async def test_staff_only(client: httpx.AsyncClient, session: AsyncSession, settings: Settings) -> None:
    anonymous = await client.get("/report")
    assert (anonymous.status_code, anonymous.json()["code"]) == (401, "invalid_staff_key")
    customer = customer_headers(settings, await make_customer(session))
    assert (await client.get("/report", headers=customer)).status_code == 401
    for role in StaffRole:
        headers = await staff_headers(session, role)
        assert (await client.get("/report", headers=headers)).status_code == 200
        bearer = {"Authorization": f"Bearer {headers['X-API-Key']}"}
        assert (await client.get("/report", headers=bearer)).status_code == 200
