"""Transfers move wallets, balance, and are posted once."""

import pytest
import sqlalchemy.exc
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app import db
from app.config import Settings
from app.db import constraint_name, transaction
from app.ids import new_id
from app.models import Account, CauseType, Customer, Posting, Transfer, Wallet
from app.services.ledger import Entry, Line, credit, debit, post, post_all
from app.services.ledger.verify import TRANSFERS, Invariant, Violation, violations
from tests.factories import make_customer


def bonus(customer: Customer, amount_minor: int) -> list[Line]:
    return [
        debit(Account.PROMOTIONS, amount_minor, "PKR"),
        credit(Account.CUSTOMER_PENDING, amount_minor, "PKR", customer_id=customer.id),
    ]


async def wallet_of(session: AsyncSession, customer: Customer) -> tuple[int, int, int]:
    row = (
        await session.execute(
            select(Wallet.pending_minor, Wallet.available_minor, Wallet.in_payout_minor).where(
                Wallet.customer_id == customer.id
            )
        )
    ).one()
    return row[0], row[1], row[2]


async def test_a_transfer_moves_the_wallet_and_undoes_it(session: AsyncSession) -> None:
    customer = await make_customer(session)
    lines = bonus(customer, 600)
    cause_id = new_id()
    await post(session, cause_type=CauseType.ADJUSTMENT, cause_id=cause_id, purpose="one", lines=lines)
    assert await wallet_of(session, customer) == (600, 0, 0)
    undo = [line.reversed() for line in lines]
    await post(session, cause_type=CauseType.ADJUSTMENT, cause_id=cause_id, purpose="two", lines=undo)
    assert await wallet_of(session, customer) == (0, 0, 0)


async def test_many_transfers_at_once_are_those_one_by_one(session: AsyncSession) -> None:
    known, new = await make_customer(session), await make_customer(session)
    await post(session, cause_type=CauseType.ADJUSTMENT, cause_id=new_id(), purpose="one", lines=bonus(known, 600))
    nothing = [*bonus(known, 5), *(line.reversed() for line in bonus(known, 5))]
    cause_id = new_id()
    lines = {"a": bonus(known, 40), "b": bonus(new, 7), "c": nothing, "d": bonus(known, 2)}
    await post_all(session, [Entry(CauseType.ADJUSTMENT, cause_id, purpose, of_it) for purpose, of_it in lines.items()])
    # A wallet that was there, and one that was not.
    assert await wallet_of(session, known) == (642, 0, 0)
    assert await wallet_of(session, new) == (7, 0, 0)
    posted = select(Transfer.purpose, Transfer.id).where(Transfer.cause_id == cause_id).order_by(Transfer.purpose)
    transfers = {row.purpose: row.id for row in await session.execute(posted)}
    assert list(transfers) == ["a", "b", "d"]
    amounts = select(Posting.amount_minor).where(Posting.transfer_id == transfers["b"]).order_by(Posting.amount_minor)
    assert (await session.scalars(amounts)).all() == [-7, 7]


async def test_nothing_at_once_posts_nothing(session: AsyncSession) -> None:
    await post_all(session, [])
    assert (await session.scalars(select(Transfer))).all() == []


async def test_lines_of_one_account_are_netted_and_nothing_is_not_posted(session: AsyncSession) -> None:
    customer = await make_customer(session)
    lines = bonus(customer, 600)
    nothing = await post(
        session,
        cause_type=CauseType.ADJUSTMENT,
        cause_id=new_id(),
        purpose="nothing",
        lines=[*lines, *(line.reversed() for line in lines)],
    )
    assert nothing is None
    transfer_id = await post(
        session, cause_type=CauseType.ADJUSTMENT, cause_id=new_id(), purpose="twice", lines=[*lines, *lines]
    )
    amounts = await session.scalars(select(Posting.amount_minor).where(Posting.transfer_id == transfer_id))
    assert sorted(amounts) == [-1_200, 1_200]


async def test_the_same_cause_and_purpose_is_refused(session: AsyncSession) -> None:
    customer = await make_customer(session)
    lines, cause_id = bonus(customer, 5), new_id()
    await post(session, cause_type=CauseType.ADJUSTMENT, cause_id=cause_id, purpose="same", lines=lines)
    with pytest.raises(sqlalchemy.exc.IntegrityError) as refused:
        async with session.begin_nested():
            await post(session, cause_type=CauseType.ADJUSTMENT, cause_id=cause_id, purpose="same", lines=lines)
    assert constraint_name(refused.value) == "uq_transfers_cause_type_cause_id_purpose"


async def test_an_unbalanced_transfer_fails_at_commit_and_leaves_nothing(committed_db: Settings) -> None:
    async with transaction() as session:
        customer = await make_customer(session)
    lines = [bonus(customer, 5)[0], bonus(customer, 3)[1]]
    with pytest.raises(sqlalchemy.exc.IntegrityError, match="does not balance"):
        async with transaction() as session:
            await post(session, cause_type=CauseType.ADJUSTMENT, cause_id=new_id(), purpose="half", lines=lines)
    async with transaction() as session:
        assert (await session.scalars(select(Posting))).all() == []
        assert (await session.scalars(select(Wallet))).all() == []


async def test_pending_money_never_goes_below_zero(session: AsyncSession) -> None:
    customer = await make_customer(session)
    lines = [line.reversed() for line in bonus(customer, 5)]
    with pytest.raises(sqlalchemy.exc.IntegrityError) as refused:
        async with session.begin_nested():
            await post(session, cause_type=CauseType.ADJUSTMENT, cause_id=new_id(), purpose="minus", lines=lines)
    assert constraint_name(refused.value) == "ck_wallets_balances"


async def test_verify_names_a_wallet_that_was_tampered_with(session: AsyncSession) -> None:
    customer = await make_customer(session)
    lines = bonus(customer, 5)
    async with session.begin_nested() as seeded:
        await post(session, cause_type=CauseType.ADJUSTMENT, cause_id=new_id(), purpose="seed", lines=lines)
        wallet = await session.get_one(Wallet, (customer.id, "PKR"))
        wallet.pending_minor = 6
        await session.flush()
        found = await violations(session)
        await seeded.rollback()
    assert [(violation.invariant, violation.id) for violation in found] == [
        ("wallets_equal_postings", f"{customer.id} PKR")
    ]


async def test_verify_outlasts_the_limits_of_requests(committed_db: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient = committed_db.model_copy(update={"db_statement_timeout_seconds": 0.05})
    slow = Invariant("slow", "Takes its time.", TRANSFERS, "SELECT 'a' AS id, 'b' AS detail FROM pg_sleep(3)")
    monkeypatch.setattr("app.services.ledger.verify.INVARIANTS", (slow,))
    engine = db.create_engine(impatient, application_name="tests", pool_size=1, max_overflow=0)
    async with AsyncSession(engine) as session, session.begin():
        assert await violations(session) == [Violation("slow", "a", "b")]
    await engine.dispose()
    monkeypatch.undo()
