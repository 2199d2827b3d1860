"""All that is kept about a customer, for that customer."""

from fastapi import APIRouter, Depends
from starlette.responses import StreamingResponse

from app.dependencies import (
    CurrentCustomer,
    LimitByCustomer,
    PasswordsDep,
    SessionDep,
    SettingsDep,
    SignedIn,
)
from app.openapi import problems
from app.schemas.privacy import ExportRead, ExportRequest
from app.services.privacy import export
from app.services.rate_limits import EXPORT, STEP_UP

router = APIRouter(prefix="/v1/me/export", tags=["customers"])


@router.post(
    "",
    status_code=202,
    summary="Ask for all my data",
    responses=problems(401, 403, 413, 429),
    dependencies=[Depends(LimitByCustomer(STEP_UP)), Depends(LimitByCustomer(EXPORT))],
)
async def request_export(passwords: PasswordsDep, signed_in: SignedIn, body: ExportRequest) -> ExportRead:
    """Have a ZIP file made of all that is kept about the customer, confirmed with the password.

    It is ready some moments later and takes the place of one made before. For each kind of record it has a `.json` file
    (a list of objects) and a `.csv` of the same rows; `export.json` names them with their columns.
    """
    return await export.request_export(passwords, signed_in=signed_in, password=body.password)


@router.get("", summary="Is my export ready?", responses=problems(401, 404))
async def get_export(session: SessionDep, customer: CurrentCustomer) -> ExportRead:
    """Return how the export stands."""
    return await export.get_export(session, customer_id=customer.id)


@router.post(
    "/download",
    summary="Download my data",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}},
        **problems(401, 403, 404, 409, 413, 429),
    },
    dependencies=[Depends(LimitByCustomer(STEP_UP))],
)
async def download_export(
    settings: SettingsDep, passwords: PasswordsDep, signed_in: SignedIn, body: ExportRequest
) -> StreamingResponse:
    """Return the ZIP file of an export that is ready, confirmed with the password, as often as wanted."""
    size_bytes, pieces = await export.open_download(settings, passwords, signed_in=signed_in, password=body.password)
    headers = {
        "Content-Length": str(size_bytes),
        "Content-Disposition": 'attachment; filename="my-data.zip"',
        "Cache-Control": "no-store",
    }
    return StreamingResponse(pieces, media_type="application/zip", headers=headers)
