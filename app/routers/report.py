"""The merchant report, as JSON or as a table to download."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from starlette.types import Receive, Scope, Send

from app.dependencies import ReadSessionDep, staff_with
from app.models import StaffKey, StaffRole, StaffScope
from app.openapi import problems
from app.schemas.report import ReportFormat, ReportQuery, ReportRead
from app.services import report, report_tables

router = APIRouter(prefix="/report", tags=["report"], responses=problems(401, 403))

Viewer = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.REPORTS_READ)]

_TABLES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "text/csv": {"schema": {"type": "string"}},
            report_tables.MEDIA_TYPES[ReportFormat.XLSX]: {"schema": {"type": "string", "format": "binary"}},
        }
    }
}


class TableResponse(Response):
    """A table, built when it is sent: by then the request's transaction is over, and a thread spares the event loop."""

    def __init__(self, found: ReportRead, form: ReportFormat) -> None:
        name = report_tables.file_name(found, form)
        super().__init__(
            media_type=report_tables.MEDIA_TYPES[form],
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )
        self.found = found
        self.form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Build the table, then send it whole, so that an error on the way is still answered as one."""
        self.body = await asyncio.to_thread(report_tables.build_table, self.found, self.form)
        self.headers["Content-Length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


@router.get("", summary="How merchants perform", response_model=ReportRead, responses={**_TABLES, **problems(404)})
async def get_report(
    session: ReadSessionDep, _: Viewer, wanted: Annotated[ReportQuery, Query()]
) -> ReportRead | TableResponse:
    """Clicks, orders, sales, commission, cashback and margin of a period, by merchant and currency.

    Days are UTC and both ends are included; a period has at most 366 days. Clicks count on their own day and orders
    on the day of the purchase. Tables hold `items` alone, with amounts as decimals in the major unit.
    """
    found = await report.read_report(session, first=wanted.first, last=wanted.last, merchant_id=wanted.merchant_id)
    return found if wanted.format is ReportFormat.JSON else TableResponse(found, wanted.format)
