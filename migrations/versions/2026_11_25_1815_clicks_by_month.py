"""Clicks in partitions by month, so that old ones can be dropped; an alert for those that no month takes.

Revision ID: 7d3e0a1f92bc
Revises: 9d41c7e5a208
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from alembic import op

revision: str = "7d3e0a1f92bc"
down_revision: str | None = "9d41c7e5a208"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_INDEXES = {
    "ix_clicks_customer_id_id": "customer_id, id",
    "ix_clicks_merchant_id_created_at": "merchant_id, created_at",
}
_REFERENCES = {"customer_id": "customers", "merchant_id": "merchants", "offer_id": "offers"}
_MONTHS_AHEAD = 3
_SUBJECT = "num_nonnulls(merchant_id, source_id) = "
_KINDS = "'silence', 'stale_feed', 'waiting_reviews', 'failing_source'"


def upgrade() -> None:
    """Make the table there is the first partition, without moving a row.

    Ids begin with the time they were made at, so a month is a range of ids and the primary key stays what it was. That all
    ids are below the next month is first checked beside writers (VALIDATE takes no lock that they notice; it reads the
    table once), so that the swap itself is a change of the catalogue: ACCESS EXCLUSIVE on clicks, and SHARE ROW EXCLUSIVE
    on customers, merchants and offers, for some milliseconds, or given up after four seconds. Each step may be repeated.
    """
    # With a day to spare, whatever the clocks of those who write meanwhile say.
    until = _month_after(datetime.now(UTC) + timedelta(days=1))
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = '4s'")
        op.execute("ALTER TABLE orders DROP CONSTRAINT IF EXISTS fk_orders_click_id_clicks")
        op.execute("ALTER TABLE webhook_events DROP CONSTRAINT IF EXISTS fk_webhook_events_matched_click_id_clicks")
        op.execute("ALTER TABLE clicks DROP CONSTRAINT IF EXISTS ck_clicks_before")
        op.execute(f"ALTER TABLE clicks ADD CONSTRAINT ck_clicks_before CHECK (id < '{_first_id(until)}') NOT VALID")
        op.execute("ALTER TABLE clicks VALIDATE CONSTRAINT ck_clicks_before")
        op.execute("RESET lock_timeout")
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.execute("ALTER TABLE clicks RENAME TO clicks_first")
    op.execute("ALTER TABLE clicks_first RENAME CONSTRAINT pk_clicks TO pk_clicks_first")
    for name in _INDEXES:
        op.execute(f"ALTER INDEX {name} RENAME TO {name.replace('clicks', 'clicks_first')}")
    op.execute(
        "CREATE TABLE clicks (LIKE clicks_first INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)"
        " PARTITION BY RANGE (id)"
    )
    op.execute("ALTER TABLE clicks DROP CONSTRAINT ck_clicks_before")
    _add_keys()
    op.execute(f"ALTER TABLE clicks ATTACH PARTITION clicks_first FOR VALUES FROM (MINVALUE) TO ('{_first_id(until)}')")
    op.execute("ALTER TABLE clicks_first DROP CONSTRAINT ck_clicks_before")
    for _ in range(_MONTHS_AHEAD):
        after = _month_after(until)
        op.execute(
            f"CREATE TABLE clicks_{until:%Y_%m} PARTITION OF clicks"
            f" FOR VALUES FROM ('{_first_id(until)}') TO ('{_first_id(after)}')"
        )
        until = after
    op.execute("CREATE TABLE clicks_stray PARTITION OF clicks DEFAULT")
    _allow_alerts(f"{_KINDS}, 'stray_clicks'", "CASE kind WHEN 'stray_clicks' THEN 0 ELSE 1 END")


def downgrade() -> None:
    """Put all clicks back into one table: every row is copied, and nobody can click meanwhile."""
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.execute("DELETE FROM alerts WHERE kind = 'stray_clicks'")
    _allow_alerts(_KINDS, "1")
    op.execute("ALTER TABLE clicks RENAME TO clicks_by_month")
    op.execute("ALTER TABLE clicks_by_month RENAME CONSTRAINT pk_clicks TO pk_clicks_by_month")
    for name in _INDEXES:
        op.execute(f"ALTER INDEX {name} RENAME TO {name}_by_month")
    op.execute("CREATE TABLE clicks (LIKE clicks_by_month INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)")
    op.execute("INSERT INTO clicks SELECT * FROM clicks_by_month")
    op.execute("DROP TABLE clicks_by_month")
    _add_keys()
    for table, column in (("orders", "click_id"), ("webhook_events", "matched_click_id")):
        op.create_foreign_key(op.f(f"fk_{table}_{column}_clicks"), table, "clicks", [column], ["id"])


def _add_keys() -> None:
    op.execute("ALTER TABLE clicks ADD CONSTRAINT pk_clicks PRIMARY KEY (id)")
    for name, columns in _INDEXES.items():
        op.execute(f"CREATE INDEX {name} ON clicks ({columns})")
    for column, table in _REFERENCES.items():
        op.create_foreign_key(op.f(f"fk_clicks_{column}_{table}"), "clicks", table, [column], ["id"])


def _allow_alerts(kinds: str, subjects: str) -> None:
    for name, condition in (("kind", f"kind IN ({kinds})"), ("subject", _SUBJECT + subjects)):
        op.drop_constraint(op.f(f"ck_alerts_{name}"), "alerts", type_="check")
        op.create_check_constraint(op.f(f"ck_alerts_{name}"), "alerts", condition)


def _first_id(moment: datetime) -> UUID:
    return UUID(int=int(moment.timestamp() * 1000) << 80)


def _month_after(moment: datetime) -> datetime:
    return datetime(moment.year + moment.month // 12, moment.month % 12 + 1, 1, tzinfo=UTC)
