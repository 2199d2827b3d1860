"""A shop to put load on: merchants, offers, customers with wallets and orders, and a source that signs."""

from dataclasses import dataclass
from typing import Any

import asyncpg

from app import db
from app.db import transaction
from app.ids import new_id
from benchmarks.harness import Stack
from tests.factories import customer_headers, make_category, make_click, make_customer, make_merchant, make_order
from tests.webhooks.sender import make_signed_source

# So many that none of them meets the limit of clicks.
CUSTOMERS = 300
ORDERS_EACH = 3
_COLUMNS = (
    "id merchant_id external_id title description brand category_id url image_url currency price_minor"
    " price_max_minor available content_hash"
)


@dataclass(frozen=True)
class Shop:
    """What was loaded."""

    merchants: list[int]
    customers: list[str]
    # A customer's Authorization header, in the order of customers.
    tokens: list[str]
    # A click of each customer.
    clicks: list[str]
    source_key: str


async def open_shop(stack: Stack, *, merchants: int, offers: int) -> Shop:
    """Fill the database; the offers come in turn, as syncs would interleave."""
    await db.open_database(stack.settings, application_name="bench", pool_size=1, max_overflow=0)
    try:
        async with transaction() as session:
            category_id = (await make_category(session)).id
            source = await make_signed_source(session, stack.settings)
            made = [
                await make_merchant(session, category_id=category_id, source_id=source.id) for _ in range(merchants)
            ]
            customers = [await make_customer(session) for _ in range(CUSTOMERS)]
            clicks = []
            for number, customer in enumerate(customers):
                click = await make_click(session, customer, made[number % merchants])
                clicks.append(str(click.id))
                for _ in range(ORDERS_EACH):
                    await make_order(session, click)
            tokens = [customer_headers(stack.settings, customer)["Authorization"] for customer in customers]
            ids, key = [merchant.id for merchant in made], source.source_key
    finally:
        await db.close_database()
    connection = await asyncpg.connect(stack.settings.database_url)
    try:
        rows = (_offer(number, ids[number % merchants], category_id) for number in range(offers))
        await connection.copy_records_to_table("offers", records=rows, columns=_COLUMNS.split())
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()
    return Shop(ids, [str(customer.id) for customer in customers], tokens, clicks, key)


def _offer(number: int, merchant_id: int, category_id: int) -> tuple[Any, ...]:
    return (
        new_id(),
        merchant_id,
        f"sku-{number}",
        f"Embroidered lawn suit {number}, 3 pieces",
        "Unstitched lawn shirt with a printed chiffon dupatta and dyed trousers. Machine wash cold.",
        "Brand",
        category_id,
        f"https://shop.example/products/lawn-suit-{number}?variant=1",
        f"https://cdn.shop.example/images/{number}.jpg",
        "PKR",
        100_000 + number,
        120_000 + number,
        True,
        number.to_bytes(16, "big"),
    )
