"""Hot statements stay on their indexes at a size that matters: what a page reads does not grow with the tables."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from app import db
from app.config import Settings
from app.ids import new_id
from app.reads import Read
from app.schemas.catalogue import OfferSort
from app.services import catalogue_statements as catalogue
from app.services.orders.read import orders_statement
from app.services.wallets import wallet_statement
from tests.factories import make_category, make_click, make_customer, make_merchant, make_order

OFFERS, MERCHANTS, CUSTOMERS = 50_000, 1_000, 5_000
# Of each customer.
ORDERS = 2
LARGE = {"offers", "merchants", "rates", "customers", "customer_sessions", "wallets", "orders"}
LIMIT = 21
# Rows that one node may touch: a page, and the rows of its joins.
MOST_ROWS = 200

_OFFERS = """
    INSERT INTO offers (id, merchant_id, external_id, title, url, currency, category_id, price_minor, price_max_minor,
        content_hash)
    SELECT gen_random_uuid(), $1 + n % 50, 'sku-' || n, 'Product ' || n, 'https://shop.example/' || n, 'PKR',
        CASE WHEN n % 3 = 0 THEN $2::int END, n, n, '\\x00'
    FROM generate_series(1, $3::int) AS n
"""
_MERCHANTS = """
    INSERT INTO merchants (slug, name, status, currency, tracking_url, category_id)
    SELECT 'seed-' || n, 'Seed ' || n, 'active', 'PKR', 'https://seed.example/', $2::int
    FROM generate_series(1, $1::int) AS n
"""
_RATES = """
    INSERT INTO rates (id, merchant_id, kind, basis_points, valid_from)
    SELECT gen_random_uuid(), id, 'percent_of_sale', 500, now() - interval '1 day'
    FROM merchants WHERE slug LIKE 'seed-%'
"""
# As the first one, of other customers: one wrote them all.
_ORDERS = """
    INSERT INTO orders (id, merchant_id, external_id, source_id, customer_id, click_id, status, currency,
        sale_minor, commission_minor, cashback_minor, reported_currency, reported_sale_minor,
        reported_commission_minor, explanation, ordered_at)
    SELECT gen_random_uuid(), merchant_id, n || '-' || place, source_id, other.id, click_id, status, currency,
        sale_minor, commission_minor, cashback_minor, reported_currency, reported_sale_minor,
        reported_commission_minor, explanation, ordered_at
    FROM (SELECT * FROM orders WHERE customer_id = $1 LIMIT 1) AS first
    CROSS JOIN LATERAL (SELECT id, row_number() OVER () AS place FROM customers WHERE id <> $1) AS other
    CROSS JOIN generate_series(1, $2::int) AS n
"""
_CUSTOMERS = """
    WITH made AS (
        INSERT INTO customers (id, email, referral_code, status)
        SELECT gen_random_uuid(), 'seed-' || n || '@example.com', 'seed' || n, 'active'
        FROM generate_series(1, $1::int) AS n RETURNING id
    ), sessions AS (
        INSERT INTO customer_sessions (id, customer_id, method, expires_at)
        SELECT id, id, 'password', now() + interval '1 day' FROM made
    )
    INSERT INTO wallets (customer_id, currency) SELECT id, 'PKR' FROM made
"""


class Plans:
    """A connection to a large shop, and one customer in it."""

    def __init__(self, connection: Any, merchant: int, customer: UUID, category: str) -> None:
        self.connection, self.merchant, self.customer, self.category = connection, merchant, customer, category

    async def nodes(self, statement: Read, mode: str, **parameters: Any) -> list[dict[str, Any]]:
        """Run a statement; returns the nodes of its plan, made for its values (`custom`) or for any (`generic`)."""
        values = {**statement.constants, **parameters}
        await self.connection.execute(f"SET plan_cache_mode = force_{mode}_plan")
        found = await self.connection.fetchval(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.sql}", *(values[name] for name in statement.names)
        )
        return list(_nodes(orjson.loads(found)[0]["Plan"]))


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


@pytest.fixture
async def plans(committed_db: Settings) -> AsyncIterator[Plans]:
    async with db.transaction() as session:
        category = await make_category(session)
        merchant = await make_merchant(session, category_id=category.id)
        customer = await make_customer(session)
        for _ in range(3):
            await make_order(session, await make_click(session, customer, merchant))
        key = (category.id, category.slug, merchant.id, customer.id)
    connection = await asyncpg.connect(committed_db.database_url)
    try:
        await connection.execute(_MERCHANTS, MERCHANTS, key[0])
        await connection.execute(_RATES)
        await connection.execute(_OFFERS, key[2], key[0], OFFERS)
        await connection.execute(_CUSTOMERS, CUSTOMERS)
        await connection.execute(_ORDERS, key[3], ORDERS)
        await connection.execute("ANALYZE")
        yield Plans(connection, key[2], key[3], key[1])
    finally:
        # No posting stands behind these.
        await connection.execute("DELETE FROM orders WHERE external_id NOT LIKE 'A-%'")
        await connection.close()


async def test_hot_statements_stay_on_their_indexes(plans: Plans) -> None:
    signed_in = {"customer_id": plans.customer, "session_id": plans.customer}
    now = datetime.now(UTC)
    of_merchant = {"merchant_id": plans.merchant, "limit": LIMIT}
    none: frozenset[str] = frozenset()
    statements: list[tuple[str, Read, dict[str, Any]]] = [
        ("merchant", catalogue.merchant_by_id(), {"wanted": plans.merchant, "at": now}),
        ("merchant by slug", catalogue.merchant_by_slug(), {"wanted": "seed-7", "at": now}),
        ("merchants", catalogue.merchants(none, continued=False), {"limit": LIMIT, "at": now}),
        (
            "merchants, next page",
            catalogue.merchants(none, continued=True),
            {"limit": LIMIT, "at": now, "after_name": "Seed 500", "after_id": 0},
        ),
        ("wallet", wallet_statement(), signed_in),
    ]
    for filtered, continued in ((False, False), (False, True)):
        parameters = {**signed_in, "limit": LIMIT, "now": now, **({"after": new_id()} if continued else {})}
        statements.append(("orders", orders_statement(filtered=filtered, continued=continued), parameters))
    for sort in (OfferSort.NEWEST, OfferSort.PRICE_ASC, OfferSort.PRICE_DESC):
        after = {"after_id": UUID(int=2**127), "after_number": 25_000}
        for continued in (False, True):
            of_merchants = catalogue.offers_read(frozenset({"merchant_id"}), sort, continued=continued)
            statements.append((f"a merchant's offers, {sort}", of_merchants, {**of_merchant, **after}))
            of_all = catalogue.offers_read(none, sort, continued=continued)
            statements.append((f"offers, {sort}", of_all, {"limit": LIMIT, **after}))
    for name, statement, parameters in statements:
        for mode in ("custom", "generic"):
            for node in await plans.nodes(statement, mode, **parameters):
                where = (name, mode, node)
                assert not (node["Node Type"] == "Seq Scan" and node["Relation Name"] in LARGE), where
                assert node["Actual Rows"] * node["Actual Loops"] <= MOST_ROWS, where
                assert node.get("Rows Removed by Filter", 0) * node["Actual Loops"] <= MOST_ROWS, where
