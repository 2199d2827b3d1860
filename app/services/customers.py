"""Customers: register, change and close an account.

Closing pseudonymises: name, address and password go, the row with its orders and postings stays, because a ledger
cannot forget and the law wants its books kept.
"""

import secrets
from datetime import UTC, datetime
from typing import assert_never
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.errors import ConflictError, FieldError, InvalidRequestError
from app.ids import new_id
from app.models import Customer, CustomerStatus, MessageKind
from app.schemas.customers import CustomerRegistration, ProfileChange
from app.services import credentials, messages
from app.services.claims.file import forget_customer
from app.services.origin import Origin
from app.services.passwords import Passwords
from app.services.payouts import closing
from app.services.privacy.erase import erase
from app.services.referrals import hints, invite
from app.services.sessions import end_sessions

# Crockford's base 32: no I, L, O or U, so that a code survives being read aloud. 8 characters: 10^12 codes.
_CODE_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CODE_LENGTH = 8
_MISREAD = str.maketrans("OIL", "011", "- ")
_CODE_TRIES = 5


class UnknownReferralCodeError(InvalidRequestError):
    """A referral code that no active customer has."""

    code = "unknown_referral_code"
    title = "Unknown referral code"

    def __init__(self) -> None:
        detail = "No customer has this referral code; check it, or register without one."
        where: FieldError = {"loc": ["body", "referral_code"], "msg": "Unknown referral code", "type": self.code}
        super().__init__(detail, errors=[where])


class AccountFrozenError(ConflictError):
    """The account is under review, and closing it would remove what is reviewed."""

    code = "account_frozen"
    title = "Account frozen"

    def __init__(self) -> None:
        super().__init__("The account is frozen; it can be closed once the review is over.")


async def register(
    session: AsyncSession,
    settings: Settings,
    passwords: Passwords,
    *,
    registration: CustomerRegistration,
    origin: Origin,
) -> Customer:
    """Make an active customer with a referral code of its own, invited by whoever's code the registration names.

    Where the address has an account, nothing is made, its owner gets a mail that says so, and who asks gets an answer
    like any other: nobody learns which addresses have one (docs/decisions/0017-registration-tells-nothing.md).

    Raises UnknownReferralCodeError, PasswordQueueFullError.
    """
    # First, as the session has no connection yet: nobody shall wait for one that waits for argon2.
    password_hash = await passwords.hash(registration.password.get_secret_value())
    referrer_id = await _referrer_id(session, registration.referral_code)
    for _ in range(_CODE_TRIES):
        # One statement that cannot fail instead of a check before: two may register the same address at once.
        customer: Customer | None = await session.scalar(
            insert(Customer)
            .values(
                email=registration.email,
                password_hash=password_hash,
                display_name=registration.display_name,
                referral_code=new_referral_code(),
                referred_by_id=referrer_id,
                address_hint=hints.address_hint(settings, origin),
                device_hint=hints.device_hint(settings, origin),
            )
            .on_conflict_do_nothing()
            .returning(Customer)
        )
        if customer is not None:
            await invite(session, invited=customer)
            await messages.post(session, MessageKind.VERIFY_EMAIL, recipient=customer.email, customer_id=customer.id)
            return customer
        if await session.scalar(select(Customer.by_email(registration.email).exists())):
            await messages.post(session, MessageKind.ALREADY_REGISTERED, recipient=registration.email)
            return _like_a_new_one(registration)
    raise RuntimeError(f"{_CODE_TRIES} new referral codes were all taken")


async def change_profile(session: AsyncSession, *, customer: Customer, change: ProfileChange) -> Customer:
    """Apply the members that were sent."""
    if "display_name" in change.model_fields_set:
        customer.display_name = change.display_name
    await session.flush()
    return customer


async def close_account(session: AsyncSession, *, customer: Customer, forfeit: bool = False) -> None:
    """Pseudonymise the customer and end every sign-in; a closed account stays closed. `forfeit` leaves money behind.

    Raises AccountFrozenError, PayoutUnderWayError and MoneyLeftError.
    """
    await session.refresh(customer, with_for_update={"key_share": True})
    match customer.status:
        case CustomerStatus.CLOSED:
            return
        case CustomerStatus.FROZEN:
            raise AccountFrozenError
        case CustomerStatus.ACTIVE:
            await closing.leave(session, customer_id=customer.id, forfeit=forfeit)
            await credentials.forget_customer(session, customer)
            # The address is free again, and this one can never be registered: .invalid is reserved (RFC 2606).
            customer.email = f"closed-{customer.id}@closed.invalid"
            customer.password_hash = None
            customer.display_name = None
            customer.frozen_reason = None
            customer.status = CustomerStatus.CLOSED
            customer.closed_at = datetime.now(UTC)
            await session.flush()
            await end_sessions(session, customer_id=customer.id)
            await forget_customer(session, customer.id)
            await erase(session, customer_id=customer.id)
        case _:
            assert_never(customer.status)


def new_referral_code() -> str:
    """Return a random code, such as `7KD2MQ9X`."""
    return "".join(secrets.choice(_CODE_ALPHABET) for _ in range(_CODE_LENGTH))


def by_referral_code(code: str) -> Select[UUID]:
    """Select the id of the active customer with this code, however it was typed: lower case, `O` for `0`, hyphens."""
    canonical = code.upper().translate(_MISREAD)
    return select(Customer.id).where(Customer.referral_code == canonical, Customer.status == CustomerStatus.ACTIVE)


def _like_a_new_one(registration: CustomerRegistration) -> Customer:
    """Return a customer that does not exist, with all that the answer to a registration shows."""
    return Customer(
        id=new_id(),
        email=registration.email,
        display_name=registration.display_name,
        referral_code=new_referral_code(),
        status=CustomerStatus.ACTIVE,
        created_at=datetime.now(UTC),
    )


async def _referrer_id(session: AsyncSession, code: str | None) -> UUID | None:
    if code is None:
        return None
    referrer_id = await session.scalar(by_referral_code(code))
    if referrer_id is None:
        raise UnknownReferralCodeError
    return referrer_id
