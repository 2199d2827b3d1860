"""Fraud rules, and reviews of the orders that they hold.

Revision ID: 5a1e8c47d2f0
Revises: 4b7e9c02d6f1
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "5a1e8c47d2f0"
down_revision: str | None = "4b7e9c02d6f1"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_KINDS = "'click_to_order', 'orders_per_click', 'self_referral', 'shared_payout_method', 'velocity', 'amount_outlier'"
_STATUSES = "'held', 'cleared', 'released', 'rejected'"
_NOW = sa.text("now()")


def upgrade() -> None:
    # New tables alone, and a check of one that has some rows.
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.create_table(
        "fraud_rules",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("merchant_id", sa.Integer(), nullable=True),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("thresholds", postgresql.JSONB(none_as_null=True), nullable=False),
        sa.Column("created_by_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_by_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint(f"kind IN ({_KINDS})", name=op.f("ck_fraud_rules_kind")),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchants.id"], name=op.f("fk_fraud_rules_merchant_id_merchants")),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["staff_keys.id"], name=op.f("fk_fraud_rules_created_by_id_staff_keys")
        ),
        sa.ForeignKeyConstraint(["ended_by_id"], ["staff_keys.id"], name=op.f("fk_fraud_rules_ended_by_id_staff_keys")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fraud_rules")),
        sa.UniqueConstraint(
            "kind",
            "merchant_id",
            "number",
            name=op.f("uq_fraud_rules_kind_merchant_id_number"),
            postgresql_nulls_not_distinct=True,
        ),
    )
    op.create_index(
        "uq_fraud_rules_live",
        "fraud_rules",
        ["kind", "merchant_id"],
        unique=True,
        postgresql_where="ended_at IS NULL",
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "order_reviews",
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("merchant_id", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("findings", postgresql.JSONB(none_as_null=True), nullable=False),
        sa.Column("seen", postgresql.JSONB(none_as_null=True), server_default="{}", nullable=False),
        sa.Column("held_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("decided_by_id", sa.Uuid(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.CheckConstraint(f"status IN ({_STATUSES})", name=op.f("ck_order_reviews_status")),
        sa.CheckConstraint(
            "(status IN ('released', 'rejected')) <= (decided_at IS NOT NULL AND note IS NOT NULL)",
            name=op.f("ck_order_reviews_decided"),
        ),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_order_reviews_order_id_orders")),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchants.id"], name=op.f("fk_order_reviews_merchant_id_merchants")),
        sa.ForeignKeyConstraint(
            ["decided_by_id"], ["staff_keys.id"], name=op.f("fk_order_reviews_decided_by_id_staff_keys")
        ),
        sa.PrimaryKeyConstraint("order_id", name=op.f("pk_order_reviews")),
    )
    op.create_index(op.f("ix_order_reviews_status_order_id"), "order_reviews", ["status", "order_id"])
    op.create_index(
        "ix_order_reviews_held", "order_reviews", ["merchant_id", "held_since"], postgresql_where="status = 'held'"
    )
    op.create_table(
        "order_review_changes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("findings", postgresql.JSONB(none_as_null=True), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("staff_key_id", sa.Uuid(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.CheckConstraint(f"status IN ({_STATUSES})", name=op.f("ck_order_review_changes_status")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_order_review_changes_order_id_orders")),
        sa.ForeignKeyConstraint(
            ["staff_key_id"], ["staff_keys.id"], name=op.f("fk_order_review_changes_staff_key_id_staff_keys")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_order_review_changes")),
    )
    op.create_index(op.f("ix_order_review_changes_order_id_id"), "order_review_changes", ["order_id", "id"])
    op.create_table(
        "order_review_checks",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_order_review_checks_order_id_orders")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_order_review_checks")),
    )
    op.create_index(op.f("ix_order_review_checks_order_id"), "order_review_checks", ["order_id"])
    op.drop_constraint(op.f("ck_alerts_kind"), "alerts", type_="check")
    op.create_check_constraint(
        op.f("ck_alerts_kind"), "alerts", "kind IN ('silence', 'stale_feed', 'waiting_reviews', 'failing_source')"
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.execute("DELETE FROM alerts WHERE kind = 'waiting_reviews'")
    op.drop_constraint(op.f("ck_alerts_kind"), "alerts", type_="check")
    op.create_check_constraint(op.f("ck_alerts_kind"), "alerts", "kind IN ('silence', 'stale_feed', 'failing_source')")
    for table in ("order_review_checks", "order_review_changes", "order_reviews", "fraud_rules"):
        op.drop_table(table)
