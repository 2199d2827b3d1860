"""A business of any size, made in SQL: customers, merchants, offers, clicks, orders with their reports, and the money.

At scale 1 it is a million customers, 300 merchants, 15 million offers, 30 million clicks, and 10 million orders of a
year with what was reported, posted, settled and paid. The number of merchants stays: what one of them has grows most.
Usage: python -m benchmarks.scale_data [--scale 0.01] prints rows, seconds and bytes of each table.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import asyncpg

from app import db
from app.config import Settings
from app.db import transaction
from app.models import StaffRole
from app.services import staff
from benchmarks.harness import running_stack
from benchmarks.ledger_data import LEDGER, fill, superuser_url
from tests.factories import make_category, make_merchant
from tests.webhooks.sender import make_signed_source

DAYS = 360
HOLD_DAYS = 30
CATEGORIES = 20
CLICKS_PER_ORDER = 3
_TIMEOUT = 7200

# Words of titles: of each kind one a title, some in every tenth title and some in one of some hundreds.
_KINDS = "shirt kurta dress shoes sandals watch phone charger headphones lamp sofa blanket perfume soap cricket racket"
_STYLES = "embroidered printed classic slim wireless portable leather cotton silk woollen golden midnight ivory crimson"

OFFERS = (
    """
    INSERT INTO offers (id, merchant_id, external_id, title, description, brand, category_id, url, image_url, currency,
                        price_minor, price_max_minor, available, content_hash, created_at, updated_at)
    SELECT uuidv7(at - now()), $merchant + n % $merchants, 'sku-' || n,
           initcap(styles[1 + (n / 7) % cardinality(styles)]) || ' '
               || kinds[1 + floor(power(h, 2) * cardinality(kinds))::int] || ' model ' || 'mk' || n % 5000,
           'Comes with a warranty of a year. Wash cold, dry in the shade, iron on the reverse. Delivered in 3 days.',
           'Brand' || floor(power(h, 3) * 400)::int, $category + n / 3 % $categories,
           'https://shop.example/products/' || n || '?variant=1', 'https://cdn.shop.example/images/' || n || '.jpg',
           'PKR', price, price, n % 50 <> 0, decode(md5(n::text), 'hex'), at, at
    FROM (SELECT n, string_to_array('$styles', ' ') AS styles, string_to_array('$kinds', ' ') AS kinds,
                 (hashint8(n)::bigint + 2147483648) / 4294967296.0::float8 AS h,
                 10000 + (n::bigint * 7919) % 1000000 AS price,
                 now() - make_interval(days => $days) + n * (make_interval(days => $days) / $offers) AS at
          FROM generate_series(0, $offers - 1) n) o
    """,
)

WORLD = (
    # `click_id` names a customer's payout method: LEDGER has it so.
    """
    CREATE TEMP TABLE bench_customers AS
    SELECT n, uuidv7(make_interval(days => -$days - 40) + n * interval '1 millisecond') AS id, uuidv7() AS click_id
    FROM generate_series(0, $customers - 1) n
    """,
    """
    INSERT INTO customers (id, email, email_verified_at, display_name, referral_code, status, created_at)
    SELECT id, 'bench-' || n || '@example.com', now(), 'Customer ' || n, 'bench-' || n, 'active',
           now() - make_interval(days => $days + 40)
    FROM bench_customers
    """,
    """
    INSERT INTO customer_sessions (id, customer_id, method, device_label, user_agent, expires_at)
    SELECT id, id, 'password', 'Phone', 'Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36', now() + interval '30 days'
    FROM bench_customers
    """,
    # A few merchants have most of it: of 300 the first has one click in seventeen, the last one in six hundred.
    """
    CREATE TEMP TABLE bench_clicks AS
    SELECT c.n, at, uuidv7(at - now()) AS id, b.id AS customer_id,
           $merchant + floor(power((c.n::bigint * 104729) % 1000003 / 1000003.0::float8, 2) * $merchants)::int
               AS merchant_id
    FROM generate_series(0, $clicks - 1) c(n)
    CROSS JOIN LATERAL (SELECT now() - make_interval(days => $days)
                               + c.n * (make_interval(days => $days) / $clicks) AS at) moment
    JOIN bench_customers b ON b.n = (hashint8(c.n)::bigint + 2147483648) % $customers
    """,
    """
    INSERT INTO clicks (id, customer_id, merchant_id, target_url, rate_kind, rate_basis_points, currency, address_hint,
                        created_at, expires_at, origin)
    SELECT id, customer_id, merchant_id, 'https://merchant.example/landing?ued=products%2F' || n || '&subid=' || id,
           'percent_of_sale', 500, 'PKR', decode(md5(n::text), 'hex'), at, at + interval '45 days', 'customer'
    FROM bench_clicks ORDER BY n
    """,
    """
    CREATE TEMP TABLE bench_orders AS
    SELECT n, at, uuidv7(at - now()) AS id, customer_id, click_id, merchant_id,
           CASE WHEN at > now() - interval '6 days' THEN 'pending' WHEN n % 20 = 0 THEN 'declined'
                WHEN at > now() - make_interval(days => $hold, hours => 2) THEN 'approved'
                WHEN n % 20 = 1 THEN 'reversed' ELSE 'payable' END AS status,
           n % 20 <> 1 AND at < now() - make_interval(days => $hold + 30) AND n % 20 <> 0 AS is_settled,
           1000 + n % 977 AS cashback, 2000 + n % 1009 AS commission
    FROM (SELECT n / $clicks_per_order AS n, at + interval '10 minutes' AS at, customer_id, id AS click_id, merchant_id
          FROM bench_clicks WHERE n % $clicks_per_order = 0 AND at < now() - interval '1 hour') o
    """,
    "ANALYZE bench_customers, bench_clicks, bench_orders",
    """
    INSERT INTO orders (id, merchant_id, external_id, source_id, customer_id, click_id, status, currency, sale_minor,
                        commission_minor, cashback_minor, reported_currency, reported_sale_minor,
                        reported_commission_minor, settled_minor, explanation, ordered_at, approved_at, payable_at,
                        created_at, updated_at, revision)
    SELECT id, merchant_id, 'B-' || n, $source, customer_id, click_id, status, 'PKR', 50000,
           commission, cashback, 'PKR', 50000, commission, CASE WHEN is_settled THEN commission ELSE 0 END,
           jsonb_build_object('currency', 'PKR', 'cashback_minor', cashback, 'steps', jsonb_build_array(
               jsonb_build_object('step', 'rate', 'detail', '5 % of the sale', 'amount_minor', cashback))),
           at, CASE WHEN status NOT IN ('pending', 'declined') THEN at + interval '1 day' END,
           CASE WHEN status NOT IN ('pending', 'declined') THEN at + make_interval(days => $hold + 1) END, at, at,
           CASE status WHEN 'pending' THEN 1 WHEN 'approved' THEN 2 WHEN 'declined' THEN 2 WHEN 'payable' THEN 3
               ELSE 4 END
    FROM bench_orders ORDER BY n
    """,
    # Each order's steps with what was reported for it; what becomes payable does so without a report.
    """
    CREATE TEMP TABLE bench_steps AS
    SELECT o.*, step.kind, step.revision, step.reached, o.at + wait AS said_at, uuidv7(o.at + wait - now()) AS event_id
    FROM bench_orders o
    CROSS JOIN LATERAL (VALUES
        ('created', 1, 'pending', interval '1 minute', true),
        ('approved', 2, 'approved', interval '1 day', status IN ('approved', 'payable', 'reversed')),
        (NULL, 3, 'payable', make_interval(days => $hold), status IN ('payable', 'reversed')),
        ('declined', 2, 'declined', interval '5 days', status = 'declined'),
        ('returned', 4, 'reversed', make_interval(days => $hold, hours => 1), status = 'reversed')
    ) step(kind, revision, reached, wait, happens)
    WHERE happens
    ORDER BY o.at + wait
    """,
    """
    INSERT INTO order_changes (id, order_id, revision, status, sale_minor, commission_minor, cashback_minor, at)
    SELECT uuidv7(said_at - now()), id, revision, reached, 50000, commission, cashback, said_at FROM bench_steps
    """,
    """
    INSERT INTO webhook_events (id, source_id, dedupe_key, body, body_sha256, content_type, headers, request_id, status,
                                next_attempt_at, received_at, processed_at, external_order_id, merchant_id,
                                reported_kind, reported_currency, reported_sale_minor, reported_at, order_id)
    SELECT event_id, $source, 'msg_' || replace(event_id::text, '-', ''), convert_to(json_build_object(
               'type', 'order.' || kind, 'order_id', 'B-' || n, 'occurred_at', said_at, 'click_id', click_id, 'amount',
               json_build_object('amount_minor', 50000, 'currency', 'PKR'), 'commission',
               json_build_object('amount_minor', commission, 'currency', 'PKR'))::text, 'UTF8'),
           sha256(event_id::text::bytea), 'application/json',
           jsonb_build_object('user-agent', 'merchant/1.0', 'webhook-id', event_id, 'webhook-timestamp', n),
           event_id::text, 'processed', said_at, said_at, said_at + interval '1 second', 'B-' || n, merchant_id, kind,
           'PKR', 50000, at, id
    FROM bench_steps WHERE kind IS NOT NULL
    """,
    # One sale in two hundred names no click: half of them wait, half were given up.
    """
    INSERT INTO webhook_events (id, source_id, dedupe_key, body, body_sha256, content_type, headers, status,
                                received_at, processed_at, external_order_id, merchant_id, reported_kind,
                                reported_currency, reported_sale_minor, reported_at, compared_at, discarded_reason)
    SELECT uuidv7(at - now()), $source, 'orphan-' || n, '{}', sha256('{}'), 'application/json', '{}',
           CASE WHEN n % 400 = 0 THEN 'orphaned' ELSE 'discarded' END, at, at, 'O-' || n, merchant_id, 'created', 'PKR',
           40000 + n % 30011, at, at, CASE WHEN n % 400 <> 0 THEN 'a test order' END
    FROM bench_orders WHERE n % 200 = 0
    """,
    """
    INSERT INTO order_reports (id, order_id, webhook_event_id, kind, occurred_at, sale_minor, commission_minor,
                               currency, created_at)
    SELECT uuidv7(said_at - now()), id, event_id, kind, said_at, 50000, commission, 'PKR', said_at
    FROM bench_steps WHERE kind IS NOT NULL
    """,
    "DROP TABLE bench_steps",
    # One order in two thousand was missed, or so its customer says.
    """
    INSERT INTO claims (id, customer_id, merchant_id, order_reference, reference_key, ordered_at, amount_minor,
                        currency, evidence, status, due_at, compared_at, created_at)
    SELECT uuidv7(at - now()), customer_id, merchant_id, 'C-' || n, 'c-' || n, at, 40000 + n % 29989, 'PKR', '[]',
           'open', at + interval '5 days', at, at
    FROM bench_orders WHERE n % 2000 = 7
    """,
    # What the networks paid: a statement a merchant and month.
    """
    CREATE TEMP TABLE bench_settlements AS
    SELECT uuidv7(month - now() + interval '61 days') AS id, merchant_id, month, count(*) AS lines,
           sum(commission) AS total
    FROM (SELECT merchant_id, commission, date_trunc('month', at) AS month FROM bench_orders WHERE is_settled) o
    GROUP BY merchant_id, month
    """,
    """
    INSERT INTO settlements (id, merchant_id, reference, currency, paid_on, total_minor, lines_by_status, created_by_id,
                             created_at)
    SELECT id, merchant_id, to_char(month, 'YYYY-MM'), 'PKR', month::date + 61, total,
           jsonb_build_object('matched', lines), '$staff', month + interval '61 days'
    FROM bench_settlements
    """,
    """
    INSERT INTO settlement_lines (id, settlement_id, number, order_reference, amount_minor, expected_minor, order_id,
                                  status)
    SELECT uuidv7(month - now() + interval '61 days'), s.id, row_number() OVER (PARTITION BY s.id ORDER BY o.n),
           'B-' || o.n, commission, commission, o.id, 'matched'
    FROM bench_orders o JOIN bench_settlements s
        ON s.merchant_id = o.merchant_id AND s.month = date_trunc('month', o.at)
    WHERE o.is_settled
    """,
    """
    WITH booked AS (
        INSERT INTO transfers (id, cause_type, cause_id, purpose, details, created_at)
        SELECT uuidv7(month - now() + interval '61 days'), 'settlement', id, 'paid', '{}', month + interval '61 days'
        FROM bench_settlements RETURNING id, cause_id, created_at)
    INSERT INTO postings (transfer_id, account, merchant_id, currency, amount_minor, created_at)
    SELECT b.id, line.account, line.merchant_id, 'PKR', line.amount, b.created_at
    FROM booked b JOIN bench_settlements s ON s.id = b.cause_id
    CROSS JOIN LATERAL (VALUES ('cash', NULL, s.total), ('network_receivable', s.merchant_id, -s.total))
        line(account, merchant_id, amount)
    """,
    "DROP TABLE bench_clicks, bench_settlements",
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many of each; reports, events, transfers and postings follow from the orders."""

    customers: int
    merchants: int
    offers: int
    orders: int

    @classmethod
    def at(cls, scale: float, *, offers_scale: float | None = None) -> Self:
        """Return the headline sizes times `scale`, the offers by a scale of their own if given."""
        offers = round(15_000_000 * (scale if offers_scale is None else offers_scale))
        return cls(max(10, round(1_000_000 * scale)), 300, offers, max(100, round(10_000_000 * scale)))


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was made: the first of the merchants' ids, which follow each other, and the source that reports."""

    merchant_id: int
    merchants: int
    source_key: str
    seconds: float


