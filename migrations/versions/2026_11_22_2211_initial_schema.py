"""Initial schema: catalogue, clicks, inbox, orders, ledger, syncs; and the ledger's guards.

Revision ID: 620d2120045d
Revises:
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "620d2120045d"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# A transfer must have two or more postings that sum to zero in every currency, when its transaction commits.
# One function serves both tables; it is asked per row, at the end of the transaction.
BALANCE = """
CREATE FUNCTION ledger_require_balance() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    checked uuid := CASE TG_TABLE_NAME WHEN 'transfers' THEN (to_jsonb(NEW) ->> 'id')::uuid
                    ELSE (to_jsonb(NEW) ->> 'transfer_id')::uuid END;
    lines integer;
    unbalanced text;
BEGIN
    SELECT count(*) INTO lines FROM postings WHERE transfer_id = checked;
    IF lines < 2 THEN
        RAISE EXCEPTION 'transfer % has % posting(s), it needs two or more', checked, lines
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_balance';
    END IF;
    SELECT string_agg(currency || ' ' || total, ', ') INTO unbalanced
    FROM (SELECT currency, sum(amount_minor) AS total FROM postings WHERE transfer_id = checked GROUP BY currency) sums
    WHERE total <> 0;
    IF unbalanced IS NOT NULL THEN
        RAISE EXCEPTION 'transfer % does not balance: %', checked, unbalanced
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_balance';
    END IF;
    RETURN NULL;
