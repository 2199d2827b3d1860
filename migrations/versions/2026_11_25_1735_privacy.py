"""Exports of customers' data; hashes of clicks' addresses; raw bytes of events that are erased.

Revision ID: 3f0b7a5c91de
Revises: 7c1d0e5a93b4
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "3f0b7a5c91de"
down_revision: str | None = "7c1d0e5a93b4"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # First, as it is built without keeping writers waiting, which no transaction can: repeating it is harmless.
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_notifications_customer")
        op.execute("CREATE INDEX CONCURRENTLY ix_notifications_customer ON notifications ((data ->> 'customer_id'))")
    # Columns without a default are a change of the catalogue alone, however large the table is.
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.create_table(
        "data_exports",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("customer_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("attempt_id", sa.Uuid(), nullable=True),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("requested_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("status IN ('queued', 'building', 'ready', 'failed')", name=op.f("ck_data_exports_status")),
        sa.CheckConstraint(
            "(status = 'ready') <= (ready_at IS NOT NULL AND expires_at IS NOT NULL AND size_bytes IS NOT NULL)",
            name=op.f("ck_data_exports_ready"),
        ),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name=op.f("fk_data_exports_customer_id_customers")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_data_exports")),
    )
    op.create_index("uq_data_exports_customer", "data_exports", ["customer_id"], unique=True)
    op.create_index(
        "ix_data_exports_unfinished", "data_exports", ["id"], postgresql_where="status IN ('queued', 'building')"
    )
    op.create_index(op.f("ix_data_exports_expires_at"), "data_exports", ["expires_at"])
    op.create_table(
        "data_export_parts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("export_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("content_encrypted", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["export_id"],
            ["data_exports.id"],
            name=op.f("fk_data_export_parts_export_id_data_exports"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_data_export_parts")),
        sa.UniqueConstraint("export_id", "number", name=op.f("uq_data_export_parts_export_id_number")),
    )
    op.add_column("clicks", sa.Column("address_hint", sa.LargeBinary(), nullable=True))
    op.add_column("webhook_events", sa.Column("erased_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.drop_index("ix_notifications_customer", table_name="notifications")
    op.drop_column("webhook_events", "erased_at")
    op.drop_column("clicks", "address_hint")
    op.drop_table("data_export_parts")
    op.drop_table("data_exports")