async def load_business(settings: Settings, sizes: Sizes, *, is_superuser: bool = True) -> Loaded:
    """Fill a migrated, opened database. All invariants of the ledger hold afterwards; statistics are up to date.

    As the embedded PostgreSQL's superuser, without the triggers that check each row and transfer: with them
    (`is_superuser=False`) it takes ten times as long.
    """
    started = time.perf_counter()
    async with transaction() as session:
        source = await make_signed_source(session, settings)
        categories = [(await make_category(session, slug=f"bench-{number}")).id for number in range(CATEGORIES)]
        merchants = [
            (await make_merchant(session, source_id=source.id, category_id=categories[number % CATEGORIES])).id
            for number in range(sizes.merchants)
        ]
        key, _ = await staff.create_key(session, name="bench", role=StaffRole.FINANCE)
    # Of names that begin alike the longer one first.
    values = {
        "$merchants": sizes.merchants,
        "$merchant": merchants[0],
        "$categories": CATEGORIES,
        "$category": categories[0],
        "$source": source.id,
        "$staff": key.id,
        "$customers": sizes.customers,
        "$clicks_per_order": CLICKS_PER_ORDER,
        "$clicks": CLICKS_PER_ORDER * sizes.orders,
        "$orders": sizes.orders,
        "$offers": sizes.offers,
        "$days": DAYS,
        "$hold": HOLD_DAYS,
        "$styles": _STYLES,
        "$kinds": _KINDS,
    }
    url = superuser_url(settings) if is_superuser else settings.database_url
    statements = [*WORLD, *LEDGER]
    await asyncio.gather(_run(url, OFFERS, values, is_superuser), _run(url, statements, values, is_superuser))
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("VACUUM ANALYZE", timeout=_TIMEOUT)
    finally:
        await connection.close()
    return Loaded(merchants[0], sizes.merchants, source.source_key, round(time.perf_counter() - started, 1))


