"""The customer's wallet."""

from fastapi import APIRouter

from app.dependencies import CurrentCustomer, PageDep, SessionDep
from app.openapi import problems
from app.schemas.common import Page
from app.schemas.wallets import Balance, WalletEntryRead, WalletRead
from app.services import wallets

router = APIRouter(prefix="/v1/me/wallet", tags=["wallet"], responses=problems(401))


@router.get("", summary="Balances in each currency")
async def get_wallet(session: SessionDep, customer: CurrentCustomer) -> WalletRead:
    """Pending, available, on its way out, and paid: read from the ledger's own rows, never from a cache."""
    rows = await wallets.balances(session, customer.id)
    return WalletRead(balances=[Balance.model_validate(row) for row in rows])


@router.get("/entries", summary="Every movement of the balances")
async def list_wallet_entries(session: SessionDep, customer: CurrentCustomer, page: PageDep) -> Page[WalletEntryRead]:
    """List the movements, newest first; those of one balance add up to it."""
    entries = await wallets.list_entries(session, customer_id=customer.id, limit=page.limit, cursor=page.cursor)
    return Page[WalletEntryRead].model_validate(entries)
