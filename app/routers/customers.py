"""Customers register, and manage their own account."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, status

from app.dependencies import CurrentCustomer, LimitByAddress, OriginDep, PasswordsDep, SessionDep, SettingsDep
from app.openapi import problems
from app.schemas.customers import CustomerProfile, CustomerRegistration, ProfileChange
from app.services import customers
from app.services.rate_limits import REGISTER

router = APIRouter(prefix="/v1", tags=["customers"])


@router.post(
    "/customers",
    status_code=status.HTTP_201_CREATED,
    summary="Register",
    responses=problems(413, 429),
    dependencies=[Depends(LimitByAddress(REGISTER))],
)
async def register(
    session: SessionDep, settings: SettingsDep, passwords: PasswordsDep, origin: OriginDep, body: CustomerRegistration
) -> CustomerProfile:
    """Make an account. Sign in with `POST /v1/auth/token` afterwards; a mail asks to verify the address.

    The answer is the same for an address that has an account: then nothing changes, and its owner is told by mail.
    """
    customer = await customers.register(session, settings, passwords, registration=body, origin=origin)
    return CustomerProfile.model_validate(customer)


@router.get("/me", summary="Who am I?", responses=problems(401))
async def get_me(customer: CurrentCustomer) -> CustomerProfile:
    """Return the customer that the access token belongs to."""
    return CustomerProfile.model_validate(customer)


@router.patch("/me", summary="Change my profile", responses=problems(401, 413))
async def change_me(session: SessionDep, customer: CurrentCustomer, body: ProfileChange) -> CustomerProfile:
    """Change what the body names; what it leaves out stays."""
    return CustomerProfile.model_validate(await customers.change_profile(session, customer=customer, change=body))


@router.delete("/me", status_code=status.HTTP_204_NO_CONTENT, summary="Close my account", responses=problems(401, 409))
async def close_me(
    session: SessionDep,
    customer: CurrentCustomer,
    forfeit: Annotated[bool, Query(description="Close it although money that could be paid out is left.")] = False,  # noqa: FBT002 - a query parameter
) -> None:
    """Close the account for good: every sign-in ends at once; name, address and payout methods go, the books stay.

    Refused while a payout is under way, and while money could be paid out, unless `forfeit` gives it up. The address
    may be registered again, as a new customer.
    """
    await customers.close_account(session, customer=customer, forfeit=forfeit)
