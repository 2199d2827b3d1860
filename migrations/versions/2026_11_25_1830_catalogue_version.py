"""A version of the catalogue, by which finished answers are known to be as they were; merchants by name.

Revision ID: 3f6b9a5c1d20
Revises: 7d3e0a1f92bc
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "3f6b9a5c1d20"
down_revision: str | None = "7d3e0a1f92bc"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Expand first: add what the new code needs, so that the old code still runs beside it.
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.create_table(
        "catalogue_version",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_catalogue_version_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_catalogue_version")),
    )
    op.execute("INSERT INTO catalogue_version (id, version) VALUES (1, 1)")
    # Merchants are few: made within the time that a writer may wait.
    op.create_index(op.f("ix_merchants_name_id"), "merchants", ["name", "id"])


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.drop_index(op.f("ix_merchants_name_id"), table_name="merchants")
    op.drop_table("catalogue_version")
