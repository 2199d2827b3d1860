"""Sources as data: versions of their definitions, deliveries with several events, releases, replays; deltas.

Revision ID: 7c1d0e5a93b4
Revises: 7d0c5be1f4a2
"""

import json
import re
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "7c1d0e5a93b4"
down_revision: str | None = "7d0c5be1f4a2"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# What the two kinds of source were in code until now.
_DIRECT: dict[str, Any] = {
    "authentication": {"kind": "standard_webhooks"},
    "transport": {"accepts": [{"kind": "json"}]},
    "reading": {
        "mapping": {
            "order_reference": [{"path": "order_id"}],
            "click_reference": [{"path": "click_id"}],
            "status": [{"path": "type"}],
            "amount": [{"path": "amount.amount_minor", "as": {"kind": "minor_units"}}, {"path": "amount"}],
            "commission": [{"path": "commission.amount_minor", "as": {"kind": "minor_units"}}, {"path": "commission"}],
            "currency": [{"path": "currency"}, {"path": "amount.currency"}, {"path": "commission.currency"}],
            "amount_currency": [{"path": "amount.currency"}],
            "commission_currency": [{"path": "commission.currency"}],
            "occurred_at": [{"path": "occurred_at"}],
            "part": [{"path": "part"}],
        },
        "statuses": {
            "order.created": "created",
            "order.approved": "approved",
            "order.declined": "declined",
            "order.returned": "returned",
        },
    },
}
_AWIN: dict[str, Any] = {
    "authentication": {"kind": "none"},
    "transport": {
        "accepts": [{"kind": "form_json", "field": "AwinTransactionPush"}, {"kind": "json"}, {"kind": "query"}]
    },
    "reading": {
        "mapping": {
            "order_reference": [{"path": "transactionId"}],
            "amount": [{"path": "transactionAmount", "required": True}],
            "commission": [{"path": "commission", "required": True}],
            "currency": [{"path": "transactionCurrency", "transforms": [{"kind": "upper"}], "required": True}],
            "occurred_at": [
                {
                    "path": "transactionDate",
                    "required": True,
                    "as": {"kind": "text", "formats": ["%Y-%m-%d %H:%M:%S"], "zone": "UTC"},
                }
            ],
            "network_merchant_ref": [{"path": "merchantId"}],
            "event_id": [{"path": "transactionId"}],
        }
    },
}


