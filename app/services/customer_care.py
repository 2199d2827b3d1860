"""What staff do with a customer's account: find it, freeze it, thaw it.

A frozen customer may sign in and look, but is paid nothing: no payout is asked for, approved or sent, and none of what
earns money goes on to the bank. The account cannot be closed, since that would remove what is looked into.
"""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import ConflictError, NotFoundError
from app.models import Customer, CustomerStatus
from app.schemas.admin_customers import CustomerAdminPage, CustomerAdminRead
from app.services.pagination import newest_first


class CustomerNotFoundError(NotFoundError):
    """No customer has this id."""

    code = "customer_not_found"
    title = "Customer not found"

    def __init__(self, customer_id: UUID) -> None:
        super().__init__(f"There is no customer {customer_id}.")


class AccountClosedError(ConflictError):
    """A closed account can be neither frozen nor thawed."""

    code = "account_closed"
    title = "Account closed"

    def __init__(self) -> None:
        super().__init__("The account is closed; what it still had is not paid out any more.")


async def find_customers(
    session: AsyncSession, *, email: str | None, status: CustomerStatus | None, limit: int, cursor: str | None
) -> CustomerAdminPage:
    """Return customers, the newest first. Raises InvalidCursorError."""
    statement = select(Customer) if email is None else Customer.by_email(email)
    if status is not None:
        statement = statement.where(Customer.status == status)
    rows, next_cursor = await newest_first(session, statement, Customer.id, limit=limit, cursor=cursor)
    return CustomerAdminPage(items=[CustomerAdminRead.model_validate(row) for row in rows], next_cursor=next_cursor)


async def show_customer(session: AsyncSession, *, customer_id: UUID) -> CustomerAdminRead:
    """Return a customer, also one whose account is closed. Raises CustomerNotFoundError."""
    customer = await session.get(Customer, customer_id)
    if customer is None:
        raise CustomerNotFoundError(customer_id)
    return CustomerAdminRead.model_validate(customer)


async def freeze(session: AsyncSession, *, customer_id: UUID, reason: str) -> CustomerAdminRead:
    """Freeze an account, or write another reason on a frozen one. Raises CustomerNotFoundError, AccountClosedError."""
    customer = await _lock(session, customer_id)
    customer.status, customer.frozen_reason = CustomerStatus.FROZEN, reason
    await session.flush()
    await session.refresh(customer)
    return CustomerAdminRead.model_validate(customer)


async def thaw(session: AsyncSession, *, customer_id: UUID) -> CustomerAdminRead:
    """Let an account be as before; one that is not frozen stays. Raises CustomerNotFoundError, AccountClosedError."""
    customer = await _lock(session, customer_id)
    customer.status = CustomerStatus.ACTIVE
    await session.flush()
    await session.refresh(customer)
    return CustomerAdminRead.model_validate(customer)


async def _lock(session: AsyncSession, customer_id: UUID) -> Customer:
    # As closing and payouts do: whoever is paying this customer out at the moment is waited for.
    customer = await session.get(Customer, customer_id, with_for_update={"key_share": True}, populate_existing=True)
    if customer is None:
        raise CustomerNotFoundError(customer_id)
    if customer.status is CustomerStatus.CLOSED:
        raise AccountClosedError
    return customer
