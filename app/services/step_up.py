"""Stepping up: what a customer must show again before something that a stolen access token alone must not do.

The password, and a code by phone where the customer has a verified one. Whoever has no password (a sign-in with an
external provider) shows the code alone; with neither there is nothing to confirm with.
"""

from datetime import UTC, datetime
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.errors import ForbiddenError
from app.models import Customer, CustomerSession, CustomerStatus, MessageChannel, MessageKind, OneTimePurpose
from app.services import messages, one_time
from app.services.passwords import Passwords
from app.services.rate_limits import SMS_ACCOUNT, Charge, RateLimiter
from app.services.tokens import AccessToken, InvalidAccessTokenError


class StepUpFailedError(ForbiddenError):
    """The password that was to confirm is not the customer's."""

    code = "step_up_failed"
    title = "Password not confirmed"

    def __init__(self) -> None:
        super().__init__("The password is wrong; nothing was changed.")


class SecondFactorRequiredError(ForbiddenError):
    """The customer has a verified phone, and the request came without the code that was sent there."""

    code = "second_factor_required"
    title = "Code required"

    def __init__(self) -> None:
        super().__init__(
            "A code by phone must confirm this: ask for one with POST /v1/me/step-up, and send it as `code`."
        )


class EmailUnverifiedError(ForbiddenError):
    """Nothing is paid out to a customer who has not proven the e-mail address."""

    code = "email_unverified"
    title = "E-mail address not verified"

    def __init__(self) -> None:
        super().__init__("Confirm your e-mail address first: POST /v1/auth/email-verification sends the mail again.")


class PhoneMissingError(ForbiddenError):
    """The customer has no verified phone that a code could be sent to."""

    code = "phone_missing"
    title = "No verified phone"

    def __init__(self) -> None:
        super().__init__("You have no verified phone number; add one with PUT /v1/me/phone.")


def require_verified_email(customer: Customer) -> None:
    """Let a customer with a proven address pass. Raises EmailUnverifiedError."""
    if not customer.email_verified:
        raise EmailUnverifiedError


async def confirm(
    settings: Settings,
    passwords: Passwords,
    *,
    signed_in: AccessToken,
    password: SecretStr | None,
    code: SecretStr | None,
) -> Customer:
    """Check what was shown again and return the customer as it was then; compare `password_hash` before a change.

    Opens its transactions itself: none waits while argon2 works. The code is used up only once the password is right.

    Raises InvalidAccessTokenError (account or session ended), StepUpFailedError, SecondFactorRequiredError,
    InvalidCodeError and PasswordQueueFullError.
    """
    customer = await confirm_password(passwords, signed_in=signed_in, password=password, code_follows=True)
    if customer.second_factor is not None:
        await confirm_by_code(settings, customer=customer, code=code)
    return customer


async def confirm_password(
    passwords: Passwords, *, signed_in: AccessToken, password: SecretStr | None, code_follows: bool = False
) -> Customer:
    """Check the password as `confirm` does, which asks for a code next and so lets pass who has none."""
    async with transaction() as session:
        customer = await _owner(session, signed_in)
    by_code_alone = code_follows and customer.password_hash is None and customer.second_factor is not None
    # Who asks is not told whether the account has a password.
    shown = "" if password is None else password.get_secret_value()
    if not await passwords.verify(shown, customer.password_hash) and not by_code_alone:
        raise StepUpFailedError
    return customer


async def confirm_by_code(settings: Settings, *, customer: Customer, code: SecretStr | None) -> None:
    """Use up a code of the customer's verified phone. Raises SecondFactorRequiredError, InvalidCodeError."""
    if code is None:
        raise SecondFactorRequiredError
    address = await one_time.redeem_code(
        settings, customer_id=customer.id, purpose=OneTimePurpose.STEP_UP, code=code.get_secret_value()
    )
    if address != customer.second_factor:  # it was sent to the number of before
        raise one_time.InvalidCodeError


async def send_code(session: AsyncSession, limiter: RateLimiter, *, customer: Customer) -> None:
    """Send a code for the next step-up to the customer's verified phone. Raises PhoneMissingError, RateLimitedError."""
    if customer.second_factor is None:
        raise PhoneMissingError
    await _send(session, limiter, MessageKind.STEP_UP, customer_id=customer.id, phone=customer.second_factor)


async def send_phone_code(
    settings: Settings,
    passwords: Passwords,
    limiter: RateLimiter,
    *,
    signed_in: AccessToken,
    phone: str,
    password: SecretStr | None,
    code: SecretStr | None,
) -> None:
    """Send a code to a number that shall become the second factor. Raises what `confirm` raises, RateLimitedError."""
    customer = await confirm(settings, passwords, signed_in=signed_in, password=password, code=code)
    async with transaction() as session:
        await _send(session, limiter, MessageKind.VERIFY_PHONE, customer_id=customer.id, phone=phone)


async def verify_phone(settings: Settings, *, signed_in: AccessToken, code: SecretStr) -> None:
    """Make the number that the code was sent to the second factor. Raises InvalidAccessTokenError, InvalidCodeError."""
    async with transaction() as session:
        customer = await _owner(session, signed_in)
    phone = await one_time.redeem_code(
        settings, customer_id=customer.id, purpose=OneTimePurpose.VERIFY_PHONE, code=code.get_secret_value()
    )
    async with transaction() as session:
        customer = await session.get_one(Customer, customer.id, with_for_update={"key_share": True})
        if customer.status is CustomerStatus.CLOSED:
            raise one_time.InvalidCodeError
        customer.phone, customer.phone_verified_at = phone, datetime.now(UTC)


async def remove_phone(
    settings: Settings,
    passwords: Passwords,
    *,
    signed_in: AccessToken,
    password: SecretStr | None,
    code: SecretStr | None,
) -> None:
    """Do without a second factor from now on. Raises what `confirm` raises."""
    asking = await confirm(settings, passwords, signed_in=signed_in, password=password, code=code)
    async with transaction() as session:
        customer = await session.get_one(Customer, asking.id, with_for_update={"key_share": True})
        customer.phone = customer.phone_verified_at = None


async def _send(
    session: AsyncSession, limiter: RateLimiter, kind: MessageKind, *, customer_id: UUID, phone: str
) -> None:
    # By the number too: a crowd of accounts must not ring one phone.
    await limiter.charge([Charge(SMS_ACCOUNT, f"customer:{customer_id}"), Charge(SMS_ACCOUNT, f"phone:{phone}")])
    await messages.post(session, kind, recipient=phone, customer_id=customer_id, channel=MessageChannel.SMS)


async def _owner(session: AsyncSession, signed_in: AccessToken) -> Customer:
    customer = await session.scalar(CustomerSession.owner(signed_in.session_id, signed_in.customer_id))
    if customer is None or customer.status is CustomerStatus.CLOSED:
        raise InvalidAccessTokenError("The session of this token has ended; sign in again.")
    return customer
