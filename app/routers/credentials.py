"""Proving an e-mail address, and replacing a password."""

from fastapi import APIRouter, Depends

from app.dependencies import (
    CallerDep,
    LimitByAddress,
    LimitByCustomer,
    PasswordsDep,
    RateLimiterDep,
    SessionDep,
    SettingsDep,
    SignedIn,
)
from app.models import MessageKind
from app.openapi import problems
from app.schemas.credentials import Accepted, EmailVerification, MailRequest, PasswordChange, PasswordReset
from app.services import credentials
from app.services.rate_limits import ONE_TIME_TOKEN, STEP_UP

router = APIRouter(prefix="/v1", tags=["customers"])


@router.post(
    "/auth/email-verification",
    status_code=202,
    summary="Send the mail that verifies an address",
    responses=problems(413, 429),
)
async def request_email_verification(
    session: SessionDep, limiter: RateLimiterDep, caller: CallerDep, body: MailRequest
) -> Accepted:
    """Send the mail of the registration again. The answer is the same whether the address has an account or not."""
    kind = MessageKind.VERIFY_EMAIL
    await credentials.request_mail(session, limiter, kind=kind, email=body.email, caller=caller)
    return Accepted()


@router.post(
    "/auth/email-verification/confirm",
    status_code=204,
    summary="Verify an address",
    responses=problems(400, 413, 429),
    dependencies=[Depends(LimitByAddress(ONE_TIME_TOKEN))],
)
async def verify_email(session: SessionDep, body: EmailVerification) -> None:
    """Take the mail's token as proof that the address is its customer's. It works once, for two days."""
    await credentials.verify_email(session, token=body.token)


@router.post(
    "/auth/password-reset",
    status_code=202,
    summary="Send the mail that resets a password",
    responses=problems(413, 429),
)
async def request_password_reset(
    session: SessionDep, limiter: RateLimiterDep, caller: CallerDep, body: MailRequest
) -> Accepted:
    """Send a mail with a token for a new password. The answer is the same whether the address has an account or not."""
    kind = MessageKind.RESET_PASSWORD
    await credentials.request_mail(session, limiter, kind=kind, email=body.email, caller=caller)
    return Accepted()


@router.post(
    "/auth/password-reset/confirm",
    status_code=204,
    summary="Choose a new password",
    responses=problems(400, 413, 429),
    dependencies=[Depends(LimitByAddress(ONE_TIME_TOKEN))],
)
async def reset_password(passwords: PasswordsDep, body: PasswordReset) -> None:
    """Replace a forgotten password. The token works once, for an hour.

    Every session ends, and the address is verified.
    """
    await credentials.reset_password(passwords, token=body.token, password=body.password)


@router.post(
    "/me/password",
    status_code=204,
    summary="Change my password",
    responses=problems(401, 403, 413, 429),
    dependencies=[Depends(LimitByCustomer(STEP_UP))],
)
async def change_password(
    settings: SettingsDep, passwords: PasswordsDep, signed_in: SignedIn, body: PasswordChange
) -> None:
    """Replace the password, confirmed with the one of now. All other sessions end."""
    await credentials.change_password(
        settings,
        passwords,
        signed_in=signed_in,
        current=body.current_password,
        code=body.code,
        wanted=body.new_password,
    )
