"""A ledger of any size for measurements: consistent orders, payouts, transfers, postings and wallets, made in SQL.

Rows come in the order of time, as in production: an order's second transfer follows a month after its first, beside
the first ones of other orders, and a customer's postings are spread over the whole table.
"""

from collections.abc import Mapping

import asyncpg

from app.config import Settings
from app.db import transaction
from tests.factories import make_merchant

MERCHANTS = 300
DAYS = 90
HOLD_DAYS = 30
# Orders end as: live and young 20 %, payable 70 %, declined 5 %, reversed 5 %; and each customer has had a payout.
_POSTINGS_PER_ORDER = 6.3
_ORDERS_PER_CUSTOMER = 8

_WORLD = (
    """
    CREATE TEMP TABLE bench_customers AS
    SELECT n, uuidv7(make_interval(days => -100) + n * interval '1 millisecond') AS id, uuidv7() AS click_id
    FROM generate_series(0, $customers - 1) n
    """,
    """
    INSERT INTO customers (id, email, referral_code, status)
    SELECT id, 'bench-' || n || '@example.com', 'bench-' || n, 'active' FROM bench_customers
    """,
    """
    INSERT INTO clicks (id, customer_id, merchant_id, target_url, rate_kind, rate_basis_points, currency, expires_at,
                        origin)
    SELECT click_id, id, $merchant, 'https://bench.example/', 'percent_of_sale', 500, 'PKR',
           now(), 'customer'
    FROM bench_customers
    """,
    """
    CREATE TEMP TABLE bench_orders AS
    SELECT o.n, at, uuidv7(at - now()) AS id, c.id AS customer_id, c.click_id,
           $merchant + o.n % $merchants AS merchant_id,
           CASE WHEN o.n % 20 = 0 THEN 'declined' WHEN at > now() - make_interval(days => $hold) THEN 'approved'
                WHEN o.n % 20 = 1 THEN 'reversed' ELSE 'payable' END AS status,
           1000 + o.n % 977 AS cashback, 2000 + o.n % 1009 AS commission
    FROM generate_series(0, $orders - 1) o(n)
    CROSS JOIN LATERAL (SELECT date_trunc('day', now()) - make_interval(days => $days)
                               + o.n * (make_interval(days => $days) / $orders) AS at) moment
    JOIN bench_customers c ON c.n = (o.n::bigint * 7919) % $customers
    """,
    """
    INSERT INTO orders (id, merchant_id, external_id, source_id, customer_id, click_id, status, currency, sale_minor,
                        commission_minor, cashback_minor, reported_currency, reported_sale_minor,
                        reported_commission_minor, explanation, ordered_at, created_at, revision)
    SELECT id, merchant_id, 'B-' || n, $source, customer_id, click_id, status, 'PKR', 50000,
           commission, cashback, 'PKR', 50000, commission, '{}', at, at, 3
    FROM bench_orders ORDER BY n
    """,
)
# Payouts, transfers, postings and wallets of what is in the temporary bench_customers (id, n, and click_id, which names
# the payout method too) and bench_orders (id, at, customer_id, merchant_id, status, cashback, commission).
LEDGER = (
    # Each line: step, account, whose, sign, and which amount.
    """
    CREATE TEMP TABLE bench_lines (step text, account text, whose text, sign int, amount text);
    INSERT INTO bench_lines VALUES
        ('pending:1', 'network_receivable', 'merchant', 1, 'commission'),
        ('pending:1', 'customer_pending', 'customer', -1, 'cashback'),
        ('pending:1', 'margin_pending', 'merchant', -1, 'margin'),
        ('payable:3', 'customer_pending', 'customer', 1, 'cashback'),
        ('payable:3', 'customer_available', 'customer', -1, 'cashback'),
        ('payable:3', 'margin_pending', 'merchant', 1, 'margin'),
        ('payable:3', 'margin', 'merchant', -1, 'margin'),
        ('declined:2', 'network_receivable', 'merchant', -1, 'commission'),
        ('declined:2', 'customer_pending', 'customer', 1, 'cashback'),
        ('declined:2', 'margin_pending', 'merchant', 1, 'margin'),
        ('reversed:4', 'network_receivable', 'merchant', -1, 'commission'),
        ('reversed:4', 'customer_available', 'customer', 1, 'cashback'),
        ('reversed:4', 'margin', 'merchant', 1, 'margin'),
        ('requested', 'customer_available', 'customer', 1, 'cashback'),
        ('requested', 'customer_in_payout', 'customer', -1, 'cashback'),
        ('paid', 'customer_in_payout', 'customer', 1, 'cashback'),
        ('paid', 'cash', '', -1, 'margin'),
        ('paid', 'payout_fees', '', -1, 'commission')
    """,
    # What a customer is paid: half of one payable order; of it a tenth as fee. Amounts take the columns of orders.
    """
    CREATE TEMP TABLE bench_payouts AS
    SELECT uuidv7(at - now()) AS id, customer_id, at, amount, amount / 10 AS fee
    FROM (SELECT customer_id, max(at) + make_interval(days => $hold + 1) AS at, min(cashback) / 2 AS amount
          FROM bench_orders WHERE status = 'payable' GROUP BY customer_id) o
    WHERE at < date_trunc('day', now()) - interval '1 day'
    """,
    """
    INSERT INTO payout_methods (id, customer_id, kind, details_encrypted, masked, fingerprint, usable_from)
    SELECT click_id, id, 'email', '', '***', decode(md5(n::text), 'hex'), now() FROM bench_customers
    """,
    """
    INSERT INTO payouts (id, customer_id, method_id, currency, amount_minor, fee_minor, status, provider, created_at)
    SELECT p.id, p.customer_id, c.click_id, 'PKR', p.amount, p.fee, 'paid', 'batch', p.at
    FROM bench_payouts p JOIN bench_customers c ON c.id = p.customer_id ORDER BY p.at
    """,
    """
    CREATE TEMP TABLE bench_transfers AS
    SELECT row_number() OVER (ORDER BY at) AS n, uuidv7(at - now()) AS id, e.*
    FROM (SELECT 'order' AS cause_type, o.id AS cause_id, step, at + wait AS at, customer_id, merchant_id,
                 cashback::bigint, commission::bigint, (commission - cashback)::bigint AS margin
          FROM bench_orders o
          CROSS JOIN LATERAL (VALUES
              ('pending:1', interval '1 minute', true),
              ('payable:3', make_interval(days => $hold), status IN ('payable', 'reversed')),
              ('declined:2', interval '5 days', status = 'declined'),
              ('reversed:4', make_interval(days => $hold) + interval '1 hour', status = 'reversed')
          ) step(step, wait, happens)
          WHERE happens
          UNION ALL
          SELECT 'payout', p.id, step, at + wait, customer_id, NULL, amount, fee, amount - fee
          FROM bench_payouts p
          CROSS JOIN (VALUES ('requested', interval '0'), ('paid', interval '1 day')) step(step, wait)) e
    """,
    """
    INSERT INTO transfers (id, cause_type, cause_id, purpose, details, created_at)
    SELECT id, cause_type, cause_id, step, '{}', at FROM bench_transfers ORDER BY n
    """,
    """
    INSERT INTO postings (transfer_id, account, merchant_id, customer_id, currency, amount_minor, created_at)
    SELECT t.id, l.account, CASE WHEN l.whose = 'merchant' THEN merchant_id END,
           CASE WHEN l.whose = 'customer' THEN customer_id END, 'PKR',
           l.sign * CASE l.amount WHEN 'cashback' THEN cashback WHEN 'commission' THEN commission ELSE margin END, at
    FROM bench_transfers t JOIN bench_lines l USING (step)
    ORDER BY t.n
    """,
    """
    INSERT INTO wallets (customer_id, currency, pending_minor, available_minor, in_payout_minor, paid_minor)
    SELECT customer_id, currency, pending, available, in_payout, coalesce(paid, 0)
    FROM (SELECT customer_id, currency,
                 -coalesce(sum(amount_minor) FILTER (WHERE account = 'customer_pending'), 0) AS pending,
                 -coalesce(sum(amount_minor) FILTER (WHERE account = 'customer_available'), 0) AS available,
                 -coalesce(sum(amount_minor) FILTER (WHERE account = 'customer_in_payout'), 0) AS in_payout
          FROM postings WHERE customer_id IS NOT NULL GROUP BY customer_id, currency) p
    LEFT JOIN (SELECT customer_id, sum(amount) AS paid FROM bench_payouts GROUP BY customer_id) q USING (customer_id)
    """,
    "DROP TABLE bench_customers, bench_orders, bench_lines, bench_payouts, bench_transfers",
)


