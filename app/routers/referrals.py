"""A customer's referrals."""

from fastapi import APIRouter

from app.dependencies import CurrentCustomer, PageDep, SessionDep
from app.openapi import problems
from app.schemas.referrals import MyReferrals
from app.services.referrals import show

router = APIRouter(prefix="/v1/me", tags=["referrals"], responses=problems(401))


@router.get("/referrals", summary="My code, and who registered with it")
async def get_my_referrals(session: SessionDep, customer: CurrentCustomer, page: PageDep) -> MyReferrals:
    """Return the customer's code, who registered with it (newest first), and what that has earned.

    Both sides get their bonus once the invited customer has a payable order that counts, and lose it when no such
    order is left. The bonus is the one that was promised at registration.
    """
    return await show.show_mine(session, customer=customer, limit=page.limit, cursor=page.cursor)
