"""Customers for staff: found, frozen while something is looked into, thawed."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from app.dependencies import PageDep, SessionDep, staff_with
from app.models import Customer, CustomerStatus, StaffKey, StaffRole, StaffScope
from app.openapi import problems
from app.schemas.admin_customers import CustomerAdminPage, CustomerAdminRead, FreezeRequest
from app.schemas.customers import Email
from app.services import customer_care

router = APIRouter(prefix="/v1/admin/customers", tags=["admin"], responses=problems(401, 403))

Reader = Annotated[StaffKey, staff_with(StaffRole.OPERATOR, StaffScope.CUSTOMERS_READ)]
Changer = Annotated[StaffKey, staff_with(StaffRole.OPERATOR, StaffScope.CUSTOMERS_WRITE, on=Customer, by="customer_id")]


@router.get("", summary="Find customers")
async def find_customers(
    session: SessionDep,
    _: Reader,
    page: PageDep,
    email: Annotated[Email | None, Query(description="The whole address, whatever its capitals.")] = None,
    status: Annotated[CustomerStatus | None, Query()] = None,
) -> CustomerAdminPage:
    """List customers, the newest first, or find the one with an address."""
    return await customer_care.find_customers(session, email=email, status=status, limit=page.limit, cursor=page.cursor)


@router.get("/{customer_id}", summary="One customer", responses=problems(404))
async def get_customer(session: SessionDep, _: Reader, customer_id: UUID) -> CustomerAdminRead:
    """Show an account; its money is in the statement."""
    return await customer_care.show_customer(session, customer_id=customer_id)


@router.post("/{customer_id}/freeze", summary="Freeze an account", responses=problems(404, 409))
async def freeze_customer(session: SessionDep, _: Changer, customer_id: UUID, body: FreezeRequest) -> CustomerAdminRead:
    """Pay this customer nothing until the account is thawed. Signing in and looking stay possible."""
    return await customer_care.freeze(session, customer_id=customer_id, reason=body.reason)


@router.post("/{customer_id}/thaw", summary="Thaw an account", responses=problems(404, 409))
async def thaw_customer(session: SessionDep, _: Changer, customer_id: UUID) -> CustomerAdminRead:
    """Let the account be as it was before; approved payouts that waited go on."""
    return await customer_care.thaw(session, customer_id=customer_id)