async def load_ledger(settings: Settings, *, postings: int) -> int:
    """Fill a migrated database of the embedded PostgreSQL with about so many postings over 90 days; returns how many.

    As its superuser: checking each transfer at commit, one by one, would take most of an hour.
    """
    async with transaction() as session:
        first = await make_merchant(session)
        for _ in range(MERCHANTS - 1):
            await make_merchant(session, source_id=first.source_id)
    orders = max(100, round(postings / _POSTINGS_PER_ORDER))
    values = {
        "$merchants": MERCHANTS,
        "$merchant": first.id,
        "$source": first.source_id,
        "$customers": max(10, orders // _ORDERS_PER_CUSTOMER),
        "$orders": orders,
        "$days": DAYS,
        "$hold": HOLD_DAYS,
    }
    connection = await asyncpg.connect(superuser_url(settings))
    try:
        await connection.execute("SET session_replication_role = replica; SET work_mem = '256MB'; SET jit = off")
        async with connection.transaction():
            for statement in (*_WORLD, *LEDGER):
                await connection.execute(fill(statement, values), timeout=3600)
        await connection.execute("VACUUM ANALYZE", timeout=3600)
        count: int = await connection.fetchval("SELECT count(*) FROM postings")
    finally:
        await connection.close()
    return count


def fill(statement: str, values: Mapping[str, object]) -> str:
    """Put values in place of their names; of names that begin alike the longer one comes first."""
    for name, value in values.items():
        statement = statement.replace(name, str(value))
    return statement


def superuser_url(settings: Settings) -> str:
    """Return the URL of the embedded PostgreSQL's superuser."""
    return settings.database_url.replace("//cashback:", "//postgres:", 1)
