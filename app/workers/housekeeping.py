"""Ending what has served its time: answers, what expired of sign-ins, exports and proposals, old notifications."""

from collections.abc import Awaitable, Callable

from app.config import Settings
from app.db import transaction
from app.services import idempotency, merchant_view, one_time, proposals, sessions, sign_in, signing_keys
from app.services.messages import outbox
from app.services.notifications.deliver import forget_old
from app.services.privacy import export

BATCH = 10_000
_FORGETFUL = (
    idempotency.forget_expired,
    sign_in.forget_expired,
    sessions.forget_expired,
    signing_keys.forget_expired,
    one_time.forget_expired,
    outbox.forget_old,
    forget_old,
    export.forget_expired,
    proposals.expire,
    merchant_view.forget_duplicates,
)


def key_rotation(settings: Settings) -> Callable[[], Awaitable[bool]]:
    """Return the task `rotate_signing_key` of one worker process."""

    async def rotate_signing_key() -> bool:
        """Replace the key that signs access tokens when it is old; True when it was."""
        async with transaction() as session:
            return await signing_keys.rotate_if_due(session, settings)

    return rotate_signing_key


async def forget_expired() -> int:
    """Delete or close expired rows, one transaction a batch, so that no long lock is held; returns how many."""
    return sum([await _all_batches(forget) for forget in _FORGETFUL])


async def _all_batches(forget: Callable[..., Awaitable[int]]) -> int:
    forgotten = 0
    while True:
        async with transaction() as session:
            count = await forget(session, limit=BATCH)
        forgotten += count
        if count < BATCH:
            return forgotten
