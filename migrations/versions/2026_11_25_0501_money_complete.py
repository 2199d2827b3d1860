"""Money complete: campaigns, exchange rates, settlements, clawbacks, payouts, claims, referrals, sealed days.

Revision ID: c32ef2aada13
Revises: 620d2120045d
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "c32ef2aada13"
down_revision: str | None = "620d2120045d"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

APPEND_ONLY = ("ledger_days", "ledger_day_totals", "month_closes", "exchange_rates")
# A day that was hashed into the chain takes no more postings, whatever their `created_at` claims.
SEALED_DAY = """
CREATE FUNCTION ledger_refuse_sealed_day() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM ledger_days WHERE day >= (NEW.created_at AT TIME ZONE 'UTC')::date) THEN
        RAISE EXCEPTION 'a posting of % is refused: that day is sealed', NEW.created_at
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'ledger_sealed_day';
    END IF;
    RETURN NEW;
END $$
"""


def _create_ledger_guards() -> None:
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()"
        )
    op.execute(SEALED_DAY)
    # A posting of the present day, which is nearly all of them, costs a comparison.
    op.execute(
        "CREATE TRIGGER postings_sealed_day BEFORE INSERT ON postings FOR EACH ROW"
        " WHEN ((NEW.created_at AT TIME ZONE 'UTC')::date <> (clock_timestamp() AT TIME ZONE 'UTC')::date)"
        " EXECUTE FUNCTION ledger_refuse_sealed_day()"
    )


def upgrade() -> None:
    # Expand first: add what the new code needs, so that the old code still runs beside it.
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.create_table(
        "ledger_checks",
        sa.Column("invariant", sa.Text(), nullable=False),
        sa.Column("position", sa.Text(), nullable=True),
        sa.Column("violations", sa.Integer(), server_default="0", nullable=False),
        sa.Column("pass_violations", sa.Integer(), server_default="0", nullable=False),
        sa.Column("pass_started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pass_finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("invariant", name=op.f("pk_ledger_checks")),
    )
    op.create_table(
        "ledger_days",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("postings", sa.BigInteger(), nullable=False),
        sa.Column("previous_hash", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "octet_length(hash) = 32 AND octet_length(previous_hash) = 32", name=op.f("ck_ledger_days_hash")
        ),
        sa.PrimaryKeyConstraint("day", name=op.f("pk_ledger_days")),
    )
    op.create_table(
        "ledger_day_totals",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("merchant_id", sa.Integer(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("postings", sa.BigInteger(), nullable=False),
        sa.Column("debit_minor", sa.Numeric(38, 0), nullable=False),
        sa.Column("credit_minor", sa.Numeric(38, 0), nullable=False),
        sa.CheckConstraint(
            "debit_minor >= 0 AND credit_minor >= 0 AND postings > 0", name=op.f("ck_ledger_day_totals_amounts")
        ),
        sa.ForeignKeyConstraint(["day"], ["ledger_days.day"], name=op.f("fk_ledger_day_totals_day_ledger_days")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_day_totals")),
        sa.UniqueConstraint(
            "day",
            "account",
            "merchant_id",
            "currency",
            name=op.f("uq_ledger_day_totals_day_account_merchant_id_currency"),
            postgresql_nulls_not_distinct=True,
        ),
    )
    op.create_index(
        op.f("ix_ledger_day_totals_account_currency_day"),
        "ledger_day_totals",
        ["account", "currency", "day"],
        unique=False,
    )
    op.create_table(
        "payout_rules",
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("minimum_minor", sa.BigInteger(), nullable=False),
        sa.Column("fee_minor", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("fee_basis_points", sa.Integer(), server_default="0", nullable=False),
        sa.Column("daily_limit_minor", sa.BigInteger(), nullable=False),
        sa.Column("daily_count", sa.Integer(), nullable=False),
        sa.Column("auto_approve_minor", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("method_hold_hours", sa.Integer(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column(
            "method_kinds",
            postgresql.ARRAY(sa.Text()),
            server_default="{iban,local_account,mobile_wallet,email}",
            nullable=False,
        ),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_payout_rules_currency")),
        sa.CheckConstraint("provider IN ('batch', 'http')", name=op.f("ck_payout_rules_provider")),
        sa.CheckConstraint(
            "minimum_minor > 0 AND fee_minor >= 0 AND fee_basis_points BETWEEN 0 AND 9999 AND daily_limit_minor >= minimum_minor AND daily_count > 0 AND auto_approve_minor >= 0 AND method_hold_hours >= 0 AND fee_minor * 10000::numeric + minimum_minor::numeric * fee_basis_points < minimum_minor * 10000::numeric",
            name=op.f("ck_payout_rules_amounts"),
        ),
        sa.CheckConstraint(
            "cardinality(method_kinds) > 0 AND method_kinds <@ ARRAY['iban', 'local_account', 'mobile_wallet', 'email']",
            name=op.f("ck_payout_rules_method_kinds"),
        ),
        sa.PrimaryKeyConstraint("currency", name=op.f("pk_payout_rules")),
    )
    op.create_table(
        "referral_programs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("referrer_bonus_minor", sa.BigInteger(), nullable=False),
        sa.Column("invited_bonus_minor", sa.BigInteger(), nullable=False),
        sa.Column("minimum_sale_minor", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("max_granted", sa.Integer(), nullable=False),
        sa.Column("valid_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("valid_to", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_referral_programs_currency")),
        sa.CheckConstraint("minimum_sale_minor >= 0 AND max_granted > 0", name=op.f("ck_referral_programs_limits")),
        sa.CheckConstraint(
            "referrer_bonus_minor >= 0 AND invited_bonus_minor >= 0 AND referrer_bonus_minor + invited_bonus_minor > 0",
            name=op.f("ck_referral_programs_bonuses"),
        ),
        sa.CheckConstraint("valid_to >= valid_from", name=op.f("ck_referral_programs_period")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_referral_programs")),
    )
    op.create_index(op.f("ix_referral_programs_valid_from"), "referral_programs", ["valid_from"], unique=False)
    op.create_table(
        "exchange_rates",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("base", sa.Text(), nullable=False),
        sa.Column("quote", sa.Text(), nullable=False),
        sa.Column("effective_on", sa.Date(), nullable=False),
        sa.Column("rate_e12", sa.BigInteger(), nullable=False),
        sa.Column("created_by_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("base ~ '^[A-Z]{3}$'", name=op.f("ck_exchange_rates_base")),
        sa.CheckConstraint("quote ~ '^[A-Z]{3}$'", name=op.f("ck_exchange_rates_quote")),
        sa.CheckConstraint("base <> quote", name=op.f("ck_exchange_rates_pair")),
        sa.CheckConstraint("rate_e12 > 0", name=op.f("ck_exchange_rates_rate_e12")),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["staff_keys.id"], name=op.f("fk_exchange_rates_created_by_id_staff_keys")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exchange_rates")),
        sa.UniqueConstraint("base", "quote", "effective_on", name=op.f("uq_exchange_rates_base_quote_effective_on")),
    )
    op.create_table(
        "month_closes",
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("report", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("chain_hash", sa.LargeBinary(), nullable=False),
        sa.Column("closed_by_id", sa.Uuid(), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("extract(day FROM month) = 1", name=op.f("ck_month_closes_first_day")),
        sa.ForeignKeyConstraint(
            ["closed_by_id"], ["staff_keys.id"], name=op.f("fk_month_closes_closed_by_id_staff_keys")
        ),
        sa.PrimaryKeyConstraint("month", name=op.f("pk_month_closes")),
    )
    op.create_table(
        "payout_batches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("payout_count", sa.Integer(), nullable=False),
        sa.Column("total_minor", sa.BigInteger(), nullable=False),
        sa.Column("csv_encrypted", sa.LargeBinary(), nullable=False),
        sa.Column("pain001_encrypted", sa.LargeBinary(), nullable=True),
        sa.Column("pain001_missing", sa.Text(), nullable=True),
        sa.Column("created_by_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_payout_batches_currency")),
        sa.CheckConstraint("payout_count > 0 AND total_minor > 0", name=op.f("ck_payout_batches_totals")),
        sa.CheckConstraint(
            "(pain001_encrypted IS NULL) = (pain001_missing IS NOT NULL)", name=op.f("ck_payout_batches_pain001")
        ),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["staff_keys.id"], name=op.f("fk_payout_batches_created_by_id_staff_keys")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payout_batches")),
        sa.UniqueConstraint("reference", name=op.f("uq_payout_batches_reference")),
    )
    op.create_table(
        "payout_methods",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("customer_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("details_encrypted", sa.LargeBinary(), nullable=False),
        sa.Column("masked", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("usable_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "kind IN ('iban', 'local_account', 'mobile_wallet', 'email')", name=op.f("ck_payout_methods_kind")
        ),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["customers.id"], name=op.f("fk_payout_methods_customer_id_customers")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payout_methods")),
    )
    op.create_index(
        "ix_payout_methods_customer",
        "payout_methods",
        ["customer_id"],
        unique=False,
        postgresql_where="deleted_at IS NULL",
    )
    op.create_index(op.f("ix_payout_methods_fingerprint"), "payout_methods", ["fingerprint"], unique=False)
    op.create_index(
        "uq_payout_methods_live",
        "payout_methods",
        ["customer_id", "fingerprint"],
        unique=True,
        postgresql_where="deleted_at IS NULL",
    )
    op.create_table(
        "campaigns",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("merchant_id", sa.Integer(), nullable=True),
        sa.Column("category_id", sa.Integer(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("basis_points", sa.Integer(), nullable=True),
        sa.Column("fixed_minor", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("cap_minor", sa.BigInteger(), nullable=True),
        sa.Column("minimum_sale_minor", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("budget_minor", sa.BigInteger(), nullable=True),
        sa.Column("spent_minor", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("valid_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("valid_to", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "(kind = 'fixed' AND fixed_minor > 0 AND basis_points IS NULL) OR (kind <> 'fixed' AND basis_points BETWEEN 1 AND 10000 AND fixed_minor IS NULL)",
            name=op.f("ck_campaigns_value"),
        ),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_campaigns_currency")),
        sa.CheckConstraint(
            "kind IN ('percent_of_sale', 'percent_of_commission', 'fixed')", name=op.f("ck_campaigns_kind")
        ),
        sa.CheckConstraint("status IN ('active', 'paused')", name=op.f("ck_campaigns_status")),
        sa.CheckConstraint("cap_minor > 0", name=op.f("ck_campaigns_cap_minor")),
        sa.CheckConstraint("merchant_id IS NULL OR category_id IS NULL", name=op.f("ck_campaigns_audience")),
        sa.CheckConstraint("minimum_sale_minor >= 0", name=op.f("ck_campaigns_minimum_sale_minor")),
        sa.CheckConstraint("spent_minor >= 0 AND spent_minor <= budget_minor", name=op.f("ck_campaigns_budget")),
        sa.CheckConstraint("valid_to > valid_from", name=op.f("ck_campaigns_period")),
        sa.ForeignKeyConstraint(["category_id"], ["categories.id"], name=op.f("fk_campaigns_category_id_categories")),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchants.id"], name=op.f("fk_campaigns_merchant_id_merchants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_campaigns")),
    )
    op.create_index(op.f("ix_campaigns_currency_valid_from"), "campaigns", ["currency", "valid_from"], unique=False)
    op.create_table(
        "payouts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("customer_id", sa.Uuid(), nullable=False),
        sa.Column("method_id", sa.Uuid(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("fee_minor", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=True),
        sa.Column("provider_reference", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("decided_by_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_payouts_currency")),
        sa.CheckConstraint("provider IN ('batch', 'http')", name=op.f("ck_payouts_provider")),
        sa.CheckConstraint(
            "status IN ('requested', 'approved', 'sent', 'paid', 'failed', 'rejected')", name=op.f("ck_payouts_status")
        ),
        sa.CheckConstraint(
            "amount_minor > 0 AND fee_minor >= 0 AND fee_minor < amount_minor", name=op.f("ck_payouts_amounts")
        ),
        sa.CheckConstraint(
            "batch_id IS NULL OR (provider = 'batch' AND status IN ('sent', 'paid', 'failed'))",
            name=op.f("ck_payouts_batch"),
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["payout_batches.id"], name=op.f("fk_payouts_batch_id_payout_batches")),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name=op.f("fk_payouts_customer_id_customers")),
        sa.ForeignKeyConstraint(["decided_by_id"], ["staff_keys.id"], name=op.f("fk_payouts_decided_by_id_staff_keys")),
        sa.ForeignKeyConstraint(["method_id"], ["payout_methods.id"], name=op.f("fk_payouts_method_id_payout_methods")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payouts")),
    )
    op.create_index(op.f("ix_payouts_batch_id"), "payouts", ["batch_id"], unique=False)
    op.create_index(op.f("ix_payouts_customer_id_id"), "payouts", ["customer_id", "id"], unique=False)
    op.create_index(
        "ix_payouts_due", "payouts", ["next_attempt_at"], unique=False, postgresql_where="next_attempt_at IS NOT NULL"
    )
    op.create_index(op.f("ix_payouts_status_id"), "payouts", ["status", "id"], unique=False)
    op.create_table(
        "settlements",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("merchant_id", sa.Integer(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("paid_on", sa.Date(), nullable=False),
        sa.Column("total_minor", sa.BigInteger(), nullable=False),
        sa.Column("lines_by_status", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("created_by_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_settlements_currency")),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["staff_keys.id"], name=op.f("fk_settlements_created_by_id_staff_keys")
        ),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchants.id"], name=op.f("fk_settlements_merchant_id_merchants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_settlements")),
        sa.UniqueConstraint("merchant_id", "reference", name=op.f("uq_settlements_merchant_id_reference")),
    )
    op.create_table(
        "payout_changes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("payout_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("staff_key_id", sa.Uuid(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "status IN ('requested', 'approved', 'sent', 'paid', 'failed', 'rejected')",
            name=op.f("ck_payout_changes_status"),
        ),
        sa.ForeignKeyConstraint(["payout_id"], ["payouts.id"], name=op.f("fk_payout_changes_payout_id_payouts")),
        sa.ForeignKeyConstraint(
            ["staff_key_id"], ["staff_keys.id"], name=op.f("fk_payout_changes_staff_key_id_staff_keys")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payout_changes")),
    )
    op.create_index(op.f("ix_payout_changes_payout_id"), "payout_changes", ["payout_id"], unique=False)
    op.create_table(
        "clawbacks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("customer_id", sa.Uuid(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("shortfall_minor", sa.BigInteger(), nullable=False),
        sa.Column("recovered_minor", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("written_off_minor", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_clawbacks_currency")),
        sa.CheckConstraint("policy IN ('negative', 'offset', 'write_off')", name=op.f("ck_clawbacks_policy")),
        sa.CheckConstraint(
            "status IN ('open', 'recovered', 'written_off', 'reinstated')", name=op.f("ck_clawbacks_status")
        ),
        sa.CheckConstraint(
            "recovered_minor >= 0 AND written_off_minor >= 0 AND recovered_minor + written_off_minor <= shortfall_minor",
            name=op.f("ck_clawbacks_amounts"),
        ),
        sa.CheckConstraint("shortfall_minor > 0", name=op.f("ck_clawbacks_shortfall")),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name=op.f("fk_clawbacks_customer_id_customers")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_clawbacks_order_id_orders")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_clawbacks")),
    )
    op.create_index(
        "ix_clawbacks_due",
        "clawbacks",
        ["due_at"],
        unique=False,
        postgresql_where="status = 'open' AND due_at IS NOT NULL",
    )
    op.create_index(
        "ix_clawbacks_open", "clawbacks", ["customer_id", "currency"], unique=False, postgresql_where="status = 'open'"
    )
    op.create_index(op.f("ix_clawbacks_order_id"), "clawbacks", ["order_id"], unique=False)
    op.create_table(
        "order_boosts",
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount_minor >= 0", name=op.f("ck_order_boosts_amount")),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_order_boosts_campaign_id_campaigns")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_order_boosts_order_id_orders")),
        sa.PrimaryKeyConstraint("order_id", "campaign_id", name=op.f("pk_order_boosts")),
    )
    op.create_index(op.f("ix_order_boosts_campaign_id"), "order_boosts", ["campaign_id"], unique=False)
    op.create_table(
        "referrals",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("program_id", sa.Uuid(), nullable=False),
        sa.Column("referrer_id", sa.Uuid(), nullable=False),
        sa.Column("invited_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("referrer_bonus_minor", sa.BigInteger(), nullable=False),
        sa.Column("invited_bonus_minor", sa.BigInteger(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("decided_by_id", sa.Uuid(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("revision", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "(status IN ('held', 'refused')) = (reason IS NOT NULL)", name=op.f("ck_referrals_has_reason")
        ),
        sa.CheckConstraint(
            "(status IN ('granted', 'clawed_back')) <= (order_id IS NOT NULL)", name=op.f("ck_referrals_order")
        ),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_referrals_currency")),
        sa.CheckConstraint(
            "reason IN ('referrer_not_active', 'invited_not_active', 'same_payout_method', 'same_device', 'limit_reached', 'same_address', 'by_staff')",
            name=op.f("ck_referrals_reason"),
        ),
        sa.CheckConstraint(
            "status IN ('waiting', 'held', 'granted', 'refused', 'clawed_back')", name=op.f("ck_referrals_status")
        ),
        sa.CheckConstraint("referrer_id <> invited_id", name=op.f("ck_referrals_not_self")),
        sa.ForeignKeyConstraint(
            ["decided_by_id"], ["staff_keys.id"], name=op.f("fk_referrals_decided_by_id_staff_keys")
        ),
        sa.ForeignKeyConstraint(["invited_id"], ["customers.id"], name=op.f("fk_referrals_invited_id_customers")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_referrals_order_id_orders")),
        sa.ForeignKeyConstraint(
            ["program_id"], ["referral_programs.id"], name=op.f("fk_referrals_program_id_referral_programs")
        ),
        sa.ForeignKeyConstraint(["referrer_id"], ["customers.id"], name=op.f("fk_referrals_referrer_id_customers")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_referrals")),
        sa.UniqueConstraint("invited_id", name=op.f("uq_referrals_invited_id")),
    )
    op.create_index(
        "ix_referrals_order_id", "referrals", ["order_id"], unique=False, postgresql_where="order_id IS NOT NULL"
    )
    op.create_index(op.f("ix_referrals_referrer_id_id"), "referrals", ["referrer_id", "id"], unique=False)
    op.create_table(
        "referral_checks",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("referral_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["referral_id"], ["referrals.id"], name=op.f("fk_referral_checks_referral_id_referrals")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_referral_checks")),
    )
    op.create_index(op.f("ix_referral_checks_referral_id"), "referral_checks", ["referral_id"], unique=False)
    op.create_table(
        "settlement_lines",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("settlement_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("order_reference", sa.Text(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("expected_minor", sa.BigInteger(), nullable=True),
        sa.Column("order_id", sa.Uuid(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("resolution", sa.Text(), nullable=True),
        sa.Column("resolved_minor", sa.BigInteger(), nullable=True),
        sa.Column("resolution_note", sa.Text(), nullable=True),
        sa.Column("resolved_by_id", sa.Uuid(), nullable=True),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revision", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "resolution IN ('written_off', 'accepted', 'assigned', 'settled_later')",
            name=op.f("ck_settlement_lines_resolution"),
        ),
        sa.CheckConstraint(
            "status = CASE WHEN expected_minor IS NULL THEN 'unknown' WHEN amount_minor < expected_minor THEN 'short_paid' WHEN amount_minor > expected_minor THEN 'over_paid' ELSE 'matched' END",
            name=op.f("ck_settlement_lines_compared"),
        ),
        sa.CheckConstraint(
            "resolution IS NULL OR status <> 'matched'", name=op.f("ck_settlement_lines_resolution_needed")
        ),
        sa.CheckConstraint(
            "(coalesce(resolution, '') IN ('written_off', 'accepted')) = (resolved_minor IS NOT NULL)",
            name=op.f("ck_settlement_lines_resolution_posted"),
        ),
        sa.CheckConstraint("resolved_minor > 0", name=op.f("ck_settlement_lines_resolved_minor")),
        sa.CheckConstraint(
            "(order_id IS NULL) = (status = 'unknown' AND coalesce(resolution, '') <> 'assigned')",
            name=op.f("ck_settlement_lines_order"),
        ),
        sa.CheckConstraint(
            "status IN ('matched', 'short_paid', 'over_paid', 'unknown')", name=op.f("ck_settlement_lines_status")
        ),
        sa.CheckConstraint(
            "(resolution IS NULL) = (resolved_at IS NULL)", name=op.f("ck_settlement_lines_resolution_at")
        ),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_settlement_lines_order_id_orders")),
        sa.ForeignKeyConstraint(
            ["resolved_by_id"], ["staff_keys.id"], name=op.f("fk_settlement_lines_resolved_by_id_staff_keys")
        ),
        sa.ForeignKeyConstraint(
            ["settlement_id"], ["settlements.id"], name=op.f("fk_settlement_lines_settlement_id_settlements")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_settlement_lines")),
        sa.UniqueConstraint("settlement_id", "number", name=op.f("uq_settlement_lines_settlement_id_number")),
    )
    op.create_index(
        "ix_settlement_lines_open",
        "settlement_lines",
        ["settlement_id", "number"],
        unique=False,
        postgresql_where="status <> 'matched' AND resolution IS NULL",
    )
    op.create_index(op.f("ix_settlement_lines_order_id"), "settlement_lines", ["order_id"], unique=False)
    op.create_table(
        "claims",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("customer_id", sa.Uuid(), nullable=False),
        sa.Column("merchant_id", sa.Integer(), nullable=False),
        sa.Column("order_reference", sa.Text(), nullable=False),
        sa.Column("reference_key", sa.Text(), nullable=False),
        sa.Column("ordered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("evidence", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("matched_event_id", sa.Uuid(), nullable=True),
        sa.Column("score", sa.Integer(), nullable=True),
        sa.Column("score_reasons", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("compared_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("order_id", sa.Uuid(), nullable=True),
        sa.Column("resolution_note", sa.Text(), nullable=True),
        sa.Column("resolved_by_id", sa.Uuid(), nullable=True),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_claims_currency")),
        sa.CheckConstraint(
            "status IN ('open', 'matched', 'approved', 'rejected', 'withdrawn')", name=op.f("ck_claims_status")
        ),
        sa.CheckConstraint("amount_minor > 0", name=op.f("ck_claims_amount")),
        sa.CheckConstraint("score BETWEEN 0 AND 100", name=op.f("ck_claims_score")),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name=op.f("fk_claims_customer_id_customers")),
        sa.ForeignKeyConstraint(
            ["matched_event_id"], ["webhook_events.id"], name=op.f("fk_claims_matched_event_id_webhook_events")
        ),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchants.id"], name=op.f("fk_claims_merchant_id_merchants")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_claims_order_id_orders")),
        sa.ForeignKeyConstraint(
            ["resolved_by_id"], ["staff_keys.id"], name=op.f("fk_claims_resolved_by_id_staff_keys")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_claims")),
    )
    op.create_index(op.f("ix_claims_customer_id_id"), "claims", ["customer_id", "id"], unique=False)
    op.create_index(
        "ix_claims_due", "claims", ["due_at"], unique=False, postgresql_where="status IN ('open', 'matched')"
    )
    op.create_index(
        "ix_claims_waiting",
        "claims",
        ["merchant_id", "ordered_at"],
        unique=False,
        postgresql_where="status IN ('open', 'matched')",
    )
    op.create_index(
        "ix_claims_uncompared",
        "claims",
        ["id"],
        unique=False,
        postgresql_where="status IN ('open', 'matched') AND compared_at IS NULL",
    )
    op.create_index(
        "ix_claims_uncredited",
        "claims",
        ["id"],
        unique=False,
        postgresql_where="status = 'approved' AND order_id IS NULL",
    )
    op.create_index(
        "ix_claims_event",
        "claims",
        ["matched_event_id"],
        unique=False,
        postgresql_where="matched_event_id IS NOT NULL",
    )
    op.create_index(
        "uq_claims_order",
        "claims",
        ["merchant_id", "reference_key", "customer_id"],
        unique=True,
        postgresql_where="status IN ('open', 'matched', 'approved')",
    )
    op.add_column("clicks", sa.Column("origin", sa.Text(), server_default="customer", nullable=False))
    op.add_column("clicks", sa.Column("rate_cap_month_minor", sa.BigInteger(), nullable=True))
    op.add_column(
        "clicks", sa.Column("rate_tiers", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True)
    )
    op.add_column(
        "clicks", sa.Column("boosts", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True)
    )
    op.add_column("customers", sa.Column("address_hint", sa.LargeBinary(), nullable=True))
    op.add_column("customers", sa.Column("device_hint", sa.LargeBinary(), nullable=True))
    op.add_column("merchants", sa.Column("payable_after_payment", sa.Boolean(), server_default="false", nullable=False))
    op.add_column("merchants", sa.Column("exposure_limit_minor", sa.BigInteger(), nullable=True))
    op.add_column("merchants", sa.Column("clawback_policy", sa.Text(), server_default="negative", nullable=False))
    op.add_column("merchants", sa.Column("write_off_days", sa.Integer(), nullable=True))
    op.add_column("merchants", sa.Column("expire_days", sa.Integer(), nullable=True))
    op.add_column("merchants", sa.Column("expire_as", sa.Text(), server_default="declined", nullable=False))
    op.add_column("order_changes", sa.Column("boost_minor", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("order_reports", sa.Column("claim_id", sa.Uuid(), nullable=True))
    op.add_column("order_reports", sa.Column("staff_key_id", sa.Uuid(), nullable=True))
    op.add_column("order_reports", sa.Column("reason", sa.Text(), nullable=True))
    op.add_column("order_reports", sa.Column("part", sa.Text(), nullable=True))
    op.alter_column("order_reports", "webhook_event_id", existing_type=sa.UUID(), nullable=True)
    op.create_index(
        "ix_order_reports_claim_id",
        "order_reports",
        ["claim_id"],
        unique=False,
        postgresql_where="claim_id IS NOT NULL",
    )
    op.create_foreign_key(
        op.f("fk_order_reports_staff_key_id_staff_keys"), "order_reports", "staff_keys", ["staff_key_id"], ["id"]
    )
    op.create_foreign_key(op.f("fk_order_reports_claim_id_claims"), "order_reports", "claims", ["claim_id"], ["id"])
    op.add_column("orders", sa.Column("boost_minor", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("orders", sa.Column("reported_currency", sa.Text(), nullable=True))
    op.add_column("orders", sa.Column("reported_sale_minor", sa.BigInteger(), nullable=True))
    op.add_column("orders", sa.Column("reported_commission_minor", sa.BigInteger(), nullable=True))
    op.add_column("orders", sa.Column("exchange_rate_e12", sa.BigInteger(), nullable=True))
    op.add_column("orders", sa.Column("settled_minor", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("orders", sa.Column("written_off_minor", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("orders", sa.Column("expired_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("orders", sa.Column("expired_as", sa.Text(), nullable=True))
    op.create_index(
        op.f("ix_orders_customer_id_merchant_id_ordered_at"),
        "orders",
        ["customer_id", "merchant_id", "ordered_at"],
        unique=False,
    )
    op.create_index(
        "ix_orders_open",
        "orders",
        ["merchant_id", "ordered_at", "id"],
        unique=False,
        postgresql_where="status = 'pending'",
    )
    op.create_index(
        "ix_postings_created",
        "postings",
        ["created_at"],
        unique=False,
        postgresql_using="brin",
        postgresql_with={"autosummarize": "on"},
    )
    op.drop_index("ix_postings_customer", table_name="postings", postgresql_where="customer_id IS NOT NULL")
    op.create_index(
        "ix_postings_customer",
        "postings",
        ["customer_id", "id"],
        unique=False,
        postgresql_include=["currency", "account", "amount_minor"],
        postgresql_where="customer_id IS NOT NULL",
    )
    op.create_index(
        "ix_postings_house",
        "postings",
        ["account", "currency", "created_at", "id"],
        unique=False,
        postgresql_include=["merchant_id", "amount_minor"],
        postgresql_where="customer_id IS NULL",
    )
    due = (
        "(CASE WHEN orders.status IN ('declined', 'reversed') THEN 0 ELSE orders.reported_commission_minor END::numeric"
        " - orders.settled_minor - orders.written_off_minor)"
    )
    op.drop_index("ix_orders_hold", table_name="orders", postgresql_where="status = 'approved'")
    op.create_index(
        "ix_orders_hold_paid",
        "orders",
        ["merchant_id", "payable_at", "id"],
        unique=False,
        postgresql_where=f"status = 'approved' AND {due} <= 0",
    )
    op.create_index(
        "ix_orders_hold",
        "orders",
        ["merchant_id", "payable_at", "id"],
        unique=False,
        postgresql_where=f"status = 'approved' AND {due} > 0",
    )
    op.create_index(
        "ix_orders_advanced",
        "orders",
        ["merchant_id"],
        unique=False,
        postgresql_include=["cashback_minor"],
        postgresql_where=f"status = 'payable' AND {due} > 0",
    )
    op.create_index("ix_orders_overpaid", "orders", ["id"], unique=False, postgresql_where=f"{due} < 0")
    op.add_column("rates", sa.Column("category_id", sa.Integer(), nullable=True))
    op.add_column(
        "rates", sa.Column("tiers", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True)
    )
    op.add_column("rates", sa.Column("cap_month_minor", sa.BigInteger(), nullable=True))
    op.create_foreign_key(op.f("fk_rates_category_id_categories"), "rates", "categories", ["category_id"], ["id"])
    op.add_column("wallets", sa.Column("debt_minor", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("webhook_events", sa.Column("merchant_id", sa.Integer(), nullable=True))
    op.add_column("webhook_events", sa.Column("reported_kind", sa.Text(), nullable=True))
    op.add_column("webhook_events", sa.Column("reported_currency", sa.Text(), nullable=True))
    op.add_column("webhook_events", sa.Column("reported_sale_minor", sa.BigInteger(), nullable=True))
    op.add_column("webhook_events", sa.Column("reported_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("webhook_events", sa.Column("compared_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("webhook_events", sa.Column("waits_for", sa.Text(), nullable=True))
    op.add_column("webhook_events", sa.Column("matched_click_id", sa.Uuid(), nullable=True))
    op.add_column("webhook_events", sa.Column("discarded_reason", sa.Text(), nullable=True))
    op.create_index(
        "ix_webhook_events_orphans",
        "webhook_events",
        ["merchant_id", "reported_at"],
        unique=False,
        postgresql_where="status = 'orphaned'",
    )
    op.create_index(
        "ix_webhook_events_uncompared",
        "webhook_events",
        ["id"],
        unique=False,
        postgresql_where="status = 'orphaned' AND compared_at IS NULL",
    )
    op.create_index(
        "ix_webhook_events_waits_for",
        "webhook_events",
        ["waits_for"],
        unique=False,
        postgresql_where="waits_for IS NOT NULL",
    )
    op.create_foreign_key(
        op.f("fk_webhook_events_matched_click_id_clicks"), "webhook_events", "clicks", ["matched_click_id"], ["id"]
    )
    op.create_foreign_key(
        op.f("fk_webhook_events_merchant_id_merchants"), "webhook_events", "merchants", ["merchant_id"], ["id"]
    )
    # Orders of before were all in the currency they were reported in.
    op.execute(
        "UPDATE orders SET reported_currency = currency, reported_sale_minor = sale_minor,"
        " reported_commission_minor = commission_minor"
    )
    for column in ("reported_currency", "reported_sale_minor", "reported_commission_minor"):
        op.alter_column("orders", column, nullable=False)
    # Alembic does not compare CHECK constraints.
    op.drop_constraint(op.f("ck_transfers_cause_type"), "transfers", type_="check")
    op.drop_constraint(op.f("ck_wallets_balances"), "wallets", type_="check")
    op.drop_constraint(op.f("ck_postings_account"), "postings", type_="check")
    op.drop_constraint(op.f("ck_postings_dimension"), "postings", type_="check")
    op.drop_constraint(op.f("ck_webhook_events_status"), "webhook_events", type_="check")
    op.create_check_constraint(
        op.f("ck_transfers_cause_type"),
        "transfers",
        "cause_type IN ('order', 'payout', 'settlement', 'clawback', 'referral', 'adjustment')",
    )
    op.create_check_constraint(op.f("ck_merchants_expire_as"), "merchants", "expire_as IN ('declined', 'approved')")
    op.create_check_constraint(op.f("ck_merchants_expire_days"), "merchants", "expire_days > 0")
    op.create_check_constraint(op.f("ck_merchants_exposure_limit_minor"), "merchants", "exposure_limit_minor >= 0")
    op.create_check_constraint(
        op.f("ck_merchants_clawback_policy"), "merchants", "clawback_policy IN ('negative', 'offset', 'write_off')"
    )
    op.create_check_constraint(
        op.f("ck_merchants_write_off_days"),
        "merchants",
        "(clawback_policy = 'write_off') = (write_off_days IS NOT NULL)",
    )
    op.create_check_constraint(
        op.f("ck_wallets_balances"),
        "wallets",
        "pending_minor >= 0 AND in_payout_minor >= 0 AND paid_minor >= 0 AND debt_minor >= 0",
    )
    op.create_check_constraint(
        op.f("ck_postings_dimension"),
        "postings",
        "CASE WHEN account IN ('customer_pending', 'customer_available', 'customer_in_payout', 'customer_debt') THEN customer_id IS NOT NULL AND merchant_id IS NULL WHEN account IN ('network_receivable', 'margin_pending', 'margin') THEN merchant_id IS NOT NULL AND customer_id IS NULL ELSE customer_id IS NULL END",
    )
    op.create_check_constraint(
        op.f("ck_postings_account"),
        "postings",
        "account IN ('network_receivable', 'cash', 'customer_pending', 'customer_available', 'customer_in_payout', 'margin_pending', 'margin', 'customer_debt', 'promotions', 'bad_debt', 'payout_fees', 'currency_exchange')",
    )
    op.create_check_constraint(op.f("ck_rates_cap_month_minor"), "rates", "cap_month_minor > 0")
    op.create_check_constraint(op.f("ck_clicks_origin"), "clicks", "origin IN ('customer', 'claim')")
    op.create_check_constraint(
        op.f("ck_orders_exchange_rate"), "orders", "(reported_currency = currency) = (exchange_rate_e12 IS NULL)"
    )
    op.create_check_constraint(op.f("ck_orders_boost"), "orders", "boost_minor BETWEEN 0 AND cashback_minor")
    op.create_check_constraint(op.f("ck_orders_reported_currency"), "orders", "reported_currency ~ '^[A-Z]{3}$'")
    op.create_check_constraint(
        op.f("ck_orders_reported"), "orders", "reported_sale_minor >= 0 AND reported_commission_minor >= 0"
    )
    op.create_check_constraint(
        op.f("ck_webhook_events_status"),
        "webhook_events",
        "status IN ('received', 'processed', 'orphaned', 'quarantined', 'rejected', 'dead', 'discarded')",
    )
    op.create_check_constraint(
        op.f("ck_webhook_events_reported_kind"),
        "webhook_events",
        "reported_kind IN ('created', 'approved', 'declined', 'returned')",
    )
    op.create_check_constraint(
        op.f("ck_order_reports_origin"), "order_reports", "num_nonnulls(webhook_event_id, claim_id, staff_key_id) = 1"
    )
    op.create_check_constraint(op.f("ck_orders_expired_as"), "orders", "expired_as IN ('declined', 'approved')")
    op.create_check_constraint(op.f("ck_orders_expired"), "orders", "(expired_at IS NULL) = (expired_as IS NULL)")
    _create_ledger_guards()


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '4s'")
    # What only the newer schema can say has no place in the older one.
    for table in APPEND_ONLY:
        op.execute(f"DROP TRIGGER {table}_append_only ON {table}")
    op.execute("DROP TRIGGER postings_sealed_day ON postings")
    op.execute("DROP FUNCTION ledger_refuse_sealed_day")
    op.drop_constraint(op.f("ck_orders_expired_as"), "orders", type_="check")
    op.drop_constraint(op.f("ck_orders_expired"), "orders", type_="check")
    op.drop_constraint(op.f("ck_transfers_cause_type"), "transfers", type_="check")
    op.drop_constraint(op.f("ck_merchants_expire_as"), "merchants", type_="check")
    op.drop_constraint(op.f("ck_merchants_expire_days"), "merchants", type_="check")
    op.drop_constraint(op.f("ck_merchants_exposure_limit_minor"), "merchants", type_="check")
    op.drop_constraint(op.f("ck_merchants_clawback_policy"), "merchants", type_="check")
    op.drop_constraint(op.f("ck_merchants_write_off_days"), "merchants", type_="check")
    op.drop_constraint(op.f("ck_wallets_balances"), "wallets", type_="check")
    op.drop_constraint(op.f("ck_postings_dimension"), "postings", type_="check")
    op.drop_constraint(op.f("ck_postings_account"), "postings", type_="check")
    op.drop_constraint(op.f("ck_rates_cap_month_minor"), "rates", type_="check")
    op.drop_constraint(op.f("ck_clicks_origin"), "clicks", type_="check")
    op.drop_constraint(op.f("ck_orders_exchange_rate"), "orders", type_="check")
    op.drop_constraint(op.f("ck_orders_boost"), "orders", type_="check")
    op.drop_constraint(op.f("ck_orders_reported_currency"), "orders", type_="check")
    op.drop_constraint(op.f("ck_orders_reported"), "orders", type_="check")
    op.drop_constraint(op.f("ck_webhook_events_status"), "webhook_events", type_="check")
    op.drop_constraint(op.f("ck_order_reports_origin"), "order_reports", type_="check")
    op.create_check_constraint(
        op.f("ck_transfers_cause_type"), "transfers", "cause_type IN ('order', 'payout', 'adjustment')"
    )
    op.create_check_constraint(
        op.f("ck_wallets_balances"), "wallets", "pending_minor >= 0 AND in_payout_minor >= 0 AND paid_minor >= 0"
    )
    op.create_check_constraint(
        op.f("ck_postings_account"),
        "postings",
        "account IN ('network_receivable', 'cash', 'customer_pending', 'customer_available', 'customer_in_payout', 'margin_pending', 'margin', 'promotions', 'bad_debt')",
    )
    op.create_check_constraint(
        op.f("ck_postings_dimension"),
        "postings",
        "CASE WHEN account IN ('customer_pending', 'customer_available', 'customer_in_payout') THEN customer_id IS NOT NULL AND merchant_id IS NULL WHEN account IN ('network_receivable', 'margin_pending', 'margin') THEN merchant_id IS NOT NULL AND customer_id IS NULL ELSE customer_id IS NULL END",
    )
    op.create_check_constraint(
        op.f("ck_webhook_events_status"),
        "webhook_events",
        "status IN ('received', 'processed', 'orphaned', 'quarantined', 'rejected', 'dead')",
    )
    op.drop_constraint(op.f("fk_webhook_events_merchant_id_merchants"), "webhook_events", type_="foreignkey")
    op.drop_constraint(op.f("fk_webhook_events_matched_click_id_clicks"), "webhook_events", type_="foreignkey")
    op.drop_index("ix_webhook_events_waits_for", table_name="webhook_events", postgresql_where="waits_for IS NOT NULL")
    op.drop_index(
        "ix_webhook_events_uncompared",
        table_name="webhook_events",
        postgresql_where="status = 'orphaned' AND compared_at IS NULL",
    )
    op.drop_index("ix_webhook_events_orphans", table_name="webhook_events", postgresql_where="status = 'orphaned'")
    op.drop_column("webhook_events", "discarded_reason")
    op.drop_column("webhook_events", "matched_click_id")
    op.drop_column("webhook_events", "waits_for")
    op.drop_column("webhook_events", "compared_at")
    op.drop_column("webhook_events", "reported_at")
    op.drop_column("webhook_events", "reported_sale_minor")
    op.drop_column("webhook_events", "reported_currency")
    op.drop_column("webhook_events", "reported_kind")
    op.drop_column("webhook_events", "merchant_id")
    op.drop_column("wallets", "debt_minor")
    op.drop_constraint(op.f("fk_rates_category_id_categories"), "rates", type_="foreignkey")
    op.drop_column("rates", "cap_month_minor")
    op.drop_column("rates", "tiers")
    op.drop_column("rates", "category_id")
    op.drop_index("ix_postings_created", table_name="postings", postgresql_using="brin")
    op.drop_index("ix_postings_house", table_name="postings", postgresql_where="customer_id IS NULL")
    op.drop_index("ix_postings_customer", table_name="postings", postgresql_where="customer_id IS NOT NULL")
    op.create_index(
        "ix_postings_customer",
        "postings",
        ["customer_id", "id"],
        unique=False,
        postgresql_where="customer_id IS NOT NULL",
    )
    op.drop_index("ix_orders_open", table_name="orders", postgresql_where="status = 'pending'")
    for name in ("ix_orders_overpaid", "ix_orders_advanced", "ix_orders_hold", "ix_orders_hold_paid"):
        op.drop_index(name, table_name="orders")
    op.create_index("ix_orders_hold", "orders", ["payable_at"], unique=False, postgresql_where="status = 'approved'")
    op.drop_index(op.f("ix_orders_customer_id_merchant_id_ordered_at"), table_name="orders")
    op.drop_column("orders", "expired_at")
    op.drop_column("orders", "expired_as")
    op.drop_column("orders", "written_off_minor")
    op.drop_column("orders", "settled_minor")
    op.drop_column("orders", "exchange_rate_e12")
    op.drop_column("orders", "reported_commission_minor")
    op.drop_column("orders", "reported_sale_minor")
    op.drop_column("orders", "reported_currency")
    op.drop_column("orders", "boost_minor")
    op.drop_constraint(op.f("fk_order_reports_claim_id_claims"), "order_reports", type_="foreignkey")
    op.drop_constraint(op.f("fk_order_reports_staff_key_id_staff_keys"), "order_reports", type_="foreignkey")
    op.drop_index("ix_order_reports_claim_id", table_name="order_reports", postgresql_where="claim_id IS NOT NULL")
    op.alter_column("order_reports", "webhook_event_id", existing_type=sa.UUID(), nullable=False)
    op.drop_column("order_reports", "part")
    op.drop_column("order_reports", "reason")
    op.drop_column("order_reports", "staff_key_id")
    op.drop_column("order_reports", "claim_id")
    op.drop_column("order_changes", "boost_minor")
    op.drop_column("merchants", "expire_as")
    op.drop_column("merchants", "expire_days")
    op.drop_column("merchants", "write_off_days")
    op.drop_column("merchants", "clawback_policy")
    op.drop_column("merchants", "exposure_limit_minor")
    op.drop_column("merchants", "payable_after_payment")
    op.drop_column("customers", "device_hint")
    op.drop_column("customers", "address_hint")
    op.drop_column("clicks", "boosts")
    op.drop_column("clicks", "rate_tiers")
    op.drop_column("clicks", "rate_cap_month_minor")
    op.drop_column("clicks", "origin")
    op.drop_index("uq_claims_order", table_name="claims", postgresql_where="status IN ('open', 'matched', 'approved')")
    op.drop_index(
        "ix_claims_uncredited", table_name="claims", postgresql_where="status = 'approved' AND order_id IS NULL"
    )
    op.drop_index("ix_claims_event", table_name="claims", postgresql_where="matched_event_id IS NOT NULL")
    op.drop_index(
        "ix_claims_uncompared",
        table_name="claims",
        postgresql_where="status IN ('open', 'matched') AND compared_at IS NULL",
    )
    op.drop_index("ix_claims_waiting", table_name="claims", postgresql_where="status IN ('open', 'matched')")
    op.drop_index("ix_claims_due", table_name="claims", postgresql_where="status IN ('open', 'matched')")
    op.drop_index(op.f("ix_claims_customer_id_id"), table_name="claims")
    op.drop_table("claims")
    op.drop_index(op.f("ix_settlement_lines_order_id"), table_name="settlement_lines")
    op.drop_index(
        "ix_settlement_lines_open",
        table_name="settlement_lines",
        postgresql_where="status <> 'matched' AND resolution IS NULL",
    )
    op.drop_table("settlement_lines")
    op.drop_index(op.f("ix_referral_checks_referral_id"), table_name="referral_checks")
    op.drop_table("referral_checks")
    op.drop_index(op.f("ix_referrals_referrer_id_id"), table_name="referrals")
    op.drop_index("ix_referrals_order_id", table_name="referrals", postgresql_where="order_id IS NOT NULL")
    op.drop_table("referrals")
    op.drop_index(op.f("ix_order_boosts_campaign_id"), table_name="order_boosts")
    op.drop_table("order_boosts")
    op.drop_index(op.f("ix_clawbacks_order_id"), table_name="clawbacks")
    op.drop_index("ix_clawbacks_open", table_name="clawbacks", postgresql_where="status = 'open'")
    op.drop_index("ix_clawbacks_due", table_name="clawbacks", postgresql_where="status = 'open' AND due_at IS NOT NULL")
    op.drop_table("clawbacks")
    op.drop_index(op.f("ix_payout_changes_payout_id"), table_name="payout_changes")
    op.drop_table("payout_changes")
    op.drop_table("settlements")
    op.drop_index(op.f("ix_payouts_status_id"), table_name="payouts")
    op.drop_index("ix_payouts_due", table_name="payouts", postgresql_where="next_attempt_at IS NOT NULL")
    op.drop_index(op.f("ix_payouts_customer_id_id"), table_name="payouts")
    op.drop_index(op.f("ix_payouts_batch_id"), table_name="payouts")
    op.drop_table("payouts")
    op.drop_index(op.f("ix_campaigns_currency_valid_from"), table_name="campaigns")
    op.drop_table("campaigns")
    op.drop_index("uq_payout_methods_live", table_name="payout_methods", postgresql_where="deleted_at IS NULL")
    op.drop_index(op.f("ix_payout_methods_fingerprint"), table_name="payout_methods")
    op.drop_index("ix_payout_methods_customer", table_name="payout_methods", postgresql_where="deleted_at IS NULL")
    op.drop_table("payout_methods")
    op.drop_table("payout_batches")
    op.drop_table("month_closes")
    op.drop_table("exchange_rates")
    op.drop_index(op.f("ix_referral_programs_valid_from"), table_name="referral_programs")
    op.drop_table("referral_programs")
    op.drop_table("payout_rules")
    op.drop_index(op.f("ix_ledger_day_totals_account_currency_day"), table_name="ledger_day_totals")
    op.drop_table("ledger_day_totals")
    op.drop_table("ledger_days")
    op.drop_table("ledger_checks")
