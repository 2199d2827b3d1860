"""Where merchants and networks report sales."""

from typing import Annotated

from fastapi import APIRouter, Path, Request

from app.dependencies import SessionDep, SettingsDep
from app.logs import request_id_var
from app.openapi import problems
from app.schemas.webhooks import WebhookReceipt
from app.services.webhooks import intake
from app.services.webhooks.awin import QUERY_CONTENT_TYPE
from app.services.webhooks.direct import DirectPayload
from app.services.webhooks.intake import Delivery

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

SourceKey = Annotated[str, Path(min_length=1, max_length=200, description="The unguessable key of the source.")]

SIGNATURE_HEADERS = [
    {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": description}
    for name, description in {
        "webhook-id": "Unique id of the message; a repeat has no effect. (Standard Webhooks, direct sources.)",
        "webhook-timestamp": "Unix seconds, at most 5 minutes off. (Standard Webhooks, direct sources.)",
        "webhook-signature": "`v1,<base64>` of HMAC-SHA256 over `id.timestamp.body`. (Direct sources.)",
    }.items()
]
_BODY = {
    "requestBody": {
        "description": "For a direct source the JSON below, signed. For a network, what that network sends.",
        "content": {
            "application/json": {
                "schema": DirectPayload.model_json_schema(ref_template="#/components/schemas/{model}")
            },
            "application/x-www-form-urlencoded": {
                "schema": {"type": "object", "properties": {"AwinTransactionPush": {"type": "string"}}}
            },
        },
    },
    "parameters": SIGNATURE_HEADERS,
}


@router.post(
    "/{source_key}",
    status_code=202,
    summary="Report a sale",
    responses=problems(401, 404, 409, 413),
    openapi_extra=_BODY,
)
async def receive_webhook(
    session: SessionDep, settings: SettingsDep, source_key: SourceKey, request: Request
) -> WebhookReceipt:
    """Verify the raw bytes, keep them durably, answer at once; attribution and cashback follow within a second."""
    delivery = Delivery(await request.body(), request.headers.get("content-type", ""), request.headers)
    received = await intake.receive(
        session, settings, source_key=source_key, delivery=delivery, request_id=request_id_var.get()
    )
    return WebhookReceipt.model_validate(received)


@router.get("/{source_key}", status_code=202, summary="Report a sale by GET", responses=problems(401, 404, 409))
async def receive_webhook_query(
    session: SessionDep, settings: SettingsDep, source_key: SourceKey, request: Request
) -> WebhookReceipt:
    """For networks that call a URL with macros: the query string is what is kept and read."""
    delivery = Delivery(request.scope["query_string"], QUERY_CONTENT_TYPE, request.headers)
    received = await intake.receive(
        session, settings, source_key=source_key, delivery=delivery, request_id=request_id_var.get()
    )
    return WebhookReceipt.model_validate(received)
