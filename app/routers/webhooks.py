"""Where merchants and networks report sales."""

from typing import Annotated

from fastapi import APIRouter, Path, Request

from app.dependencies import PublicUrlDep, SettingsDep
from app.logs import request_id_var
from app.openapi import problems
from app.schemas.webhooks import WebhookReceipt
from app.services.webhooks import intake
from app.services.webhooks.delivery import Delivery

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
        "description": "For a direct source the JSON below, signed. For any other, what its definition reads.",
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/DirectPayload"}},
            "application/x-www-form-urlencoded": {
                "schema": {"type": "object", "additionalProperties": {"type": "string"}}
            },
        },
    },
    "parameters": SIGNATURE_HEADERS,
}


@router.post(
    "/{source_key}",
    status_code=202,
    summary="Report sales",
    responses=problems(401, 403, 404, 409, 413),
    openapi_extra=_BODY,
)
async def receive_webhook(
    settings: SettingsDep, public_url: PublicUrlDep, source_key: SourceKey, request: Request
) -> WebhookReceipt:
    """Verify the raw bytes, keep them durably, answer at once; attribution and cashback follow within a second."""
    delivery = _delivery(request, public_url, await request.body())
    received = await intake.receive(settings, source_key=source_key, delivery=delivery, request_id=request_id_var.get())
    return WebhookReceipt.model_validate(received)


@router.get("/{source_key}", status_code=202, summary="Report sales by GET", responses=problems(401, 403, 404, 409))
async def receive_webhook_query(
    settings: SettingsDep, public_url: PublicUrlDep, source_key: SourceKey, request: Request
) -> WebhookReceipt:
    """For networks that call a URL with macros: the query string is what is kept and read."""
    received = await intake.receive(
        settings,
        source_key=source_key,
        delivery=_delivery(request, public_url, b""),
        request_id=request_id_var.get(),
    )
    return WebhookReceipt.model_validate(received)


def _delivery(request: Request, public_url: str, body: bytes) -> Delivery:
    query: bytes = request.scope["query_string"]
    path = request.url.path
    url = f"{public_url}{path}?{query.decode('latin-1')}" if query else f"{public_url}{path}"
    return Delivery(
        method=request.method,
        url=url,
        query=query,
        headers=dict(request.headers),
        body=body,
        sender=request.client.host if request.client else None,
    )
