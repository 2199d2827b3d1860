"""Why an account is frozen.

Revision ID: 6a0d4f1b7c35
Revises: 3f6b9a5c1d20
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "6a0d4f1b7c35"
down_revision: str | None = "3f6b9a5c1d20"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '4s'")
    # Without a default: nothing is rewritten.
    op.add_column("customers", sa.Column("frozen_reason", sa.Text(), nullable=True))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.drop_column("customers", "frozen_reason")
