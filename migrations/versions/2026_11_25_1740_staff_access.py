"""Members of staff and what their keys may do, the audit log, proposals for four eyes, keys of merchants.

Revision ID: 4e9b27c6d1f8
Revises: 3f0b7a5c91de
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "4e9b27c6d1f8"
down_revision: str | None = "3f0b7a5c91de"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_NOW = sa.text("now()")


def _time(name: str, *, default: bool = False, nullable: bool = True) -> sa.Column[object]:
    return sa.Column(
        name, sa.DateTime(timezone=True), server_default=_NOW if default else None, nullable=nullable and not default
    )


def _staff_key(table: str, column: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], ["staff_keys.id"], name=op.f(f"fk_{table}_{column}_staff_keys"))


def upgrade() -> None:
    # Expand first: add what the new code needs, so that the old code still runs beside it.
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.create_table(
        "staff_members",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        _time("created_at", default=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_staff_members")),
    )
    op.create_index("uq_staff_members_name", "staff_members", [sa.text("lower(name)")], unique=True)
    op.add_column("staff_keys", sa.Column("member_id", sa.Uuid(), nullable=True))
    op.add_column("staff_keys", sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=True))
    op.add_column("staff_keys", sa.Column("created_by_id", sa.Uuid(), nullable=True))
    op.add_column("staff_keys", _time("last_used_at"))
    op.create_foreign_key(
        op.f("fk_staff_keys_member_id_staff_members"), "staff_keys", "staff_members", ["member_id"], ["id"]
    )
    op.create_foreign_key(
        op.f("fk_staff_keys_created_by_id_staff_keys"), "staff_keys", "staff_keys", ["created_by_id"], ["id"]
    )
    op.create_check_constraint(op.f("ck_staff_keys_scopes"), "staff_keys", "cardinality(scopes) > 0")
    op.create_index(op.f("ix_staff_keys_member_id"), "staff_keys", ["member_id"])
    # Keys of one name are taken to be of one person: of two, they might confirm each other.
    op.execute(
        "INSERT INTO staff_members (id, name) SELECT gen_random_uuid(), min(name) FROM staff_keys GROUP BY lower(name)"
    )
    op.execute(
        "UPDATE staff_keys SET member_id = m.id FROM staff_members m WHERE lower(m.name) = lower(staff_keys.name)"
    )
    _create_audit_log()
    _create_proposals()
    _create_merchant_keys()


def _create_audit_log() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("member_id", sa.Uuid(), nullable=True),
        sa.Column("key_id", sa.Uuid(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target_type", sa.Text(), nullable=True),
        sa.Column("target_id", sa.Text(), nullable=True),
        sa.Column("before", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("after", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("address", sa.Text(), nullable=True),
        _time("at", default=True),
        sa.CheckConstraint("(member_id IS NULL) = (key_id IS NULL)", name=op.f("ck_audit_log_actor")),
        sa.ForeignKeyConstraint(["member_id"], ["staff_members.id"], name=op.f("fk_audit_log_member_id_staff_members")),
        _staff_key("audit_log", "key_id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    for columns in (["member_id", "id"], ["action", "id"], ["target_type", "target_id", "id"], ["at"]):
        op.create_index(op.f(f"ix_audit_log_{'_'.join(columns)}"), "audit_log", columns)
    op.execute(
        "CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log"
        " FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()"
    )


def _create_proposals() -> None:
    op.create_table(
        "proposals",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("target_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("wanted", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("proposed_by_id", sa.Uuid(), nullable=False),
        sa.Column("decided_by_id", sa.Uuid(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        _time("created_at", default=True),
        _time("expires_at", nullable=False),
        _time("decided_at"),
        sa.CheckConstraint(
            "kind IN ('payout_approval', 'payout_settlement', 'batch_settlement', 'order_adjustment',"
            " 'claim_approval', 'orphan_match', 'event_release', 'settlement_resolution', 'settlement_reopening')",
            name=op.f("ck_proposals_kind"),
        ),
        sa.CheckConstraint("status IN ('open', 'confirmed', 'refused', 'expired')", name=op.f("ck_proposals_status")),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_proposals_currency")),
        sa.CheckConstraint("amount_minor >= 0", name=op.f("ck_proposals_amount")),
        sa.CheckConstraint(
            "(status IN ('confirmed', 'refused')) = (decided_by_id IS NOT NULL)", name=op.f("ck_proposals_decided")
        ),
        sa.CheckConstraint(
            "status <> 'confirmed' OR decided_by_id <> proposed_by_id", name=op.f("ck_proposals_four_eyes")
        ),
        _staff_key("proposals", "proposed_by_id"),
        _staff_key("proposals", "decided_by_id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_proposals")),
    )
    op.create_index(
        "uq_proposals_open", "proposals", ["kind", "target_id"], unique=True, postgresql_where="status = 'open'"
    )
    op.create_index(op.f("ix_proposals_status_id"), "proposals", ["status", "id"])


def _create_merchant_keys() -> None:
    op.create_table(
        "merchant_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("merchant_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_by_id", sa.Uuid(), nullable=False),
        _time("created_at", default=True),
        _time("expires_at"),
        _time("last_used_at"),
        _time("revoked_at"),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchants.id"], name=op.f("fk_merchant_keys_merchant_id_merchants")),
        _staff_key("merchant_keys", "created_by_id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_merchant_keys")),
        sa.UniqueConstraint("prefix", name=op.f("uq_merchant_keys_prefix")),
    )
    op.create_index(op.f("ix_merchant_keys_merchant_id_id"), "merchant_keys", ["merchant_id", "id"])
    op.create_table(
        "webhook_duplicates",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        _time("received_at", default=True),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name=op.f("fk_webhook_duplicates_source_id_sources")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_duplicates")),
    )
    op.create_index(
        op.f("ix_webhook_duplicates_source_id_received_at"), "webhook_duplicates", ["source_id", "received_at"]
    )
    op.create_index(op.f("ix_webhook_duplicates_received_at"), "webhook_duplicates", ["received_at"])


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '4s'")
    for table in ("webhook_duplicates", "merchant_keys", "proposals", "audit_log"):
        op.drop_table(table)
    op.drop_index(op.f("ix_staff_keys_member_id"), table_name="staff_keys")
    for column in ("last_used_at", "created_by_id", "scopes", "member_id"):
        op.drop_column("staff_keys", column)
    op.drop_table("staff_members")
