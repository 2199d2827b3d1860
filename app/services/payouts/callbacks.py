"""Callbacks of the HTTP provider: proven by their signature, and then only a reason to ask.

What a callback says is not written down. It makes the payout due, and the provider's answer to our own question
counts. So callbacks may come twice, late and in any order, and whoever holds nothing but a callback secret moves no
money.
"""

from collections.abc import Mapping

from pydantic import ValidationError
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app import metrics
from app.config import Settings
from app.db import ring_after_commit
from app.errors import FieldError, InvalidRequestError
from app.models import Payout, PayoutProvider, PayoutStatus
from app.schemas.payout_callbacks import PayoutCallback, PayoutCallbackReceipt
from app.services.payouts.decide import UnknownPayoutError
from app.services.webhooks.authenticate import standard_webhook_holds
from app.services.webhooks.intake import InvalidSignatureError


class InvalidPayoutCallbackError(InvalidRequestError):
    """A signed callback that does not say which payout came to which state."""

    code = "invalid_payout_callback"
    title = "Invalid payout callback"

    def __init__(self, error: ValidationError) -> None:
        errors: list[FieldError] = [
            {"loc": ["body", *one["loc"]], "msg": one["msg"], "type": one["type"]} for one in error.errors()
        ]
        super().__init__("The callback does not fit its schema; see errors.", errors=errors)


async def receive(
    session: AsyncSession, settings: Settings, *, body: bytes, headers: Mapping[str, str]
) -> PayoutCallbackReceipt:
    """Take a callback in, and have its payout asked about when it tells something new.

    Raises InvalidSignatureError, InvalidPayoutCallbackError and UnknownPayoutError.
    """
    secrets = [secret.get_secret_value() for secret in settings.payout_callback_secrets]
    if not standard_webhook_holds(secrets, body, headers):
        metrics.PAYOUT_CALLBACKS.labels("refused").inc()
        raise InvalidSignatureError
    try:
        told = PayoutCallback.model_validate_json(body)
    except ValidationError as error:
        metrics.PAYOUT_CALLBACKS.labels("invalid").inc()
        raise InvalidPayoutCallbackError(error) from None
    status = await session.scalar(
        select(Payout.status).where(Payout.id == told.payout_id, Payout.provider == PayoutProvider.HTTP)
    )
    if status is None:
        metrics.PAYOUT_CALLBACKS.labels("unknown").inc()
        raise UnknownPayoutError(told.payout_id)
    is_news = _is_news(told, status)
    if is_news:
        await session.execute(update(Payout).where(Payout.id == told.payout_id).values(next_attempt_at=func.now()))
        ring_after_commit(session, "send_payouts")
    metrics.PAYOUT_CALLBACKS.labels("taken" if is_news else "stale").inc()
    return PayoutCallbackReceipt()


def _is_news(told: PayoutCallback, status: PayoutStatus) -> bool:
    # Before `sent` the provider cannot know it; `pending` is what we take for granted.
    was_sent = status in (PayoutStatus.SENT, PayoutStatus.PAID, PayoutStatus.FAILED)
    return was_sent and told.status not in ("pending", status.value)