async def _run(url: str, statements: Sequence[str], values: dict[str, Any], is_superuser: bool) -> None:  # noqa: FBT001 - one caller
    connection = await asyncpg.connect(url)
    try:
        if is_superuser:
            await connection.execute("SET session_replication_role = replica; SET work_mem = '256MB'")
        # GIN keeps what comes in a list and sorts it in: with more memory less often.
        await connection.execute("SET jit = off; SET maintenance_work_mem = '256MB'")
        async with connection.transaction():
            for statement in statements:
                await connection.execute(fill(statement, values), timeout=_TIMEOUT)
    finally:
        await connection.close()


async def measure_tables(database_url: str) -> dict[str, dict[str, int]]:
    """Return rows, and bytes with and without indexes, of each table that has some; partitions counted together."""
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch("""
            SELECT top.relname AS name, sum(greatest(part.reltuples, 0))::bigint AS rows,
                   sum(pg_total_relation_size(part.oid))::bigint AS bytes, sum(pg_table_size(part.oid))::bigint AS heap
            FROM pg_class top
            CROSS JOIN LATERAL (SELECT coalesce(tree.relid, top.oid) AS oid FROM (SELECT) one
                                LEFT JOIN pg_partition_tree(top.oid) tree ON true) leaf
            JOIN pg_class part ON part.oid = leaf.oid AND part.relkind = 'r'
            WHERE top.relnamespace = 'public'::regnamespace AND top.relkind IN ('r', 'p') AND NOT top.relispartition
            GROUP BY top.relname HAVING sum(part.reltuples) > 0 ORDER BY 3 DESC
        """)
    finally:
        await connection.close()
    return {row["name"]: {"rows": row["rows"], "bytes": row["bytes"], "heap_bytes": row["heap"]} for row in rows}


