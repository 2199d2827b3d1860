"""Proving the ledger by slices: the same as a whole, a little at a time, and never alarmed by money that moves."""

import asyncio
from dataclasses import replace

import httpx
import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app import db
from app.config import Settings
from app.db import transaction
from app.ids import new_id
from app.models import Account, CauseType, Customer, LedgerCheck, OrderStatus, StaffRole
from app.schemas.payout_batches import PayoutBatchClose
from app.services import staff
from app.services.ledger import credit, debit, post
from app.services.ledger.verify import INVARIANTS, Invariant, Violation, violations
from app.services.ledger.verify_slices import CHECKS, Check, DaysCheck, InvariantCheck, continue_pass, verify
from app.services.payouts import batches
from app.workers import ledger as worker
from tests.factories import make_click, make_customer, make_merchant, make_order, make_payout
from tests.ledger.past import run_command, tamper

MARKETS = ("PKR", "JPY", "KWD")


def small(invariant: Invariant) -> InvariantCheck:
    """The check of an invariant in slices of a single key."""
    return InvariantCheck(replace(invariant, keys=replace(invariant.keys, rows=1)))


SMALL: tuple[Check, ...] = (*map(small, INVARIANTS), DaysCheck())


async def slices(session: AsyncSession, check: Check) -> list[list[Violation]]:
    """The violations of each slice, from the beginning to the end."""
    found, position = [], None
    while True:
        sliced = await check.check_slice(session, position, size=1)
        found.append(sliced.violations)
        if (position := sliced.position) is None:
            return found


async def make_orders() -> list[Customer]:
    """Three customers with an order in each state at each of three merchants."""
    async with transaction() as session:
        merchants = [await make_merchant(session, currency=currency) for currency in MARKETS]
        customers = [await make_customer(session) for _ in range(3)]
        for customer in customers:
            for merchant in merchants:
                click = await make_click(session, customer, merchant)
                for status in OrderStatus:
                    await make_order(session, click, status=status)
    return customers


async def test_slices_of_a_sound_ledger_find_nothing_and_come_to_an_end(committed_db: Settings) -> None:
    await make_orders()
    async with transaction() as session:
        await session.execute(text("SELECT 1"))
        counted = {check.name: await slices(session, check) for check in SMALL}
    assert [name for name, found in counted.items() if any(found)] == []
    # 36 transfers and nine wallets, one a slice; the last has whatever comes after them.
    assert len(counted["transfers_balance"]) == 28
    assert len(counted["orders_equal_postings"]) == 46
    assert len(counted["receivable_equals_unsettled_orders"]) == 4


TAMPERED = {
    "transfers_balance": "UPDATE postings SET amount_minor = 1 WHERE id = (SELECT min(id) FROM postings)",
    "trial_balance": "UPDATE postings SET amount_minor = 1 WHERE id = (SELECT max(id) FROM postings)",
    "wallets_equal_postings": "UPDATE wallets SET pending_minor = pending_minor + 1 WHERE currency = 'JPY'",
    "available_negative_only_by_clawback": "UPDATE wallets SET available_minor = -1 WHERE currency = 'KWD'",
    "orders_equal_postings": "UPDATE orders SET cashback_minor = cashback_minor + 1 WHERE status = 'approved'",
    "campaigns_within_budget": """
        INSERT INTO campaigns (id, name, status, kind, basis_points, currency, spent_minor, valid_from)
        VALUES (gen_random_uuid(), 'x', 'active', 'percent_of_sale', 1, 'PKR', 5, now())
    """,
    "orders_equal_boosts": "UPDATE orders SET boost_minor = 1 WHERE status = 'payable'",
    "payouts_equal_postings": """
        WITH method AS (
            INSERT INTO payout_methods (id, customer_id, kind, details_encrypted, masked, fingerprint, usable_from)
            SELECT gen_random_uuid(), id, 'email', '', '', sha256(id::text::bytea), now() FROM customers
            RETURNING id, customer_id)
        INSERT INTO payouts (id, customer_id, method_id, currency, amount_minor, fee_minor, status, provider)
        SELECT gen_random_uuid(), customer_id, id, 'PKR', 5, 0, 'requested', 'batch' FROM method
    """,
    "settlements_equal_postings": """
        WITH staff AS (
            INSERT INTO staff_keys (id, name, role, prefix, key_hash)
            VALUES (gen_random_uuid(), 'x', 'finance', 'x', '') RETURNING id)
        INSERT INTO settlements (id, merchant_id, reference, currency, paid_on, total_minor, lines_by_status,
                                 created_by_id)
        SELECT gen_random_uuid(), m.id, 'x', currency, now(), 5, '{}', staff.id FROM merchants m, staff
    """,
    "clawbacks_equal_postings": """
        INSERT INTO clawbacks (id, order_id, customer_id, currency, policy, status, shortfall_minor)
        SELECT gen_random_uuid(), id, customer_id, currency, 'offset', 'open', 5 FROM orders WHERE status = 'reversed'
    """,
    "referrals_equal_postings": """
        WITH program AS (
            INSERT INTO referral_programs
                (id, currency, referrer_bonus_minor, invited_bonus_minor, max_granted, valid_from)
            VALUES (gen_random_uuid(), 'PKR', 1, 1, 1, now()) RETURNING id)
        INSERT INTO referrals (id, program_id, referrer_id, invited_id, status, currency, referrer_bonus_minor,
                               invited_bonus_minor, order_id)
        SELECT gen_random_uuid(), p.id, c.id, o.customer_id, 'granted', 'PKR', 1, 1, o.id
        FROM program p, (SELECT min(id::text)::uuid AS id FROM customers) c,
             (SELECT max(customer_id::text)::uuid AS customer_id, max(id::text)::uuid AS id FROM orders) o
    """,
    "receivable_equals_unsettled_orders": """
        UPDATE orders SET reported_commission_minor = reported_commission_minor + 1 WHERE status = 'pending'
    """,
}


