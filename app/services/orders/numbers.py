"""Order numbers as shops, networks and customers spell them: one order may be `1001`, `#1001` and ` # 1001`.

Who creates an order by hand holds all spellings of its number, so that no report makes it a second time meanwhile.
"""

from sqlalchemy import select, text, union_all
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Claim, ClaimStatus, Order, reference_key

_LOCK = text(
    "SELECT pg_advisory_xact_lock(hashtextextended(spelling, :source))"
    " FROM unnest(CAST(:spellings AS text[])) AS spelling"
)


def spellings(reference: str) -> list[str]:
    """Return the usual spellings of a number, itself included, in order."""
    bare = "".join(reference.split()).lstrip("#")
    key = reference_key(reference)
    plain = {bare, key, key.upper()}
    return sorted({reference, *plain, *(f"#{spelling}" for spelling in plain)})


async def lock_spellings(session: AsyncSession, *, source_id: int, reference: str) -> None:
    """Let one transaction at a time work on the order of this number, however it is spelled.

    Each spelling is locked as in `lock_reference`, so that it also holds off the reports of it.
    """
    await session.execute(_LOCK, {"spellings": spellings(reference), "source": source_id})


async def find_order(session: AsyncSession, *, merchant_id: int, reference: str) -> Order | None:
    """Return the merchant's order of this number, however it is spelled; one of the same spelling comes first."""
    key = reference_key(reference)
    spelled = select(Order.id).where(Order.merchant_id == merchant_id, Order.external_id.in_(spellings(reference)))
    granted = select(Claim.order_id).where(
        Claim.merchant_id == merchant_id, Claim.reference_key == key, Claim.status == ClaimStatus.APPROVED
    )
    # A union, so that either part uses its index: with OR all orders of the merchant would be read.
    orders = await session.scalars(select(Order).where(Order.id.in_(union_all(spelled, granted))))
    # A claim may have been granted for the orphan of another number, where its customer had mistyped it.
    found = [order for order in orders if reference_key(order.external_id) == key]
    return min(found, key=lambda order: (order.external_id != reference, order.external_id), default=None)
