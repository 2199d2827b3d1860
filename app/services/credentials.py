"""What proves an e-mail address and replaces a password: one-time tokens by mail, and the password of now.

Asking for a mail says nothing of whether the address has an account: the request only puts a row into the outbox, and
the worker looks who it is for. Functions that need argon2 open their transactions themselves.
"""

from datetime import UTC, datetime

from pydantic import SecretStr
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.models import (
    Customer,
    CustomerSession,
    CustomerStatus,
    ExternalIdentity,
    MessageKind,
    OneTimePurpose,
    OneTimeToken,
)
from app.services import messages, one_time, step_up
from app.services.messages import outbox
from app.services.one_time import InvalidOneTimeTokenError
from app.services.passwords import Passwords
from app.services.rate_limits import MAIL_ACCOUNT, MAIL_ADDRESS, Charge, RateLimiter
from app.services.sessions import end_sessions
from app.services.tokens import AccessToken


async def request_mail(
    session: AsyncSession, limiter: RateLimiter, *, kind: MessageKind, email: str, caller: str
) -> None:
    """Send a token to an address if it has an account, which nobody learns. Raises RateLimitedError, likewise."""
    await limiter.charge([Charge(MAIL_ADDRESS, caller), Charge(MAIL_ACCOUNT, f"account:{email}")])
    await messages.post(session, kind, recipient=email)


async def verify_email(session: AsyncSession, *, token: SecretStr) -> None:
    """Take the token as proof that the address is its customer's. Raises InvalidOneTimeTokenError."""
    used = await one_time.redeem(
        session, purpose=OneTimePurpose.VERIFY_EMAIL, token_hash=one_time.digest(token.get_secret_value())
    )
    customer = await _lock_owner(session, used)
    customer.email_verified_at = customer.email_verified_at or datetime.now(UTC)
    await session.flush()


async def reset_password(passwords: Passwords, *, token: SecretStr, password: SecretStr) -> None:
    """Replace a forgotten password, end every session, and take the token as proof of the address.

    Raises InvalidOneTimeTokenError and PasswordQueueFullError.
    """
    purpose, text = OneTimePurpose.RESET_PASSWORD, token.get_secret_value()
    async with transaction() as session:
        # Nobody makes argon2 work with a token that is not good.
        await one_time.look_up(session, purpose=purpose, token=text)
    password_hash = await passwords.hash(password.get_secret_value())
    async with transaction() as session:
        used = await one_time.redeem(session, purpose=purpose, token_hash=one_time.digest(text))
        customer = await _lock_owner(session, used)
        if not customer.email_verified:
            # Whoever registered before the owner of the address came must keep no way in.
            await _drop_other_ways_in(session, customer)
            customer.email_verified_at = datetime.now(UTC)
        await _replace(session, customer, password_hash)
        await end_sessions(session, customer_id=customer.id)


async def change_password(
    settings: Settings,
    passwords: Passwords,
    *,
    signed_in: AccessToken,
    current: SecretStr,
    code: SecretStr | None,
    wanted: SecretStr,
) -> None:
    """Replace the password of a customer who shows the one of now, and end all other sessions.

    Raises what `step_up.confirm` raises.
    """
    asking = await step_up.confirm(settings, passwords, signed_in=signed_in, password=current, code=code)
    password_hash = await passwords.hash(wanted.get_secret_value())
    async with transaction() as session:
        customer = await session.get_one(Customer, asking.id, with_for_update={"key_share": True})
        if customer.password_hash != asking.password_hash:  # closed or changed while argon2 worked
            raise step_up.StepUpFailedError
        await _replace(session, customer, password_hash)
        await end_sessions(session, customer_id=customer.id, keep=signed_in.session_id)


async def forget_customer(session: AsyncSession, customer: Customer) -> None:
    """Delete all that could let a customer in again, or write to them: the account is about to be closed."""
    await _drop_other_ways_in(session, customer)
    customer.email_verified_at = None
    await one_time.cancel(session, customer_id=customer.id)
    await outbox.withdraw(session, customer_id=customer.id, email=customer.email)
    await session.execute(delete(CustomerSession).where(CustomerSession.customer_id == customer.id))
    await session.flush()


async def _replace(session: AsyncSession, customer: Customer, password_hash: str) -> None:
    customer.password_hash = password_hash
    await session.flush()
    await one_time.cancel(session, customer_id=customer.id, purpose=OneTimePurpose.RESET_PASSWORD)
    await messages.post(session, MessageKind.PASSWORD_CHANGED, recipient=customer.email, customer_id=customer.id)


async def _drop_other_ways_in(session: AsyncSession, customer: Customer) -> None:
    customer.phone = customer.phone_verified_at = None
    await session.execute(delete(ExternalIdentity).where(ExternalIdentity.customer_id == customer.id))


async def _lock_owner(session: AsyncSession, used: OneTimeToken) -> Customer:
    """Return the customer that a token was issued to, if it still has the address that the token was sent to."""
    customer = await session.get_one(Customer, used.customer_id, with_for_update={"key_share": True})
    if customer.status is CustomerStatus.CLOSED or customer.email != used.address:
        raise InvalidOneTimeTokenError
    return customer
