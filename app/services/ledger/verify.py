"""The invariants of the ledger, each as one statement that returns the ids that break it.

Run by `cashback ledger verify`, by the schedule, and after every test that moves money. The statements aggregate in
PostgreSQL; nothing but violations comes out.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app import metrics

MOST_SHOWN = 20
# For one invariant: these scan whole tables, and the limits for requests do not fit them.
_TIMEOUT_SECONDS = 1800


@dataclass(frozen=True, slots=True)
class Invariant:
    """A rule; `statement` returns (id, detail) of what breaks it."""

    name: str
    rule: str
    statement: str


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that breaks a rule."""

    invariant: str
    id: str
    detail: str


INVARIANTS = (
    Invariant(
        "transfers_balance",
        "Each transfer has two or more postings that sum to zero in each currency.",
        """
        SELECT t.id::text, coalesce(string_agg(p.currency || ' ' || p.total, ', '), 'no postings')
        FROM transfers t
        LEFT JOIN (SELECT transfer_id, currency, sum(amount_minor) AS total, count(*) AS lines
                   FROM postings GROUP BY transfer_id, currency) p ON p.transfer_id = t.id
        GROUP BY t.id HAVING coalesce(bool_or(p.total <> 0 OR p.lines < 2), true)
        """,
    ),
    Invariant(
        "trial_balance",
        "All postings together sum to zero in each currency.",
        "SELECT currency, sum(amount_minor)::text FROM postings GROUP BY currency HAVING sum(amount_minor) <> 0",
    ),
    Invariant(
        "wallets_equal_postings",
        "Each wallet equals the sum of its postings.",
        """
        SELECT coalesce(w.customer_id, p.customer_id) || ' ' || coalesce(w.currency, p.currency),
               format('wallet %s/%s/%s, postings %s/%s/%s', w.pending_minor, w.available_minor, w.in_payout_minor,
                      p.pending, p.available, p.in_payout)
        FROM wallets w
        FULL JOIN (SELECT customer_id, currency,
                          -coalesce(sum(amount_minor) FILTER (WHERE account = 'customer_pending'), 0) AS pending,
                          -coalesce(sum(amount_minor) FILTER (WHERE account = 'customer_available'), 0) AS available,
                          -coalesce(sum(amount_minor) FILTER (WHERE account = 'customer_in_payout'), 0) AS in_payout
                   FROM postings WHERE customer_id IS NOT NULL GROUP BY customer_id, currency) p
          ON p.customer_id = w.customer_id AND p.currency = w.currency
        WHERE (coalesce(w.pending_minor, 0), coalesce(w.available_minor, 0), coalesce(w.in_payout_minor, 0))
              IS DISTINCT FROM (coalesce(p.pending, 0), coalesce(p.available, 0), coalesce(p.in_payout, 0))
        """,
    ),
    Invariant(
        "available_negative_only_by_clawback",
        "Available money is below zero only where an order was reversed after it had become payable.",
        """
        SELECT w.customer_id || ' ' || w.currency, w.available_minor::text
        FROM wallets w
        WHERE w.available_minor < 0 AND NOT EXISTS (
            SELECT FROM orders o JOIN order_changes c ON c.order_id = o.id
            WHERE o.customer_id = w.customer_id AND o.currency = w.currency AND c.status IN ('reversed', 'payable')
            GROUP BY o.id HAVING count(*) > 1)
        """,
    ),
    Invariant(
        "orders_equal_postings",
        "Each order's postings equal its commission, cashback and margin in its state.",
        """
        WITH expected AS (
            SELECT id,
                   CASE WHEN status NOT IN ('declined', 'reversed') THEN commission_minor ELSE 0 END AS receivable,
                   CASE WHEN status IN ('pending', 'approved') THEN cashback_minor ELSE 0 END AS pending,
                   CASE WHEN status = 'payable' THEN cashback_minor ELSE 0 END AS available,
                   CASE WHEN status IN ('pending', 'approved') THEN commission_minor - cashback_minor ELSE 0 END
                       AS margin_pending,
                   CASE WHEN status = 'payable' THEN commission_minor - cashback_minor ELSE 0 END AS margin
            FROM orders
        ), posted AS (
            SELECT t.cause_id AS id,
                   coalesce(sum(p.amount_minor) FILTER (WHERE account = 'network_receivable'), 0) AS receivable,
                   -coalesce(sum(p.amount_minor) FILTER (WHERE account = 'customer_pending'), 0) AS pending,
                   -coalesce(sum(p.amount_minor) FILTER (WHERE account = 'customer_available'), 0) AS available,
                   -coalesce(sum(p.amount_minor) FILTER (WHERE account = 'margin_pending'), 0) AS margin_pending,
                   -coalesce(sum(p.amount_minor) FILTER (WHERE account = 'margin'), 0) AS margin
            FROM transfers t JOIN postings p ON p.transfer_id = t.id
            WHERE t.cause_type = 'order' GROUP BY t.cause_id
        )
        SELECT coalesce(e.id, p.id)::text,
               format('expected %s/%s/%s/%s/%s, posted %s/%s/%s/%s/%s', e.receivable, e.pending, e.available,
                      e.margin_pending, e.margin, p.receivable, p.pending, p.available, p.margin_pending, p.margin)
        FROM expected e FULL JOIN posted p ON p.id = e.id
        WHERE e.id IS NULL
           OR (e.receivable, e.pending, e.available, e.margin_pending, e.margin) IS DISTINCT FROM
              (coalesce(p.receivable, 0), coalesce(p.pending, 0), coalesce(p.available, 0),
               coalesce(p.margin_pending, 0), coalesce(p.margin, 0))
        """,
    ),
    Invariant(
        "one_transfer_a_cause",
        "No cause has two transfers for the same purpose.",
        """
        SELECT cause_id::text, cause_type || ' ' || purpose || ' × ' || count(*)
        FROM transfers GROUP BY cause_type, cause_id, purpose HAVING count(*) > 1
        """,
    ),
    Invariant(
        "receivable_equals_unsettled_orders",
        "What networks owe for a merchant equals the commission of its live orders not yet settled.",
        """
        WITH owed AS (
            SELECT merchant_id, currency, sum(commission_minor) AS total FROM orders
            WHERE status IN ('pending', 'approved', 'payable') GROUP BY merchant_id, currency
        ), booked AS (
            SELECT merchant_id, currency, sum(amount_minor) AS total FROM postings
            WHERE account = 'network_receivable' GROUP BY merchant_id, currency
        )
        SELECT coalesce(o.merchant_id, b.merchant_id) || ' ' || coalesce(o.currency, b.currency),
               format('orders %s, receivable %s', coalesce(o.total, 0), coalesce(b.total, 0))
        FROM owed o FULL JOIN booked b ON b.merchant_id = o.merchant_id AND b.currency = o.currency
        WHERE coalesce(o.total, 0) <> coalesce(b.total, 0)
        """,
    ),
)


async def verify(session: AsyncSession) -> list[Violation]:
    """Check every invariant in one snapshot; returns the violations, at most MOST_SHOWN of each rule."""
    # One snapshot for all rules: money that moves meanwhile must not look like a violation.
    await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
    return await violations(session)


async def violations(session: AsyncSession) -> list[Violation]:
    """Check every invariant in the caller's transaction, whatever its isolation."""
    await session.execute(text(f"SET LOCAL statement_timeout = '{_TIMEOUT_SECONDS}s'"))
    # The driver's own connection: only its fetch() takes a time limit beside the one of its `command_timeout`.
    connection: Any = (await (await session.connection()).get_raw_connection()).driver_connection
    found: list[Violation] = []
    for invariant in INVARIANTS:
        statement = f"SELECT * FROM ({invariant.statement}) v LIMIT {MOST_SHOWN}"  # noqa: S608 - our own constants
        rows = await connection.fetch(statement, timeout=_TIMEOUT_SECONDS)
        metrics.LEDGER_VIOLATIONS.labels(invariant.name).set(len(rows))
        found += [Violation(invariant.name, str(row[0]), str(row[1])) for row in rows]
    return found