@pytest.mark.parametrize("name", TAMPERED)
async def test_slices_find_what_the_whole_finds(doomed_db: Settings, name: str) -> None:
    await make_orders()
    await tamper(TAMPERED[name])
    async with transaction() as session:
        whole = [violation for violation in await violations(session) if violation.invariant == name]
        (check,) = (check for check in SMALL if check.name == name)
        sliced = [violation for found in await slices(session, check) for violation in found]
    assert whole
    assert sorted(sliced, key=str) == sorted(whole, key=str)


async def test_a_batch_that_lost_a_payout_is_found(doomed_db: Settings) -> None:
    async with transaction() as session:
        member, _ = await staff.create_key(session, name="test", role=StaffRole.FINANCE)
        for _ in range(3):
            await make_payout(session, doomed_db)
        wanted = PayoutBatchClose(currency="PKR")
        batch = await batches.close_batch(session, doomed_db, wanted=wanted, staff_key_id=member.id)
    (check,) = (check for check in SMALL if check.name == "batches_equal_payouts")
    async with transaction() as session:
        assert await violations(session) == []
    await tamper("UPDATE payouts SET batch_id = NULL WHERE id = (SELECT id FROM payouts LIMIT 1)")
    detail = "closed with 3 payouts of 180000, has 2 of 120000"
    async with transaction() as session:
        assert await violations(session) == [Violation("batches_equal_payouts", str(batch.id), detail)]
        found = [violation for sliced in await slices(session, check) for violation in sliced]
    assert found == [Violation("batches_equal_payouts", str(batch.id), detail)]


async def test_no_cause_is_posted_twice(doomed_db: Settings) -> None:
    await make_orders()
    await tamper(
        "ALTER TABLE transfers DROP CONSTRAINT uq_transfers_cause_type_cause_id_purpose",
        "CREATE INDEX ON transfers (cause_type, cause_id)",
        """
        INSERT INTO transfers (id, cause_type, cause_id, purpose, details)
        SELECT gen_random_uuid(), cause_type, cause_id, purpose, '{}' FROM transfers ORDER BY id LIMIT 1
        """,
    )
    (check,) = (check for check in SMALL if check.name == "one_transfer_a_cause")
    async with transaction() as session:
        await session.execute(text("SELECT 1"))
        found = [violation for sliced in await slices(session, check) for violation in sliced]
        cause_id = await session.scalar(text("SELECT cause_id FROM transfers ORDER BY id LIMIT 1"))
    assert [(violation.id, violation.detail) for violation in found] == [(str(cause_id), "order pending:1 × 2")]


async def test_passes_go_on_where_they_were_and_remember_what_they_found(doomed_db: Settings) -> None:
    await make_orders()
    await tamper("UPDATE wallets SET pending_minor = pending_minor + 1 WHERE currency = 'JPY'")
    (check,) = (check for check in SMALL if check.name == "wallets_equal_postings")

    async def step() -> tuple[int, bool, int, int, bool]:
        async with transaction() as session:
            found, finished = await continue_pass(session, check)
        async with transaction() as session:
            known = await session.get_one(LedgerCheck, check.name)
            return len(found), finished, known.pass_violations, known.violations, known.position is None

    # A customer has one slice, with wallets in three currencies.
    assert [await step() for _ in range(3)] == [(1, False, so_far, 0, False) for so_far in (1, 2, 3)]
    assert await step() == (0, True, 3, 3, True)
    await tamper("UPDATE wallets SET pending_minor = pending_minor - 1 WHERE currency = 'JPY'")
    # The last whole pass counts until the next one is through.
    assert [await step() for _ in range(4)] == [*[(0, False, 0, 3, False)] * 3, (0, True, 0, 0, True)]


async def test_two_workers_do_not_check_the_same_slice(committed_db: Settings) -> None:
    await make_orders()
    check = SMALL[0]
    async with transaction() as first:
        await continue_pass(first, check)
    async with transaction() as first, transaction() as second:
        assert (await continue_pass(first, check))[1] is False
        assert await continue_pass(second, check) == ([], True)


