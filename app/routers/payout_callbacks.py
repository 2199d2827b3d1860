"""Where the HTTP payout provider tells us that a payout came to another state."""

from fastapi import APIRouter, Request

from app.dependencies import SessionDep, SettingsDep
from app.openapi import problems
from app.routers.webhooks import SIGNATURE_HEADERS
from app.schemas.payout_callbacks import PayoutCallback, PayoutCallbackReceipt
from app.services.payouts import callbacks

router = APIRouter(prefix="/v1/payout-callbacks", tags=["webhooks"])

_BODY = {
    "requestBody": {
        "description": "Signed by Standard Webhooks with one of PAYOUT_CALLBACK_SECRETS.",
        "required": True,
        "content": {"application/json": {"schema": PayoutCallback.model_json_schema()}},
    },
    "parameters": SIGNATURE_HEADERS,
}


@router.post(
    "",
    status_code=202,
    summary="Tell of a payout",
    responses=problems(401, 404, 413),
    openapi_extra=_BODY,
)
async def receive_payout_callback(
    session: SessionDep, settings: SettingsDep, request: Request
) -> PayoutCallbackReceipt:
    """Verify the raw bytes, then ask the provider about the payout: its answer counts, not the callback.

    So a callback may come twice, late and in any order.
    """
    return await callbacks.receive(session, settings, body=await request.body(), headers=request.headers)