def show_tables(tables: dict[str, dict[str, int]]) -> None:
    """Print them, with bytes a row."""
    print(f"  {'table':<20}{'rows':>12}{'MiB':>9}{'bytes a row':>13}{'of it heap':>12}")
    for name, table in tables.items():
        each, heap = table["bytes"] / table["rows"], table["heap_bytes"] / table["rows"]
        if table["rows"] >= 100:
            print(f"  {name:<20}{table['rows']:>12,}{table['bytes'] / 2**20:>9,.0f}{each:>13,.0f}{heap:>12,.0f}")
    print(f"  all together {sum(table['bytes'] for table in tables.values()) / 2**30:.1f} GiB")


async def _load_and_show(settings: Settings, scale: float) -> None:
    await db.open_database(settings, application_name="bench", pool_size=2, max_overflow=0)
    try:
        loaded = await load_business(settings, Sizes.at(scale))
    finally:
        await db.close_database()
    print(f"scale {scale:g}: loaded in {loaded.seconds} s")
    show_tables(await measure_tables(settings.database_url))


def main() -> None:
    """Load into servers of its own, print the sizes, and leave nothing."""
    parser = argparse.ArgumentParser(description="A business of any size in SQL.")
    parser.add_argument("--scale", type=float, default=0.01)
    with running_stack() as stack:
        asyncio.run(_load_and_show(stack.settings, parser.parse_args().scale))


if __name__ == "__main__":
    main()