async def test_the_schedule_checks_everything_and_metrics_say_so(
    committed_db: Settings, committed_client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await make_orders()
    assert await worker.verify_ledger() == 0
    lines = (await committed_client.get("/metrics")).text.splitlines()
    for check in CHECKS:
        assert f'ledger_invariant_violations{{invariant="{check.name}"}} 0.0' in lines
        (age,) = (
            line for line in lines if line.startswith(f'ledger_invariant_pass_age_seconds{{invariant="{check.name}"')
        )
        assert 0 <= float(age.split(" ")[1]) < 60
    assert "ledger_days_unsealed 0.0" in lines


async def test_a_violation_is_an_error_in_the_log_and_in_the_metrics(
    doomed_db: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    customers = await make_orders()
    await tamper("UPDATE wallets SET pending_minor = pending_minor + 1 WHERE currency = 'JPY'")
    assert await worker.verify_ledger() == 3
    records = [record for record in caplog.records if record.message == "ledger invariant violated"]
    assert {vars(record)["id"] for record in records} == {f"{customer.id} JPY" for customer in customers}
    assert {vars(record)["invariant"] for record in records} == {"wallets_equal_postings"}


async def test_a_run_of_the_schedule_ends_in_time_and_the_next_one_goes_on(
    committed_db: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_orders()
    monkeypatch.setattr(worker, "CHECKS", SMALL)
    monkeypatch.setattr(worker, "BUDGET_SECONDS", 0.0)

    async def finished() -> list[str]:
        async with transaction() as session:
            return list(
                await session.scalars(select(LedgerCheck.invariant).where(LedgerCheck.pass_finished_at.is_not(None)))
            )

    # One slice of each: rules without any keys are through.
    await worker.verify_ledger()
    assert "payouts_equal_postings" in await finished()
    assert "transfers_balance" not in await finished()
    for _ in range(60):
        await worker.verify_ledger()
    assert sorted(await finished()) == sorted(check.name for check in SMALL)


async def test_money_that_moves_meanwhile_is_no_violation(committed_db: Settings) -> None:
    """Real transactions of several lines and wallets, while the ledger is proven again and again in every way."""
    async with transaction() as session:
        customers = [await make_customer(session) for _ in range(6)]
        merchant = await make_merchant(session)
        clicks = [await make_click(session, customer, merchant) for customer in customers]
    stop = asyncio.Event()
    moved = 0

    async def move(number: int) -> None:
        nonlocal moved
        while not stop.is_set():
            async with transaction() as session:
                await make_order(session, clicks[number], status=OrderStatus.PAYABLE)
            async with transaction() as session:
                one, other = customers[number], customers[(number + 1) % len(customers)]
                lines = [
                    debit(Account.CUSTOMER_AVAILABLE, 10, "PKR", customer_id=one.id),
                    credit(Account.CUSTOMER_AVAILABLE, 10, "PKR", customer_id=other.id),
                ]
                await post(session, cause_type=CauseType.ADJUSTMENT, cause_id=new_id(), purpose="x", lines=lines)
            moved += 1

    async def prove() -> None:
        for _ in range(3):
            async with db.AsyncSessionLocal() as session, session.begin():
                assert [checked.name async for checked in verify(session) if checked.violations] == []
            for check in SMALL:
                for _ in range(8):
                    async with transaction() as session:
                        assert (await continue_pass(session, check))[0] == []

    movers = [asyncio.create_task(move(number)) for number in range(len(customers))]
    try:
        await prove()
    finally:
        stop.set()
        await asyncio.gather(*movers)
    assert moved > 20


async def test_the_command_names_each_rule_with_its_result_and_time(committed_db: Settings) -> None:
    await make_orders()
    done = await asyncio.to_thread(run_command, committed_db, "verify")
    assert (done.returncode, done.stderr) == (0, "")
    for check, line in zip(CHECKS, done.stdout.splitlines(), strict=True):
        assert line.startswith("ok ")
        assert line.endswith(f" s  {check.name}: {check.rule}")


async def test_the_command_exits_with_1_and_names_what_is_broken(doomed_db: Settings) -> None:
    customers = await make_orders()
    await tamper("UPDATE wallets SET pending_minor = pending_minor + 1 WHERE currency = 'JPY'")
    done = await asyncio.to_thread(run_command, doomed_db, "verify")
    assert done.returncode == 1
    (broken,) = (line for line in done.stdout.splitlines() if not line.startswith("ok "))
    assert "wallets_equal_postings" in broken
    assert broken.startswith("BROKEN")
    for customer in customers:
        assert f"{customer.id} JPY" in done.stderr


async def test_the_command_takes_noted_hashes(committed_db: Settings) -> None:
    done = await asyncio.to_thread(run_command, committed_db, "verify", "--known", "2026-11-01:00ff")
    assert done.returncode == 1
    assert "2026-11-01: it is not sealed" in done.stderr
    done = await asyncio.to_thread(run_command, committed_db, "verify", "--known", "yesterday")
    assert done.returncode == 2