def upgrade() -> None:
    # Expand first: add what the new code needs, so that the old code still runs beside it.
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.create_table(
        "source_versions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("definition", postgresql.JSONB(none_as_null=True), nullable=False),
        sa.Column("created_by_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("number >= 1", name=op.f("ck_source_versions_number")),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name=op.f("fk_source_versions_source_id_sources")),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["staff_keys.id"], name=op.f("fk_source_versions_created_by_id_staff_keys")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_source_versions")),
        sa.UniqueConstraint("source_id", "number", name=op.f("uq_source_versions_source_id_number")),
    )
    op.create_table(
        "webhook_replays",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("filter", postgresql.JSONB(none_as_null=True), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("replayed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("outcomes", postgresql.JSONB(none_as_null=True), server_default="{}", nullable=False),
        sa.Column("position", sa.Uuid(), nullable=True),
        sa.Column("requested_by_id", sa.Uuid(), nullable=True),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'finished', 'cancelled')", name=op.f("ck_webhook_replays_status")
        ),
        sa.CheckConstraint("replayed <= total", name=op.f("ck_webhook_replays_replayed")),
        sa.ForeignKeyConstraint(
            ["requested_by_id"], ["staff_keys.id"], name=op.f("fk_webhook_replays_requested_by_id_staff_keys")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_replays")),
    )
    op.create_index(
        "ix_webhook_replays_unfinished",
        "webhook_replays",
        ["id"],
        postgresql_where="status IN ('queued', 'running')",
    )
    _define_sources()
    _upgrade_events()
    op.add_column("order_reports", sa.Column("ordered_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("order_reports", sa.Column("is_dated", sa.Boolean(), server_default="true", nullable=False))
    op.add_column("order_reports", sa.Column("is_delta", sa.Boolean(), server_default="false", nullable=False))


def _define_sources() -> None:
    """Give each source a first version that reads as its kind did."""
    op.add_column("sources", sa.Column("preset", sa.Text(), nullable=True))
    op.add_column("sources", sa.Column("version_id", sa.Uuid(), nullable=True))
    connection = op.get_bind()
    for source_id, kind, parameter in connection.execute(sa.text("SELECT id, kind, subid_parameter FROM sources")):
        definition = _definition(kind, parameter)
        connection.execute(
            sa.text(
                "WITH version AS (INSERT INTO source_versions (id, source_id, number, definition)"
                " VALUES (gen_random_uuid(), :source_id, 1, CAST(:definition AS jsonb)) RETURNING id)"
                " UPDATE sources SET version_id = version.id, preset = kind FROM version WHERE sources.id = :source_id"
            ),
            {"source_id": source_id, "definition": json.dumps(definition)},
        )
    op.execute("SET CONSTRAINTS ALL IMMEDIATE")
    op.alter_column("sources", "version_id", existing_type=sa.Uuid(), nullable=False)
    op.create_foreign_key(
        op.f("fk_sources_version_id_source_versions"),
        "sources",
        "source_versions",
        ["version_id"],
        ["id"],
        deferrable=True,
        initially="DEFERRED",
    )
    op.drop_constraint(op.f("ck_sources_kind"), "sources", type_="check")
    op.drop_column("sources", "kind")
    op.execute(
        "CREATE TRIGGER source_versions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON source_versions"
        " FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()"
    )


def _definition(kind: str, parameter: str) -> dict[str, Any]:
    if kind == "direct":
        return {**_DIRECT, "subid_parameter": parameter}
    # Awin writes `clickRef2` for the parameter `clickref2`, and macros are written as one likes.
    numbered = re.fullmatch(r"clickref([2-6]?)", parameter.lower())
    names = [f"clickRef{numbered[1]}", f"clickref{numbered[1]}"] if numbered else [json.dumps(parameter)]
    mapping = {**_AWIN["reading"]["mapping"], "click_reference": [{"path": " || ".join(names)}]}
    return {**_AWIN, "reading": {"mapping": mapping}, "subid_parameter": parameter}


def _upgrade_events() -> None:
    op.add_column("webhook_events", sa.Column("origin", sa.Text(), server_default="push", nullable=False))
    op.add_column("webhook_events", sa.Column("delivery_id", sa.Uuid(), nullable=True))
    op.add_column("webhook_events", sa.Column("contradicts_id", sa.Uuid(), nullable=True))
    op.add_column("webhook_events", sa.Column("method", sa.Text(), server_default="POST", nullable=False))
    op.add_column("webhook_events", sa.Column("query", sa.LargeBinary(), server_default="", nullable=False))
    op.add_column("webhook_events", sa.Column("version_id", sa.Uuid(), nullable=True))
    op.add_column("webhook_events", sa.Column("released_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("webhook_events", sa.Column("released_by_id", sa.Uuid(), nullable=True))
    op.add_column("webhook_events", sa.Column("released_reason", sa.Text(), nullable=True))
    # The query of a GET stood as its body.
    op.execute(
        "UPDATE webhook_events SET method = 'GET', query = body, body = '', content_type = ''"
        " WHERE content_type = 'application/x-query'"
    )
    for column, table in (
        ("delivery_id", "webhook_events"),
        ("contradicts_id", "webhook_events"),
        ("version_id", "source_versions"),
        ("released_by_id", "staff_keys"),
    ):
        foreign_key = op.f(f"fk_webhook_events_{column}_{table}")
        op.create_foreign_key(foreign_key, "webhook_events", table, [column], ["id"])
    op.create_check_constraint(op.f("ck_webhook_events_origin"), "webhook_events", "origin IN ('push', 'item', 'poll')")
    op.create_check_constraint(
        op.f("ck_webhook_events_delivery"), "webhook_events", "(origin = 'item') = (delivery_id IS NOT NULL)"
    )
    op.create_check_constraint(
        op.f("ck_webhook_events_released"),
        "webhook_events",
        "num_nonnulls(released_at, released_by_id, released_reason) IN (0, 3)",
    )
    op.drop_constraint(op.f("ck_webhook_events_status"), "webhook_events", type_="check")
    op.create_check_constraint(
        op.f("ck_webhook_events_status"),
        "webhook_events",
        "status IN ('received', 'processed', 'orphaned', 'quarantined', 'rejected', 'dead', 'discarded', 'ignored', 'split')",
    )
    op.create_index(op.f("ix_webhook_events_source_id_id"), "webhook_events", ["source_id", "id"])
    for name, columns, where in _EVENT_INDEXES:
        op.create_index(name, "webhook_events", columns, postgresql_where=where)


_EVENT_INDEXES = (
    ("ix_webhook_events_merchant", ["merchant_id", "id"], "merchant_id IS NOT NULL"),
    ("ix_webhook_events_order", ["external_order_id"], "external_order_id IS NOT NULL"),
    ("ix_webhook_events_delivery", ["delivery_id"], "delivery_id IS NOT NULL"),
)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '4s'")
    # What only the newer schema can say has no place in the older one.
    for column in ("is_delta", "is_dated", "ordered_at"):
        op.drop_column("order_reports", column)
    for name, _, where in _EVENT_INDEXES:
        op.drop_index(name, table_name="webhook_events", postgresql_where=where)
    op.drop_index(op.f("ix_webhook_events_source_id_id"), table_name="webhook_events")
    for check in ("status", "released", "delivery", "origin"):
        op.drop_constraint(op.f(f"ck_webhook_events_{check}"), "webhook_events", type_="check")
    op.execute("UPDATE webhook_events SET status = 'rejected' WHERE status IN ('ignored', 'split')")
    op.create_check_constraint(
        op.f("ck_webhook_events_status"),
        "webhook_events",
        "status IN ('received', 'processed', 'orphaned', 'quarantined', 'rejected', 'dead', 'discarded')",
    )
    op.execute(
        "UPDATE webhook_events SET body = query, content_type = 'application/x-query'"
        " WHERE method = 'GET' AND body = ''"
    )
    for column in (
        "released_reason",
        "released_by_id",
        "released_at",
        "version_id",
        "query",
        "method",
        "contradicts_id",
        "delivery_id",
        "origin",
    ):
        op.drop_column("webhook_events", column)
    op.add_column("sources", sa.Column("kind", sa.Text(), nullable=True))
    op.execute("UPDATE sources SET status = 'disabled' WHERE coalesce(preset, '') NOT IN ('direct', 'awin')")
    op.execute("UPDATE sources SET kind = CASE WHEN preset = 'direct' THEN 'direct' ELSE 'awin' END")
    op.execute("SET CONSTRAINTS ALL IMMEDIATE")
    op.alter_column("sources", "kind", existing_type=sa.Text(), nullable=False)
    op.create_check_constraint(op.f("ck_sources_kind"), "sources", "kind IN ('direct', 'awin')")
    op.drop_constraint(op.f("fk_sources_version_id_source_versions"), "sources", type_="foreignkey")
    op.drop_column("sources", "version_id")
    op.drop_column("sources", "preset")
    op.drop_table("webhook_replays")
    op.drop_table("source_versions")
