"""A merchant that reports sales: signs and posts as a real one would."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import orjson
from sqlalchemy.ext.asyncio import AsyncSession
from standardwebhooks.webhooks import Webhook

from app.config import Settings
from app.ids import new_id
from app.models import Source
from app.services.secrets import seal
from tests.factories import make_source

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw1234567890ab"


async def make_signed_source(session: AsyncSession, settings: Settings, **changes: Any) -> Source:
    """A direct source whose secret is SECRET."""
    return await make_source(session, secrets_encrypted=seal(settings, [SECRET]), **changes)


def signed_headers(
    body: bytes, *, message_id: str | None = None, at: datetime | None = None, secret: str = SECRET
) -> dict[str, str]:
    """Standard Webhooks headers for a body."""
    message_id = message_id or f"msg_{new_id().hex}"
    at = at or datetime.now(UTC)
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, at, body.decode()),
    }


def order_payload(
    kind: str,
    order_id: str,
    click_id: UUID | str | None = None,
    *,
    amount: int | None = None,
    commission: int | None = None,
    currency: str = "PKR",
    at: datetime | None = None,
    part: str | None = None,
) -> dict[str, Any]:
    """A direct payload; amounts in minor units, of the whole order or of a part."""
    payload: dict[str, Any] = {
        "type": f"order.{kind}",
        "order_id": order_id,
        "occurred_at": (at or datetime.now(UTC)).isoformat(),
    }
    if part is not None:
        payload["part"] = part
    if click_id is not None:
        payload["click_id"] = str(click_id)
    if amount is not None:
        payload["amount"] = {"amount_minor": amount, "currency": currency}
    if commission is not None:
        payload["commission"] = {"amount_minor": commission, "currency": currency}
    return payload


async def post_signed(
    client: httpx.AsyncClient, source_key: str, payload: dict[str, Any], *, message_id: str | None = None
) -> httpx.Response:
    """Sign and post a payload."""
    body = orjson.dumps(payload)
    return await client.post(
        f"/v1/webhooks/{source_key}", content=body, headers=signed_headers(body, message_id=message_id)
    )
