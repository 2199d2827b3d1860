"""Orders by what their source calls them, for reports that name no click.

Revision ID: 9d41c7e5a208
Revises: 7e1b4d90c6aa
"""

from collections.abc import Sequence

from alembic import op

revision: str = "9d41c7e5a208"
down_revision: str | None = "7e1b4d90c6aa"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Built without keeping writers waiting, which no transaction can: repeating it is harmless.
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_orders_source_id_external_id")
        op.execute("CREATE INDEX CONCURRENTLY ix_orders_source_id_external_id ON orders (source_id, external_id)")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.drop_index("ix_orders_source_id_external_id", table_name="orders")
