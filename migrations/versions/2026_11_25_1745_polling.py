"""Sources that are polled: their state, what was last heard of each item, and the rows that deltas consist of.

Revision ID: 4b7e9c02d6f1
Revises: 4e9b27c6d1f8
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "4b7e9c02d6f1"
down_revision: str | None = "4e9b27c6d1f8"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_NOW = sa.text("now()")


def upgrade() -> None:
    # New tables, and a column without a default: nothing is rewritten, and old code runs beside it.
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.create_table(
        "pollers",
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default="true", nullable=False),
        sa.Column("interval_seconds", sa.Integer(), nullable=False),
        sa.Column("values", postgresql.JSONB(none_as_null=True), server_default="{}", nullable=False),
        sa.Column("credentials_kind", sa.Text(), nullable=True),
        sa.Column("credentials_encrypted", sa.LargeBinary(), nullable=True),
        sa.Column("credentials_origin", sa.Text(), nullable=True),
        sa.Column("next_poll_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("attempt_id", sa.Uuid(), nullable=True),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("checkpoint", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("watermarks", postgresql.JSONB(none_as_null=True), server_default="{}", nullable=False),
        sa.Column("fetched", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("added", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("last_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_success_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.CheckConstraint(
            "credentials_kind IN ('basic', 'bearer', 'header', 'query', 'path')",
            name=op.f("ck_pollers_credentials_kind"),
        ),
        sa.CheckConstraint(
            "num_nonnulls(credentials_kind, credentials_encrypted, credentials_origin) IN (0, 3)",
            name=op.f("ck_pollers_credentials"),
        ),
        sa.CheckConstraint("interval_seconds >= 60", name=op.f("ck_pollers_interval_seconds")),
        sa.CheckConstraint("failures >= 0 AND fetched >= 0 AND added >= 0", name=op.f("ck_pollers_counts")),
        sa.CheckConstraint("(attempt_id IS NULL) = (claimed_until IS NULL)", name=op.f("ck_pollers_claim")),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name=op.f("fk_pollers_source_id_sources")),
        sa.PrimaryKeyConstraint("source_id", name=op.f("pk_pollers")),
    )
    op.create_index("ix_pollers_due", "pollers", ["next_poll_at"], postgresql_where="enabled")
    op.create_table(
        "polled_items",
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("item_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("revision", sa.Integer(), server_default="1", nullable=False),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name=op.f("fk_polled_items_source_id_sources")),
        sa.PrimaryKeyConstraint("source_id", "item_id", name=op.f("pk_polled_items")),
    )
    op.add_column("order_reports", sa.Column("row_id", sa.Text(), nullable=True))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.drop_column("order_reports", "row_id")
    op.drop_table("polled_items")
    op.drop_index("ix_pollers_due", table_name="pollers", postgresql_where="enabled")
    op.drop_table("pollers")