END $$
"""
APPEND_ONLY = """
CREATE FUNCTION ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: the ledger is append-only; post a correcting transfer', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation', CONSTRAINT = 'ledger_append_only';
END $$
"""


def _create_ledger_guards() -> None:
    op.execute(BALANCE)
    op.execute(APPEND_ONLY)
    for table in ("transfers", "postings"):
        op.execute(
            f"CREATE CONSTRAINT TRIGGER {table}_balance AFTER INSERT ON {table}"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_require_balance()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()"
        )


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.create_table(
        "categories",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.CheckConstraint("slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'", name=op.f("ck_categories_slug")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_categories")),
        sa.UniqueConstraint("slug", name=op.f("uq_categories_slug")),
    )
    op.create_table(
        "cron_runs",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("last_run_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_cron_runs")),
    )
    op.create_table(
        "customers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("display_name", sa.Text(), nullable=True),
        sa.Column("referral_code", sa.Text(), nullable=False),
        sa.Column("referred_by_id", sa.Uuid(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(status = 'closed') = (closed_at IS NOT NULL)", name=op.f("ck_customers_closed_at")),
        sa.CheckConstraint("status IN ('active', 'frozen', 'closed')", name=op.f("ck_customers_status")),
        sa.CheckConstraint("email = lower(email)", name=op.f("ck_customers_email_lower")),
        sa.ForeignKeyConstraint(
            ["referred_by_id"], ["customers.id"], name=op.f("fk_customers_referred_by_id_customers")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_customers")),
        sa.UniqueConstraint("email", name=op.f("uq_customers_email")),
        sa.UniqueConstraint("referral_code", name=op.f("uq_customers_referral_code")),
    )
    op.create_index(op.f("ix_customers_referred_by_id"), "customers", ["referred_by_id"], unique=False)
    op.create_table(
        "idempotency_keys",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("scope", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_expires_at"), "idempotency_keys", ["expires_at"], unique=False)
    op.create_table(
        "offer_staging",
        sa.Column("attempt_id", sa.Uuid(), nullable=False),
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
        sa.Column("content_hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("attempt_id", "row_number", name=op.f("pk_offer_staging")),
        prefixes=["UNLOGGED"],
    )
    op.create_table(
        "sources",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("source_key", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("secrets_encrypted", sa.LargeBinary(), nullable=True),
        sa.Column("subid_parameter", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("kind IN ('direct', 'awin')", name=op.f("ck_sources_kind")),
        sa.CheckConstraint("status IN ('active', 'disabled')", name=op.f("ck_sources_status")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sources")),
        sa.UniqueConstraint("source_key", name=op.f("uq_sources_source_key")),
    )
    op.create_table(
        "staff_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("role IN ('viewer', 'operator', 'finance', 'admin')", name=op.f("ck_staff_keys_role")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_staff_keys")),
        sa.UniqueConstraint("prefix", name=op.f("uq_staff_keys_prefix")),
    )
    op.create_table(
        "transfers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("cause_type", sa.Text(), nullable=False),
        sa.Column("cause_id", sa.Uuid(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("corrects_id", sa.Uuid(), nullable=True),
        sa.Column("details", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("cause_type IN ('order', 'payout', 'adjustment')", name=op.f("ck_transfers_cause_type")),
        sa.ForeignKeyConstraint(["corrects_id"], ["transfers.id"], name=op.f("fk_transfers_corrects_id_transfers")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transfers")),
        sa.UniqueConstraint("cause_type", "cause_id", "purpose", name=op.f("uq_transfers_cause_type_cause_id_purpose")),
    )
    op.create_index(op.f("ix_transfers_created_at"), "transfers", ["created_at"], unique=False)
    op.create_table(
        "merchants",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("category_id", sa.Integer(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("logo_url", sa.Text(), nullable=True),
        sa.Column("tracking_url", sa.Text(), nullable=False),
        sa.Column("deeplink_parameter", sa.Text(), nullable=True),
        sa.Column("source_id", sa.Integer(), nullable=True),
        sa.Column("network_merchant_ref", sa.Text(), nullable=True),
        sa.Column("hold_days", sa.Integer(), server_default="30", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "search",
            postgresql.TSVECTOR(),
            sa.Computed("to_tsvector('simple', name || ' ' || description)", persisted=True),
            nullable=False,
        ),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_merchants_currency")),
        sa.CheckConstraint("slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'", name=op.f("ck_merchants_slug")),
        sa.CheckConstraint("status IN ('active', 'paused', 'closed')", name=op.f("ck_merchants_status")),
        sa.CheckConstraint("hold_days >= 0", name=op.f("ck_merchants_hold_days")),
        sa.ForeignKeyConstraint(["category_id"], ["categories.id"], name=op.f("fk_merchants_category_id_categories")),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name=op.f("fk_merchants_source_id_sources")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_merchants")),
        sa.UniqueConstraint("slug", name=op.f("uq_merchants_slug")),
        sa.UniqueConstraint(
            "source_id", "network_merchant_ref", name=op.f("uq_merchants_source_id_network_merchant_ref")
        ),
    )
    op.create_index(op.f("ix_merchants_category_id"), "merchants", ["category_id"], unique=False)
    op.create_index("ix_merchants_search", "merchants", ["search"], unique=False, postgresql_using="gin")
    op.create_table(
        "refresh_tokens",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("customer_id", sa.Uuid(), nullable=False),
        sa.Column("family_id", sa.Uuid(), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["customers.id"], name=op.f("fk_refresh_tokens_customer_id_customers")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refresh_tokens")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_refresh_tokens_token_hash")),
    )
    op.create_index(op.f("ix_refresh_tokens_customer_id"), "refresh_tokens", ["customer_id"], unique=False)
    op.create_index(op.f("ix_refresh_tokens_expires_at"), "refresh_tokens", ["expires_at"], unique=False)
    op.create_index(op.f("ix_refresh_tokens_family_id"), "refresh_tokens", ["family_id"], unique=False)
    op.create_table(
        "wallets",
        sa.Column("customer_id", sa.Uuid(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("pending_minor", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("available_minor", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("in_payout_minor", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("paid_minor", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_wallets_currency")),
        sa.CheckConstraint(
            "pending_minor >= 0 AND in_payout_minor >= 0 AND paid_minor >= 0", name=op.f("ck_wallets_balances")
        ),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name=op.f("fk_wallets_customer_id_customers")),
        sa.PrimaryKeyConstraint("customer_id", "currency", name=op.f("pk_wallets")),
    )
    op.create_table(
        "feeds",
        sa.Column("merchant_id", sa.Integer(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("mapping", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default="true", nullable=False),
        sa.Column("interval_seconds", sa.Integer(), server_default="86400", nullable=False),
        sa.Column("next_sync_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("max_loss_basis_points", sa.Integer(), server_default="3000", nullable=False),
        sa.Column("etag", sa.Text(), nullable=True),
        sa.Column("last_modified", sa.Text(), nullable=True),
        sa.Column("content_hash", sa.LargeBinary(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("format IN ('json', 'csv')", name=op.f("ck_feeds_format")),
        sa.CheckConstraint("interval_seconds >= 60", name=op.f("ck_feeds_interval_seconds")),
        sa.CheckConstraint("max_loss_basis_points BETWEEN 0 AND 10000", name=op.f("ck_feeds_max_loss_basis_points")),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchants.id"], name=op.f("fk_feeds_merchant_id_merchants")),
        sa.PrimaryKeyConstraint("merchant_id", name=op.f("pk_feeds")),
    )
    op.create_index("ix_feeds_due", "feeds", ["next_sync_at"], unique=False, postgresql_where="enabled")
    op.create_table(
        "offers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("merchant_id", sa.Integer(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("brand", sa.Text(), nullable=True),
        sa.Column("category_id", sa.Integer(), nullable=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("image_url", sa.Text(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("price_minor", sa.BigInteger(), nullable=False),
        sa.Column("price_max_minor", sa.BigInteger(), nullable=False),
        sa.Column("available", sa.Boolean(), server_default="true", nullable=False),
        sa.Column("content_hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "search",
            postgresql.TSVECTOR(),
            sa.Computed("to_tsvector('simple', title || ' ' || coalesce(brand, ''))", persisted=True),
            nullable=False,
        ),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_offers_currency")),
        sa.CheckConstraint("price_minor >= 0 AND price_max_minor >= price_minor", name=op.f("ck_offers_price")),
        sa.ForeignKeyConstraint(["category_id"], ["categories.id"], name=op.f("fk_offers_category_id_categories")),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchants.id"], name=op.f("fk_offers_merchant_id_merchants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_offers")),
        sa.UniqueConstraint("merchant_id", "external_id", name=op.f("uq_offers_merchant_id_external_id")),
    )
    op.create_index(
        "ix_offers_category_live", "offers", ["category_id", "id"], unique=False, postgresql_where="removed_at IS NULL"
    )
    op.create_index(
        "ix_offers_merchant_live", "offers", ["merchant_id", "id"], unique=False, postgresql_where="removed_at IS NULL"
    )
    op.create_index(
        "ix_offers_merchant_price",
        "offers",
        ["merchant_id", "price_minor", "id"],
        unique=False,
        postgresql_where="removed_at IS NULL",
    )
    op.create_index(
        "ix_offers_price", "offers", ["price_minor", "id"], unique=False, postgresql_where="removed_at IS NULL"
    )
    op.create_index("ix_offers_search", "offers", ["search"], unique=False, postgresql_using="gin")
    op.create_table(
        "postings",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("transfer_id", sa.Uuid(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("merchant_id", sa.Integer(), nullable=True),
        sa.Column("customer_id", sa.Uuid(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "CASE WHEN account IN ('customer_pending', 'customer_available', 'customer_in_payout') THEN customer_id IS NOT NULL AND merchant_id IS NULL WHEN account IN ('network_receivable', 'margin_pending', 'margin') THEN merchant_id IS NOT NULL AND customer_id IS NULL ELSE customer_id IS NULL END",
            name=op.f("ck_postings_dimension"),
        ),
        sa.CheckConstraint(
            "account IN ('network_receivable', 'cash', 'customer_pending', 'customer_available', 'customer_in_payout', 'margin_pending', 'margin', 'promotions', 'bad_debt')",
            name=op.f("ck_postings_account"),
        ),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_postings_currency")),
        sa.CheckConstraint("amount_minor <> 0", name=op.f("ck_postings_amount")),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name=op.f("fk_postings_customer_id_customers")),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchants.id"], name=op.f("fk_postings_merchant_id_merchants")),
        sa.ForeignKeyConstraint(["transfer_id"], ["transfers.id"], name=op.f("fk_postings_transfer_id_transfers")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_postings")),
    )
    op.create_index(
        "ix_postings_customer",
        "postings",
        ["customer_id", "id"],
        unique=False,
        postgresql_where="customer_id IS NOT NULL",
    )
    op.create_index(
        "ix_postings_merchant",
        "postings",
        ["merchant_id", "account", "currency"],
        unique=False,
        postgresql_where="merchant_id IS NOT NULL",
    )
    op.create_index(op.f("ix_postings_transfer_id"), "postings", ["transfer_id"], unique=False)
    op.create_table(
        "rates",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("merchant_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("basis_points", sa.Integer(), nullable=True),
        sa.Column("fixed_minor", sa.BigInteger(), nullable=True),
        sa.Column("cap_minor", sa.BigInteger(), nullable=True),
        sa.Column("valid_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("valid_to", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "(kind = 'fixed' AND fixed_minor > 0 AND basis_points IS NULL) OR (kind <> 'fixed' AND basis_points BETWEEN 1 AND 10000 AND fixed_minor IS NULL)",
            name=op.f("ck_rates_value"),
        ),
        sa.CheckConstraint("kind IN ('percent_of_sale', 'percent_of_commission', 'fixed')", name=op.f("ck_rates_kind")),
        sa.CheckConstraint("cap_minor > 0", name=op.f("ck_rates_cap_minor")),
        sa.CheckConstraint("valid_to > valid_from", name=op.f("ck_rates_period")),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchants.id"], name=op.f("fk_rates_merchant_id_merchants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rates")),
    )
    op.create_index(op.f("ix_rates_merchant_id_valid_from"), "rates", ["merchant_id", "valid_from"], unique=False)
    op.create_table(
        "sync_runs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("merchant_id", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("fetched", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created", sa.Integer(), server_default="0", nullable=False),
        sa.Column("updated", sa.Integer(), server_default="0", nullable=False),
        sa.Column("unchanged", sa.Integer(), server_default="0", nullable=False),
        sa.Column("removed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("rejected", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "rejected_samples",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default="[]",
            nullable=False,
        ),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("attempt_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("status IN ('queued', 'running', 'succeeded', 'failed')", name=op.f("ck_sync_runs_status")),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchants.id"], name=op.f("fk_sync_runs_merchant_id_merchants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sync_runs")),
    )
    op.create_index(op.f("ix_sync_runs_merchant_id_id"), "sync_runs", ["merchant_id", "id"], unique=False)
    op.create_index(
        "uq_sync_runs_unfinished",
        "sync_runs",
        ["merchant_id"],
        unique=True,
        postgresql_where="status IN ('queued', 'running')",
    )
    op.create_table(
        "clicks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("customer_id", sa.Uuid(), nullable=False),
        sa.Column("merchant_id", sa.Integer(), nullable=False),
        sa.Column("offer_id", sa.Uuid(), nullable=True),
        sa.Column("target_url", sa.Text(), nullable=False),
        sa.Column("rate_kind", sa.Text(), nullable=False),
        sa.Column("rate_basis_points", sa.Integer(), nullable=True),
        sa.Column("rate_fixed_minor", sa.BigInteger(), nullable=True),
        sa.Column("rate_cap_minor", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "(rate_kind <> 'fixed') = (rate_basis_points IS NOT NULL)", name=op.f("ck_clicks_rate_percent")
        ),
        sa.CheckConstraint("(rate_kind = 'fixed') = (rate_fixed_minor IS NOT NULL)", name=op.f("ck_clicks_rate_fixed")),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_clicks_currency")),
        sa.CheckConstraint(
            "rate_kind IN ('percent_of_sale', 'percent_of_commission', 'fixed')", name=op.f("ck_clicks_rate_kind")
        ),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name=op.f("fk_clicks_customer_id_customers")),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchants.id"], name=op.f("fk_clicks_merchant_id_merchants")),
        sa.ForeignKeyConstraint(["offer_id"], ["offers.id"], name=op.f("fk_clicks_offer_id_offers")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_clicks")),
    )
    op.create_index(op.f("ix_clicks_customer_id_id"), "clicks", ["customer_id", "id"], unique=False)
    op.create_index(op.f("ix_clicks_merchant_id_created_at"), "clicks", ["merchant_id", "created_at"], unique=False)
    op.create_table(
        "orders",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("merchant_id", sa.Integer(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("customer_id", sa.Uuid(), nullable=False),
        sa.Column("click_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("sale_minor", sa.BigInteger(), nullable=False),
        sa.Column("commission_minor", sa.BigInteger(), nullable=False),
        sa.Column("cashback_minor", sa.BigInteger(), nullable=False),
        sa.Column("explanation", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("ordered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("approved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("payable_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revision", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_orders_currency")),
        sa.CheckConstraint(
            "status IN ('pending', 'approved', 'payable', 'declined', 'reversed')", name=op.f("ck_orders_status")
        ),
        sa.CheckConstraint(
            "sale_minor >= 0 AND commission_minor >= 0 AND cashback_minor >= 0", name=op.f("ck_orders_amounts")
        ),
        sa.ForeignKeyConstraint(["click_id"], ["clicks.id"], name=op.f("fk_orders_click_id_clicks")),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name=op.f("fk_orders_customer_id_customers")),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchants.id"], name=op.f("fk_orders_merchant_id_merchants")),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name=op.f("fk_orders_source_id_sources")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orders")),
        sa.UniqueConstraint("merchant_id", "external_id", name=op.f("uq_orders_merchant_id_external_id")),
    )
    op.create_index(op.f("ix_orders_click_id"), "orders", ["click_id"], unique=False)
    op.create_index(op.f("ix_orders_customer_id_id"), "orders", ["customer_id", "id"], unique=False)
    op.create_index("ix_orders_hold", "orders", ["payable_at"], unique=False, postgresql_where="status = 'approved'")
    op.create_index(op.f("ix_orders_merchant_id_ordered_at"), "orders", ["merchant_id", "ordered_at"], unique=False)
    op.create_table(
        "order_changes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("sale_minor", sa.BigInteger(), nullable=False),
        sa.Column("commission_minor", sa.BigInteger(), nullable=False),
        sa.Column("cashback_minor", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "status IN ('pending', 'approved', 'payable', 'declined', 'reversed')", name=op.f("ck_order_changes_status")
        ),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_order_changes_order_id_orders")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_order_changes")),
        sa.UniqueConstraint("order_id", "revision", name=op.f("uq_order_changes_order_id_revision")),
    )
    op.create_table(
        "webhook_events",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("dedupe_key", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("body_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("headers", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("processed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("external_order_id", sa.Text(), nullable=True),
        sa.Column("order_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint(
            "status IN ('received', 'processed', 'orphaned', 'quarantined', 'rejected', 'dead')",
            name=op.f("ck_webhook_events_status"),
        ),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_webhook_events_order_id_orders")),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name=op.f("fk_webhook_events_source_id_sources")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_events")),
        sa.UniqueConstraint("source_id", "dedupe_key", name=op.f("uq_webhook_events_source_id_dedupe_key")),
    )
    op.create_index(
        "ix_webhook_events_inbox",
        "webhook_events",
        ["next_attempt_at"],
        unique=False,
        postgresql_where="status = 'received'",
    )
    op.create_index(op.f("ix_webhook_events_status_id"), "webhook_events", ["status", "id"], unique=False)
    op.create_index(
        "ix_webhook_events_waiting_order",
        "webhook_events",
        ["source_id", "external_order_id"],
        unique=False,
        postgresql_where="status = 'orphaned'",
    )
    op.create_table(
        "order_reports",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("webhook_event_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sale_minor", sa.BigInteger(), nullable=True),
        sa.Column("commission_minor", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_order_reports_currency")),
        sa.CheckConstraint(
            "kind IN ('created', 'approved', 'declined', 'returned')", name=op.f("ck_order_reports_kind")
        ),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_order_reports_order_id_orders")),
        sa.ForeignKeyConstraint(
            ["webhook_event_id"], ["webhook_events.id"], name=op.f("fk_order_reports_webhook_event_id_webhook_events")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_order_reports")),
        sa.UniqueConstraint("webhook_event_id", name=op.f("uq_order_reports_webhook_event_id")),
    )
    op.create_index(op.f("ix_order_reports_order_id"), "order_reports", ["order_id"], unique=False)
    _create_ledger_guards()


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.drop_index(op.f("ix_order_reports_order_id"), table_name="order_reports")
    op.drop_table("order_reports")
    op.drop_index(
        "ix_webhook_events_waiting_order", table_name="webhook_events", postgresql_where="status = 'orphaned'"
    )
    op.drop_index(op.f("ix_webhook_events_status_id"), table_name="webhook_events")
    op.drop_index("ix_webhook_events_inbox", table_name="webhook_events", postgresql_where="status = 'received'")
    op.drop_table("webhook_events")
    op.drop_table("order_changes")
    op.drop_index(op.f("ix_orders_merchant_id_ordered_at"), table_name="orders")
    op.drop_index("ix_orders_hold", table_name="orders", postgresql_where="status = 'approved'")
    op.drop_index(op.f("ix_orders_customer_id_id"), table_name="orders")
    op.drop_index(op.f("ix_orders_click_id"), table_name="orders")
    op.drop_table("orders")
    op.drop_index(op.f("ix_clicks_merchant_id_created_at"), table_name="clicks")
    op.drop_index(op.f("ix_clicks_customer_id_id"), table_name="clicks")
    op.drop_table("clicks")
    op.drop_index("uq_sync_runs_unfinished", table_name="sync_runs", postgresql_where="status IN ('queued', 'running')")
    op.drop_index(op.f("ix_sync_runs_merchant_id_id"), table_name="sync_runs")
    op.drop_table("sync_runs")
    op.drop_index(op.f("ix_rates_merchant_id_valid_from"), table_name="rates")
    op.drop_table("rates")
    op.drop_index(op.f("ix_postings_transfer_id"), table_name="postings")
    op.drop_index("ix_postings_merchant", table_name="postings", postgresql_where="merchant_id IS NOT NULL")
    op.drop_index("ix_postings_customer", table_name="postings", postgresql_where="customer_id IS NOT NULL")
    op.drop_table("postings")
    op.drop_index("ix_offers_search", table_name="offers", postgresql_using="gin")
    op.drop_index("ix_offers_price", table_name="offers", postgresql_where="removed_at IS NULL")
    op.drop_index("ix_offers_merchant_price", table_name="offers", postgresql_where="removed_at IS NULL")
    op.drop_index("ix_offers_merchant_live", table_name="offers", postgresql_where="removed_at IS NULL")
    op.drop_index("ix_offers_category_live", table_name="offers", postgresql_where="removed_at IS NULL")
    op.drop_table("offers")
    op.drop_index("ix_feeds_due", table_name="feeds", postgresql_where="enabled")
    op.drop_table("feeds")
    op.drop_table("wallets")
    op.drop_index(op.f("ix_refresh_tokens_family_id"), table_name="refresh_tokens")
    op.drop_index(op.f("ix_refresh_tokens_expires_at"), table_name="refresh_tokens")
    op.drop_index(op.f("ix_refresh_tokens_customer_id"), table_name="refresh_tokens")
    op.drop_table("refresh_tokens")
    op.drop_index("ix_merchants_search", table_name="merchants", postgresql_using="gin")
    op.drop_index(op.f("ix_merchants_category_id"), table_name="merchants")
    op.drop_table("merchants")
    op.drop_index(op.f("ix_transfers_created_at"), table_name="transfers")
    op.drop_table("transfers")
    op.drop_table("staff_keys")
    op.drop_table("sources")
    op.drop_table("offer_staging")
    op.drop_index(op.f("ix_idempotency_keys_expires_at"), table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.drop_index(op.f("ix_customers_referred_by_id"), table_name="customers")
    op.drop_table("customers")
    op.drop_table("cron_runs")
    op.drop_table("categories")
    op.execute("DROP FUNCTION ledger_require_balance")
    op.execute("DROP FUNCTION ledger_refuse_change")
