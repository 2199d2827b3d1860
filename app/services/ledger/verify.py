"""The invariants of the ledger, each as one statement that returns the ids that break it.

Run by `cashback ledger verify`, by the schedule, and after every test that moves money. The statements aggregate in
PostgreSQL; nothing but violations comes out.

Each can be checked for a slice of its keys alone. Where a statement says `within(column)`, the slice's bounds are put
in, or `true` for all at once. So every table and subquery that it adds up needs one, on a column that an index leads.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

MOST_SHOWN = 20
# Of one statement.
TIMEOUT_SECONDS = 1800


@dataclass(frozen=True, slots=True)
class Keys:
    """What slices of a rule are cut by: columns of a table, in the order of an index, and their types."""

    table: str
    columns: tuple[str, ...] = ("id",)
    types: tuple[str, ...] = ("uuid",)
    # In a small slice, such as takes milliseconds.
    rows: int = 2_000


TRANSFERS = Keys("transfers")
CAUSES = Keys("transfers", ("cause_type", "cause_id"), ("text", "uuid"))
CUSTOMERS = Keys("wallets", ("customer_id",))
ORDERS = Keys("orders")
PAYOUTS = Keys("payouts")
# Each of these has payouts by the thousand.
BATCHES = Keys("payout_batches", rows=1)
# Settlements and their lines both cause transfers; there are more of the lines.
SETTLEMENTS = Keys("settlement_lines")
# Each of these has orders without number.
CAMPAIGNS = Keys("campaigns", rows=10)
CLAWBACKS = Keys("clawbacks")
REFERRALS = Keys("referrals")
MERCHANTS = Keys("merchants", types=("integer",), rows=10)

_WITHIN = re.compile(r"within\(([^()]+)\)")


@dataclass(frozen=True, slots=True)
class Invariant:
    """A rule; `statement` returns (id, detail) of what breaks it, within a slice of `keys`."""

    name: str
    rule: str
    keys: Keys
    statement: str

    @property
    def whole(self) -> str:
        """The statement for everything at once."""
        return _WITHIN.sub("true", self.statement)

    def within(self, condition: Callable[[str], str]) -> str:
        """Return the statement for those keys that a condition on their columns admits."""
        return _WITHIN.sub(lambda match: condition(match[1]), self.statement)


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
        TRANSFERS,
        """
        SELECT t.id::text, coalesce(string_agg(p.currency || ' ' || p.total, ', '), 'no postings')
        FROM transfers t
        LEFT JOIN (SELECT transfer_id, currency, sum(amount_minor) AS total, count(*) AS lines
                   FROM postings WHERE within(transfer_id) GROUP BY transfer_id, currency) p ON p.transfer_id = t.id
        WHERE within(t.id)
        GROUP BY t.id HAVING coalesce(bool_or(p.total <> 0 OR p.lines < 2), true)
        """,
    ),
    Invariant(
        "trial_balance",
        "All postings together sum to zero in each currency.",
        TRANSFERS,
        """
        SELECT currency, sum(amount_minor)::text FROM postings WHERE within(transfer_id)
        GROUP BY currency HAVING sum(amount_minor) <> 0
        """,
    ),
    Invariant(
        "wallets_equal_postings",
        "Each wallet equals the sum of its postings, and what it says was paid the payouts that were.",
        CUSTOMERS,
        """
        WITH wallet AS (
            SELECT customer_id, currency, pending_minor, available_minor, in_payout_minor, debt_minor, paid_minor
            FROM wallets WHERE within(customer_id)
        ), posted AS (
            SELECT customer_id, currency,
                   -coalesce(sum(amount_minor) FILTER (WHERE account = 'customer_pending'), 0) AS pending,
                   -coalesce(sum(amount_minor) FILTER (WHERE account = 'customer_available'), 0) AS available,
                   -coalesce(sum(amount_minor) FILTER (WHERE account = 'customer_in_payout'), 0) AS in_payout,
                   coalesce(sum(amount_minor) FILTER (WHERE account = 'customer_debt'), 0) AS debt
            FROM postings WHERE customer_id IS NOT NULL AND within(customer_id) GROUP BY customer_id, currency
        ), paid AS (
            SELECT customer_id, currency, sum(amount_minor) AS paid
            FROM payouts WHERE status = 'paid' AND within(customer_id) GROUP BY customer_id, currency
        )
        SELECT customer_id || ' ' || currency,
               format('wallet %s/%s/%s/%s, postings %s/%s/%s/%s, paid %s, payouts %s', pending_minor, available_minor,
                      in_payout_minor, debt_minor, pending, available, in_payout, debt, paid_minor, paid)
        FROM wallet FULL JOIN posted USING (customer_id, currency) FULL JOIN paid USING (customer_id, currency)
        WHERE (coalesce(pending_minor, 0), coalesce(available_minor, 0), coalesce(in_payout_minor, 0),
               coalesce(debt_minor, 0), coalesce(paid_minor, 0))
              IS DISTINCT FROM (coalesce(pending, 0), coalesce(available, 0), coalesce(in_payout, 0),
                                coalesce(debt, 0), coalesce(paid, 0))
        """,
    ),
    Invariant(
        "available_negative_only_by_clawback",
        "Available money is below zero only where something was taken back after it had become available.",
        CUSTOMERS,
        """
        SELECT w.customer_id || ' ' || w.currency, w.available_minor::text
        FROM wallets w
        WHERE w.available_minor < 0 AND within(w.customer_id)
          AND NOT EXISTS (
            SELECT FROM orders o JOIN order_changes c ON c.order_id = o.id
            WHERE o.customer_id = w.customer_id AND o.currency = w.currency AND c.status IN ('reversed', 'payable')
            GROUP BY o.id HAVING count(*) > 1)
          AND NOT EXISTS (
            SELECT FROM referrals r
            WHERE w.customer_id IN (r.referrer_id, r.invited_id) AND r.currency = w.currency AND r.revision > 1)
        """,
    ),
    Invariant(
        "orders_equal_postings",
        "Each order's postings equal its commission, cashback, boosts and margin in its state.",
        ORDERS,
        """
        SELECT id::text,
               format('%s %s: expected %s, posted %s', account, currency, sum(expected), sum(posted))
        FROM (
            SELECT id, line.account, line.currency, line.amount AS expected, 0::bigint AS posted
            FROM orders CROSS JOIN LATERAL (VALUES
                ('network_receivable', reported_currency, reported_commission_minor),
                ('currency_exchange', reported_currency,
                 CASE WHEN reported_currency <> currency THEN -reported_commission_minor ELSE 0 END),
                ('currency_exchange', currency,
                 CASE WHEN reported_currency <> currency THEN commission_minor ELSE 0 END),
                (CASE WHEN status = 'payable' THEN 'customer_available' ELSE 'customer_pending' END, currency,
                 -cashback_minor),
                ('promotions', currency, boost_minor),
                (CASE WHEN status = 'payable' THEN 'margin' ELSE 'margin_pending' END, currency,
                 -(commission_minor - (cashback_minor - boost_minor)))
            ) line(account, currency, amount)
            WHERE status IN ('pending', 'approved', 'payable') AND line.amount <> 0 AND within(id)
            UNION ALL
            SELECT t.cause_id, p.account, p.currency, 0, p.amount_minor
            FROM transfers t JOIN postings p ON p.transfer_id = t.id
            WHERE t.cause_type = 'order' AND within(t.cause_id)
        ) lines
        GROUP BY id, account, currency HAVING sum(expected) <> sum(posted)
        """,
    ),
    Invariant(
        "payouts_equal_postings",
        "Each payout's postings equal its amount and fee in its state.",
        PAYOUTS,
        """
        WITH position AS (
            SELECT id, line.account, line.amount
            FROM payouts CROSS JOIN LATERAL (VALUES
                ('customer_available', CASE WHEN status NOT IN ('failed', 'rejected') THEN amount_minor ELSE 0 END),
                ('customer_in_payout',
                 CASE WHEN status IN ('requested', 'approved', 'sent') THEN -amount_minor ELSE 0 END),
                ('cash', CASE WHEN status = 'paid' THEN -(amount_minor - fee_minor) ELSE 0 END),
                ('payout_fees', CASE WHEN status = 'paid' THEN -fee_minor ELSE 0 END)
            ) line(account, amount)
            WHERE within(id)
        ), posted AS (
            SELECT t.cause_id AS id, p.account, sum(p.amount_minor) AS amount
            FROM transfers t JOIN postings p ON p.transfer_id = t.id
            WHERE t.cause_type = 'payout' AND within(t.cause_id) GROUP BY t.cause_id, p.account
        )
        SELECT coalesce(e.id, p.id)::text,
               format('%s: expected %s, posted %s', coalesce(e.account, p.account), coalesce(e.amount, 0),
                      coalesce(p.amount, 0))
        FROM position e FULL JOIN posted p ON p.id = e.id AND p.account = e.account
        WHERE coalesce(e.amount, 0) <> coalesce(p.amount, 0)
        """,
    ),
    Invariant(
        "batches_equal_payouts",
        "Each batch for the bank has the payouts, and the control sum, that its files were made with.",
        BATCHES,
        """
        SELECT b.id::text,
               format('closed with %s payouts of %s, has %s of %s', b.payout_count, b.total_minor,
                      coalesce(p.payouts, 0), coalesce(p.total, 0))
        FROM payout_batches b
        LEFT JOIN (SELECT batch_id, count(*) AS payouts, sum(amount_minor - fee_minor) AS total
                   FROM payouts WHERE within(batch_id) GROUP BY batch_id) p ON p.batch_id = b.id
        WHERE within(b.id) AND (b.payout_count, b.total_minor)
              IS DISTINCT FROM (coalesce(p.payouts, 0), coalesce(p.total, 0))
        """,
    ),
    Invariant(
        "settlements_equal_postings",
        "Each settlement's postings equal what was paid, and each resolved line's what was decided.",
        SETTLEMENTS,
        """
        WITH position AS (
            SELECT id, line.account, currency, line.amount
            FROM settlements CROSS JOIN LATERAL (VALUES
                ('cash', total_minor), ('network_receivable', -total_minor)) line(account, amount)
            WHERE within(id)
            UNION ALL
            SELECT l.id, line.account, s.currency, line.amount
            FROM settlement_lines l JOIN settlements s ON s.id = l.settlement_id CROSS JOIN LATERAL (VALUES
                ('network_receivable',
                 CASE l.resolution WHEN 'written_off' THEN -l.resolved_minor ELSE l.resolved_minor END),
                ('bad_debt', CASE l.resolution WHEN 'written_off' THEN l.resolved_minor ELSE 0 END),
                ('margin', CASE l.resolution WHEN 'accepted' THEN -l.resolved_minor ELSE 0 END)
            ) line(account, amount)
            WHERE l.resolution IN ('written_off', 'accepted') AND within(l.id)
        ), posted AS (
            SELECT t.cause_id AS id, p.account, p.currency, sum(p.amount_minor) AS amount
            FROM transfers t JOIN postings p ON p.transfer_id = t.id
            WHERE t.cause_type = 'settlement' AND within(t.cause_id) GROUP BY t.cause_id, p.account, p.currency
        )
        SELECT coalesce(e.id, p.id)::text,
               format('%s %s: expected %s, posted %s', coalesce(e.account, p.account), coalesce(e.currency, p.currency),
                      coalesce(e.amount, 0), coalesce(p.amount, 0))
        FROM position e FULL JOIN posted p ON p.id = e.id AND p.account = e.account AND p.currency = e.currency
        WHERE coalesce(e.amount, 0) <> coalesce(p.amount, 0)
        """,
    ),
    Invariant(
        "settlements_equal_lines",
        "Each settlement's total is the sum of its lines.",
        SETTLEMENTS,
        """
        SELECT s.id::text, format('total %s, lines %s', s.total_minor, coalesce(l.total, 0))
        FROM settlements s
        LEFT JOIN (SELECT settlement_id, sum(amount_minor) AS total FROM settlement_lines
                   WHERE within(settlement_id) GROUP BY settlement_id) l ON l.settlement_id = s.id
        WHERE within(s.id) AND s.total_minor <> coalesce(l.total, 0)
        """,
    ),
    Invariant(
        "orders_equal_settlement_lines",
        "Each order says it was paid, and written off, what the lines say that count for it; all in its own currency.",
        ORDERS,
        """
        WITH paid AS (
            SELECT l.order_id AS id, s.merchant_id, s.currency, sum(l.amount_minor) AS settled,
                   sum(CASE l.resolution WHEN 'written_off' THEN l.resolved_minor
                                         WHEN 'accepted' THEN -l.resolved_minor ELSE 0 END) AS written_off
            FROM settlement_lines l JOIN settlements s ON s.id = l.settlement_id
            WHERE l.order_id IS NOT NULL AND within(l.order_id) GROUP BY l.order_id, s.merchant_id, s.currency
        )
        SELECT coalesce(o.id, p.id)::text,
               format('settled %s and written off %s, lines %s and %s', o.settled_minor, o.written_off_minor,
                      p.settled, p.written_off)
        FROM (SELECT id, merchant_id, reported_currency AS currency, settled_minor, written_off_minor FROM orders
              WHERE within(id) AND (settled_minor <> 0 OR written_off_minor <> 0)) o
        FULL JOIN paid p ON p.id = o.id AND p.merchant_id = o.merchant_id AND p.currency = o.currency
        WHERE (coalesce(o.settled_minor, 0), coalesce(o.written_off_minor, 0))
              IS DISTINCT FROM (coalesce(p.settled, 0), coalesce(p.written_off, 0))
        """,
    ),
    Invariant(
        "campaigns_within_budget",
        "Each campaign has spent what its orders have of it, within its budget.",
        CAMPAIGNS,
        """
        SELECT c.id::text, format('spent %s, orders %s, budget %s', c.spent_minor, coalesce(b.total, 0), c.budget_minor)
        FROM campaigns c
        LEFT JOIN (SELECT campaign_id, sum(amount_minor) AS total FROM order_boosts
                   WHERE within(campaign_id) GROUP BY campaign_id) b ON b.campaign_id = c.id
        WHERE within(c.id) AND (c.spent_minor <> coalesce(b.total, 0) OR c.spent_minor > c.budget_minor)
        """,
    ),
    Invariant(
        "orders_equal_boosts",
        "Each live order's boost is the sum of what campaigns gave it; one that is not live has none.",
        ORDERS,
        """
        SELECT o.id::text, format('boost %s, of campaigns %s', o.boost_minor, coalesce(b.total, 0))
        FROM orders o
        LEFT JOIN (SELECT order_id, sum(amount_minor) AS total FROM order_boosts
                   WHERE within(order_id) GROUP BY order_id) b ON b.order_id = o.id
        WHERE within(o.id) AND coalesce(b.total, 0)
              <> CASE WHEN o.status IN ('declined', 'reversed') THEN 0 ELSE o.boost_minor END
        """,
    ),
    Invariant(
        "clawbacks_equal_postings",
        "Each clawback's postings equal its outstanding debt and what was written off.",
        CLAWBACKS,
        """
        WITH expected AS (
            SELECT id, CASE WHEN policy = 'offset' THEN shortfall_minor - recovered_minor ELSE 0 END AS debt,
                   written_off_minor AS written_off
            FROM clawbacks WHERE within(id)
        ), posted AS (
            SELECT t.cause_id AS id,
                   coalesce(sum(p.amount_minor) FILTER (WHERE account = 'customer_debt'), 0) AS debt,
                   coalesce(sum(p.amount_minor) FILTER (WHERE account = 'bad_debt'), 0) AS written_off
            FROM transfers t JOIN postings p ON p.transfer_id = t.id
            WHERE t.cause_type = 'clawback' AND within(t.cause_id) GROUP BY t.cause_id
        )
        SELECT coalesce(e.id, p.id)::text,
               format('expected %s/%s, posted %s/%s', e.debt, e.written_off, p.debt, p.written_off)
        FROM expected e FULL JOIN posted p ON p.id = e.id
        WHERE (coalesce(e.debt, 0), coalesce(e.written_off, 0))
              IS DISTINCT FROM (coalesce(p.debt, 0), coalesce(p.written_off, 0))
        """,
    ),
    Invariant(
        "referrals_equal_postings",
        "Each referral's postings equal its bonus of each side while it is granted, and nothing otherwise.",
        REFERRALS,
        """
        WITH position AS (
            SELECT id, line.owner, line.amount
            FROM referrals CROSS JOIN LATERAL (VALUES
                ('promotions', referrer_bonus_minor::numeric + invited_bonus_minor),
                (referrer_id::text, -referrer_bonus_minor::numeric),
                (invited_id::text, -invited_bonus_minor::numeric)
            ) line(owner, amount)
            WHERE status = 'granted' AND within(id)
        ), posted AS (
            SELECT t.cause_id AS id, coalesce(p.customer_id::text, p.account) AS owner, sum(p.amount_minor) AS amount
            FROM transfers t JOIN postings p ON p.transfer_id = t.id
            WHERE t.cause_type = 'referral' AND within(t.cause_id)
            GROUP BY t.cause_id, coalesce(p.customer_id::text, p.account)
        )
        SELECT coalesce(e.id, p.id)::text,
               format('%s: expected %s, posted %s', coalesce(e.owner, p.owner), coalesce(e.amount, 0),
                      coalesce(p.amount, 0))
        FROM position e FULL JOIN posted p ON p.id = e.id AND p.owner = e.owner
        WHERE coalesce(e.amount, 0) <> coalesce(p.amount, 0)
        """,
    ),
    Invariant(
        "one_transfer_a_cause",
        "No cause has two transfers for the same purpose.",
        CAUSES,
        """
        SELECT cause_id::text, cause_type || ' ' || purpose || ' × ' || count(*)
        FROM transfers WHERE within(cause_type, cause_id)
        GROUP BY cause_type, cause_id, purpose HAVING count(*) > 1
        """,
    ),
    Invariant(
        "receivable_equals_unsettled_orders",
        "What networks owe for a merchant equals the commission of its live orders less what they paid and we gave up.",
        MERCHANTS,
        """
        WITH owed AS (
            SELECT merchant_id, currency, sum(amount) AS total
            FROM (SELECT merchant_id, reported_currency AS currency, sum(reported_commission_minor) AS amount
                  FROM orders WHERE status IN ('pending', 'approved', 'payable') AND within(merchant_id)
                  GROUP BY merchant_id, reported_currency
                  UNION ALL
                  SELECT s.merchant_id, s.currency, -sum(l.amount_minor)
                         - coalesce(sum(l.resolved_minor) FILTER (WHERE l.resolution = 'written_off'), 0)
                         + coalesce(sum(l.resolved_minor) FILTER (WHERE l.resolution = 'accepted'), 0)
                  FROM settlements s JOIN settlement_lines l ON l.settlement_id = s.id
                  WHERE within(s.merchant_id)
                  GROUP BY s.merchant_id, s.currency) parts
            GROUP BY merchant_id, currency
        ), booked AS (
            SELECT merchant_id, currency, sum(amount_minor) AS total FROM postings
            WHERE account = 'network_receivable' AND within(merchant_id) GROUP BY merchant_id, currency
        )
        SELECT coalesce(o.merchant_id, b.merchant_id) || ' ' || coalesce(o.currency, b.currency),
               format('orders and settlements %s, receivable %s', coalesce(o.total, 0), coalesce(b.total, 0))
        FROM owed o FULL JOIN booked b ON b.merchant_id = o.merchant_id AND b.currency = o.currency
        WHERE coalesce(o.total, 0) <> coalesce(b.total, 0)
        """,
    ),
)


async def violations(session: AsyncSession) -> list[Violation]:
    """Check every invariant as a whole in the caller's transaction: at most MOST_SHOWN violations of each.

    For tests: where there is much, `verify_slices.verify` needs less time and memory.
    """
    await without_timeout(session)
    found: list[Violation] = []
    for invariant in INVARIANTS:
        found += await find(session, invariant, invariant.whole)
    return found


async def find(session: AsyncSession, invariant: Invariant, statement: str, *bounds: str) -> list[Violation]:
    """Run the statement of an invariant, whole or of a slice; returns at most MOST_SHOWN violations."""
    connection = await driver_connection(session)
    shown = f"SELECT * FROM ({statement}) v LIMIT {MOST_SHOWN}"  # noqa: S608 - our own constants
    rows = await connection.fetch(shown, *bounds, timeout=TIMEOUT_SECONDS)
    return [Violation(invariant.name, str(row[0]), str(row[1])) for row in rows]


async def without_timeout(session: AsyncSession) -> None:
    """Let this transaction's statements take long: the limits for requests do not fit them."""
    await session.execute(text(f"SET LOCAL statement_timeout = '{TIMEOUT_SECONDS}s'"))


async def driver_connection(session: AsyncSession) -> Any:  # noqa: ANN401 - asyncpg's, which SQLAlchemy does not type
    """Return the driver's own connection: only its methods take a time limit beside its `command_timeout`.

    A statement of the session's must have begun the transaction.
    """
    return (await (await session.connection()).get_raw_connection()).driver_connection
