"""An index of the events whose raw bytes are still there.

Revision ID: 6c2d9f0e81ab
Revises: 5a1e8c47d2f0
"""

from collections.abc import Sequence

from alembic import op

revision: str = "6c2d9f0e81ab"
down_revision: str | None = "5a1e8c47d2f0"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Built beside the writers, however large the table is; one that was left half built is built anew.
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_webhook_events_raw")
        op.execute("CREATE INDEX CONCURRENTLY ix_webhook_events_raw ON webhook_events (id) WHERE erased_at IS NULL")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_webhook_events_raw")
