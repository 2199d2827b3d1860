"""The second factor: a phone that gets codes, and asking for one."""

from fastapi import APIRouter, Depends

from app.dependencies import (
    CurrentCustomer,
    LimitByCustomer,
    PasswordsDep,
    RateLimiterDep,
    SessionDep,
    SettingsDep,
    SignedIn,
)
from app.openapi import problems
from app.schemas.credentials import Accepted, PhoneChange, PhoneRemoval, PhoneVerification
from app.services import step_up
from app.services.rate_limits import STEP_UP

router = APIRouter(prefix="/v1/me", tags=["customers"])


@router.put(
    "/phone",
    status_code=202,
    summary="Send a code to a new phone",
    responses=problems(401, 403, 413, 429),
    dependencies=[Depends(LimitByCustomer(STEP_UP))],
)
async def change_phone(
    settings: SettingsDep, passwords: PasswordsDep, limiter: RateLimiterDep, signed_in: SignedIn, body: PhoneChange
) -> Accepted:
    """Send a code to a number, confirmed with the password. Until the code comes back, nothing changes."""
    await step_up.send_phone_code(
        settings,
        passwords,
        limiter,
        signed_in=signed_in,
        phone=body.phone,
        password=body.current_password,
        code=body.code,
    )
    return Accepted()


@router.post(
    "/phone/verify",
    status_code=204,
    summary="Verify the new phone",
    responses=problems(401, 403, 413, 429),
    dependencies=[Depends(LimitByCustomer(STEP_UP))],
)
async def verify_phone(settings: SettingsDep, signed_in: SignedIn, body: PhoneVerification) -> None:
    """Make the number the second factor. A code works once, for ten minutes, and allows five tries."""
    await step_up.verify_phone(settings, signed_in=signed_in, code=body.code)


@router.post(
    "/phone/remove",
    status_code=204,
    summary="Remove my phone",
    responses=problems(401, 403, 413, 429),
    dependencies=[Depends(LimitByCustomer(STEP_UP))],
)
async def remove_phone(settings: SettingsDep, passwords: PasswordsDep, signed_in: SignedIn, body: PhoneRemoval) -> None:
    """Do without a second factor from now on, confirmed with the password and a code of that phone."""
    await step_up.remove_phone(settings, passwords, signed_in=signed_in, password=body.current_password, code=body.code)


@router.post("/step-up", status_code=202, summary="Send a code to my phone", responses=problems(401, 403, 429))
async def send_step_up_code(session: SessionDep, limiter: RateLimiterDep, customer: CurrentCustomer) -> Accepted:
    """Send a code to the verified phone, for whatever next asks for a `code`. The code before it is good no longer."""
    await step_up.send_code(session, limiter, customer=customer)
    return Accepted()
