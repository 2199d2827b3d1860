"""Feeds of every shape: formats, credentials, limits, deltas, and syncs that go on where a lost worker stopped.

Revision ID: 7d0c5be1f4a2
Revises: 2b4a363f223e
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "7d0c5be1f4a2"
down_revision: str | None = "2b4a363f223e"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Expand first: add what the new code needs, so that the old code still runs beside it.
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.create_table(
        "feed_hosts",
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("next_call_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("host", name=op.f("pk_feed_hosts")),
    )
    op.add_column("feeds", sa.Column("credentials_kind", sa.Text(), nullable=True))
    op.add_column("feeds", sa.Column("credentials_encrypted", sa.LargeBinary(), nullable=True))
    op.add_column("feeds", sa.Column("max_bytes", sa.BigInteger(), nullable=True))
    op.add_column("feeds", sa.Column("max_rows", sa.Integer(), nullable=True))
    op.add_column("feeds", sa.Column("max_seconds", sa.Integer(), nullable=True))
    op.add_column("feeds", sa.Column("calls_a_minute", sa.Integer(), nullable=True))
    op.add_column("sync_runs", sa.Column("checkpoint", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.drop_constraint(op.f("ck_feeds_format"), "feeds", type_="check")
    op.create_check_constraint(op.f("ck_feeds_format"), "feeds", "format IN ('json', 'ndjson', 'csv', 'xml')")
    op.create_check_constraint(
        op.f("ck_feeds_credentials_kind"),
        "feeds",
        "credentials_kind IN ('basic', 'bearer', 'header', 'query', 'path')",
    )
    op.create_check_constraint(
        op.f("ck_feeds_credentials"), "feeds", "(credentials_kind IS NULL) = (credentials_encrypted IS NULL)"
    )
    op.create_check_constraint(
        op.f("ck_feeds_limits"), "feeds", "max_bytes > 0 AND max_rows > 0 AND max_seconds > 0 AND calls_a_minute > 0"
    )
    # Staged rows are of no use to other code than that which staged them: a sync of the old code that is under way
    # fails at its next batch, is put back, and starts again.
    op.drop_table("offer_staging")
    _create_staging("run_id", sa.Column("deleted", sa.Boolean(), nullable=False))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '4s'")
    # What only the newer schema can read has no place in the older one.
    op.execute("DELETE FROM feeds WHERE format NOT IN ('json', 'csv')")
    op.drop_table("offer_staging")
    _create_staging("attempt_id")
    op.drop_constraint(op.f("ck_feeds_limits"), "feeds", type_="check")
    op.drop_constraint(op.f("ck_feeds_credentials"), "feeds", type_="check")
    op.drop_constraint(op.f("ck_feeds_credentials_kind"), "feeds", type_="check")
    op.drop_constraint(op.f("ck_feeds_format"), "feeds", type_="check")
    op.create_check_constraint(op.f("ck_feeds_format"), "feeds", "format IN ('json', 'csv')")
    op.drop_column("sync_runs", "checkpoint")
    for column in (
        "calls_a_minute",
        "max_seconds",
        "max_rows",
        "max_bytes",
        "credentials_encrypted",
        "credentials_kind",
    ):
        op.drop_column("feeds", column)
    op.drop_table("feed_hosts")


def _create_staging(key: str, *more: sa.Column[bool]) -> None:
    op.create_table(
        "offer_staging",
        sa.Column(key, sa.Uuid(), nullable=False),
        sa.Column("row_number", sa.Integer(), nullable=False),
        sa.Column("offer_id", sa.Uuid(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("brand", sa.Text(), nullable=True),
        sa.Column("category_slug", sa.Text(), nullable=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("image_url", sa.Text(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("price_minor", sa.BigInteger(), nullable=False),
        sa.Column("price_max_minor", sa.BigInteger(), nullable=False),
        sa.Column("available", sa.Boolean(), nullable=False),
        *more,
        sa.Column("content_hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint(key, "row_number", name=op.f("pk_offer_staging")),
        prefixes=["UNLOGGED"],
    )
