"""What messages say, with the token or code that each hands out."""

from dataclasses import dataclass
from datetime import timedelta
from typing import assert_never

from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.models import Customer, CustomerStatus, Message, MessageKind, OneTimePurpose
from app.services import one_time

VERIFICATION_LASTS = timedelta(hours=48)
# OWASP's cheat sheet on forgotten passwords wants it short; an hour survives greylisting.
RESET_LASTS = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Text:
    """A message's text; `subject` is for mails."""

    subject: str
    body: str


async def compose(session: AsyncSession, settings: Settings, message: Message) -> Text | None:
    """Write a message, making the token it hands out; None when its address has no customer to hand it to."""
    customer = await _recipient(session, message)
    if customer is None:
        return None
    match message.kind:
        case MessageKind.VERIFY_EMAIL:
            token = await one_time.issue(
                session,
                customer_id=customer.id,
                purpose=OneTimePurpose.VERIFY_EMAIL,
                address=customer.email,
                lasts=VERIFICATION_LASTS,
            )
            return Text(
                "Confirm your e-mail address",
                "Please confirm that this e-mail address is yours, so that cashback can be paid out to you.\n\n"
                f"{_link(settings, 'verify-email', token)}\n\n"
                "It works for two days. If you have not registered, do nothing: without you nothing is paid out.\n",
            )
        case MessageKind.ALREADY_REGISTERED:
            return Text(
                "You have an account already",
                "Somebody, probably you, wanted to register with this e-mail address, which has an account already.\n"
                "Sign in as before, or ask for a new password there. If it was not you, do nothing.\n",
            )
        case MessageKind.RESET_PASSWORD:
            token = await one_time.issue(
                session,
                customer_id=customer.id,
                purpose=OneTimePurpose.RESET_PASSWORD,
                address=customer.email,
                lasts=RESET_LASTS,
            )
            return Text(
                "Choose a new password",
                "Somebody, probably you, asked for a new password for the account of this e-mail address.\n\n"
                f"{_link(settings, 'reset-password', token)}\n\n"
                "It works for one hour. If it was not you, do nothing: your password stays as it is.\n",
            )
        case MessageKind.PASSWORD_CHANGED:
            return Text(
                "Your password was changed",
                "The password of your account was changed, and all other devices were signed out.\n"
                "If it was not you, ask for a new password at once, and tell us.\n",
            )
        case MessageKind.VERIFY_PHONE | MessageKind.STEP_UP:
            code = await one_time.issue_code(
                session,
                settings,
                customer_id=customer.id,
                purpose=OneTimePurpose(message.kind.value),
                address=message.recipient,
            )
            return Text("Your code", f"{code} is your cashback code. It works for ten minutes. Tell it to nobody.")
        case _:
            assert_never(message.kind)


async def _recipient(session: AsyncSession, message: Message) -> Customer | None:
    if message.customer_id is None:
        customer = await session.scalar(Customer.by_email(message.recipient))
    else:
        customer = await session.get(Customer, message.customer_id)
    if customer is None or customer.status is CustomerStatus.CLOSED:
        return None
    # An address that has changed since must not get what is for its successor.
    if message.kind is MessageKind.VERIFY_EMAIL and customer.email_verified_at is not None:
        return None
    # A phone that is to be verified is not the customer's yet.
    fits = message.kind is MessageKind.VERIFY_PHONE or message.recipient in {customer.email, customer.phone}
    return customer if fits else None


def _link(settings: Settings, page: str, token: str) -> str:
    if settings.frontend_url is None:
        return f"Your token: {token}"
    # A fragment is sent to no server: it ends up in no log and in no Referer.
    return f"{settings.frontend_url.rstrip('/')}/{page}#token={token}"
