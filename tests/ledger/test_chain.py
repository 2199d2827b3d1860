"""The chain of sealed days: when a day is sealed, what its hash is, and that no change to the past stays unseen."""

import asyncio
import hashlib
from datetime import UTC, date, datetime, timedelta

import asyncpg
import pytest
import sqlalchemy.exc
from sqlalchemy import select, text

from app import db
from app.config import Settings
from app.db import constraint_name, transaction
from app.ids import new_id
from app.models import Customer, LedgerDay, LedgerDayTotal
from app.services.ledger import chain
from app.services.ledger.verify import Violation
from app.services.ledger.verify_slices import DAYS, verify
from app.workers.ledger import seal_days
from tests.factories import make_customer
from tests.ledger.past import post_at, run_command, tamper

# Five days ago and on: all over, none too far away.
FIRST = datetime.now(UTC).date() - timedelta(days=5)


def at(day: int, hour: int = 12) -> datetime:
    return datetime(FIRST.year, FIRST.month, FIRST.day, hour, tzinfo=UTC) + timedelta(days=day)


def name(day: int) -> str:
    return (FIRST + timedelta(days=day)).isoformat()


async def sealed() -> list[LedgerDay]:
    async with transaction() as session:
        return list((await session.scalars(select(LedgerDay).order_by(LedgerDay.day))).all())


async def broken() -> list[tuple[str, str]]:
    """What the command finds wrong with the chain, the first day first."""
    async with db.AsyncSessionLocal() as session, session.begin():
        results = [checked async for checked in verify(session)]
    (days,) = (checked for checked in results if checked.name == DAYS.name)
    return [(violation.id, violation.detail) for violation in days.violations]


async def make_past() -> Customer:
    """Postings on the first, second and fourth day, and sealed days up to yesterday."""
    async with transaction() as session:
        customer = await make_customer(session)
        for day, amount in ((0, 100), (0, 250), (1, 70), (3, 30)):
            await post_at(session, at(day), customer, amount)
    assert await seal_days() == 5
    return customer


async def test_finished_days_are_sealed_in_a_chain_also_those_without_postings(committed_db: Settings) -> None:
    await make_past()
    days = await sealed()
    assert [(day.day.isoformat(), day.postings) for day in days] == [
        (name(0), 4),
        (name(1), 2),
        (name(2), 0),
        (name(3), 2),
        (name(4), 0),
    ]
    assert days[0].previous_hash == bytes(32)
    assert [day.previous_hash for day in days[1:]] == [day.hash for day in days[:-1]]
    assert len({day.hash for day in days}) == 5
    # Sealed once: there is nothing left to do, and nothing wrong.
    assert await seal_days() == 0
    assert await broken() == []


async def test_an_empty_ledger_has_nothing_to_seal(committed_db: Settings) -> None:
    assert await seal_days() == 0
    async with transaction() as session:
        assert await chain.count_due(session) == 0


async def test_a_hash_is_what_the_documentation_says(committed_db: Settings) -> None:
    async with transaction() as session:
        customer = await make_customer(session)
        corrected = new_id()
        await post_at(session, at(0), customer, 100, id=corrected)
        details = {"note": 'tab\t, newline\n, back\\slash, "quotes", ünï', "a": None, "number": 1.50}
        await post_at(session, at(1), customer, 7, details=details, corrects_id=corrected)
    await seal_days()
    first, second, *_ = await sealed()
    # As an auditor would: with psql's \copy of these columns, and sha256sum.
    connection = await asyncpg.connect(committed_db.database_url)
    lines = bytearray()

    async def take(part: bytes) -> None:
        lines.extend(part)

    await connection.copy_from_query(
        """
        SELECT p.id, p.transfer_id, p.account, p.merchant_id, p.customer_id, p.currency, p.amount_minor,
               (extract(epoch FROM p.created_at) * 1000000)::bigint, t.cause_type, t.cause_id, t.purpose,
               t.corrects_id, t.details, (extract(epoch FROM t.created_at) * 1000000)::bigint
        FROM postings p JOIN transfers t ON t.id = p.transfer_id
        WHERE p.created_at >= $1 AND p.created_at < $2 ORDER BY p.id
        """,
        at(1, 0),
        at(2, 0),
        output=take,
    )
    await connection.close()
    assert lines.count(b"\n") == 2
    assert second.hash == hashlib.sha256(first.hash + f"{name(1)}\n".encode() + bytes(lines)).digest()


async def test_day_totals_are_what_was_posted(committed_db: Settings) -> None:
    await make_past()
    async with transaction() as session:
        rows = (await session.scalars(select(LedgerDayTotal).order_by(LedgerDayTotal.id))).all()
    assert [
        (row.day.isoformat(), row.account.value, row.postings, int(row.debit_minor), int(row.credit_minor))
        for row in rows
    ] == [
        (name(0), "customer_pending", 2, 0, 350),
        (name(0), "promotions", 2, 350, 0),
        (name(1), "customer_pending", 1, 0, 70),
        (name(1), "promotions", 1, 70, 0),
        (name(3), "customer_pending", 1, 0, 30),
        (name(3), "promotions", 1, 30, 0),
    ]


async def test_today_is_not_sealed(committed_db: Settings) -> None:
    async with transaction() as session:
        customer = await make_customer(session)
        await post_at(session, datetime.now(UTC), customer, 100)
    assert await seal_days() == 0


async def test_a_day_waits_for_transactions_that_may_still_post_into_it(
    committed_db: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with transaction() as session:
        customer = await make_customer(session)
        await post_at(session, at(0), customer, 100)
    # The day ends when this transaction has begun: as one that began before midnight.
    async with db.AsyncSessionLocal() as open_session, open_session.begin():
        began = (await open_session.execute(text("SELECT now()"))).scalar_one()
        await post_at(open_session, at(0), customer, 50)
        real = chain._bounds

        def bounds(day: date) -> dict[str, datetime]:
            return real(day) | {"end": began + timedelta(microseconds=1)}

        async with transaction() as session:
            with monkeypatch.context() as patched:
                patched.setattr(chain, "_bounds", bounds)
                assert not await chain._is_over(session, FIRST)
    async with transaction() as session:
        assert await chain._is_over(session, FIRST)
    await seal_days()
    assert (await sealed())[0].postings == 4


async def test_a_day_waits_until_clocks_agree_that_it_is_over(
    committed_db: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with transaction() as session:
        await post_at(session, at(0), await make_customer(session), 100)
    monkeypatch.setattr(chain, "MARGIN", timedelta(days=3))
    assert await seal_days() == 2
    monkeypatch.setattr(chain, "MARGIN", timedelta(0))
    async with transaction() as session:
        assert await chain.count_due(session) == 3
    assert await seal_days() == 3


async def test_two_sealers_do_not_meet(committed_db: Settings) -> None:
    async with transaction() as session:
        customer = await make_customer(session)
        await post_at(session, at(0), customer, 100)
    counts = await asyncio.gather(*(seal_days() for _ in range(5)))
    assert sum(counts) == 5
    assert [day.day.isoformat() for day in await sealed()] == [name(day) for day in range(5)]
    assert await broken() == []


async def test_no_posting_enters_a_sealed_day(committed_db: Settings) -> None:
    customer = await make_past()
    for when in (at(0), at(2), at(4, 23), at(-30)):
        with pytest.raises(sqlalchemy.exc.IntegrityError) as refused:
            async with transaction() as session:
                await post_at(session, when, customer, 1)
        assert constraint_name(refused.value) == "ledger_sealed_day"
    async with transaction() as session:
        await post_at(session, datetime.now(UTC), customer, 1)


async def tamper_with_days(*statements: str, **values: str) -> None:
    """Tamper with the past; `{1}` is the second day."""
    await tamper(*(statement.format(*(name(day) for day in range(5)), **values) for statement in statements))


DOUBLE = "UPDATE postings SET amount_minor = amount_minor * 2 WHERE created_at::date = '{1}'"


@pytest.mark.parametrize(
    ("statements", "day", "detail"),
    [
        (
            [DOUBLE],
            1,
            "its postings or their transfers are not those that were sealed",
        ),
        (["UPDATE transfers SET purpose = 'thanks' WHERE created_at::date = '{1}'"], 1, "its postings or their"),
        (["""UPDATE transfers SET details = '{{"a": 1}}' WHERE created_at::date = '{1}'"""], 1, "its postings or"),
        (["UPDATE transfers SET created_at = created_at - interval '1 day' WHERE created_at::date = '{1}'"], 1, "its"),
        (["DELETE FROM postings WHERE created_at::date = '{1}'"], 1, "2 postings were sealed, 0 are there"),
        (
            [
                """
                INSERT INTO postings (transfer_id, account, currency, amount_minor, created_at)
                SELECT transfer_id, account, currency, amount_minor, '{2} 12:00Z' FROM postings
                WHERE account = 'promotions' AND created_at::date = '{1}'
                """
            ],
            2,
            "0 postings were sealed, 1 are there",
        ),
        # The same rows, in another order: the second posting of the day becomes the first.
        (
            [
                "UPDATE postings SET id = -id WHERE created_at::date = '{0}'",
                "UPDATE postings SET id = id + 1000 WHERE created_at::date = '{0}'",
            ],
            0,
            "its postings or their transfers",
        ),
        # Moved to the next day: the first of both is named first.
        (
            ["UPDATE postings SET created_at = created_at + interval '1 day' WHERE created_at::date = '{0}'"],
            0,
            "4 postings were sealed, 0 are there",
        ),
        (["UPDATE ledger_days SET hash = sha256('x') WHERE day = '{2}'"], 2, "its postings or their transfers"),
        (["UPDATE ledger_days SET postings = 3 WHERE day = '{1}'"], 1, "3 postings were sealed, 2 are there"),
        (["UPDATE ledger_day_totals SET debit_minor = 71 WHERE day = '{1}' AND debit_minor = 70"], 1, "its total of"),
        (["DELETE FROM ledger_day_totals WHERE day = '{1}'"], 1, "its total of customer_pending"),
        (
            ["DELETE FROM ledger_day_totals WHERE day < '{3}'", "DELETE FROM ledger_days WHERE day < '{3}'"],
            3,
            "the days before it are missing",
        ),
        (
            ["DELETE FROM ledger_day_totals WHERE day = '{1}'", "DELETE FROM ledger_days WHERE day IN ('{1}', '{2}')"],
            3,
            "the days between {0} and it are missing",
        ),
    ],
    ids=[
        "changed",
        "purpose",
        "details",
        "transfer-time",
        "removed",
        "added",
        "reordered",
        "moved",
        "hash",
        "count",
        "total",
        "totals-removed",
        "first-days-removed",
        "days-removed",
    ],
)
async def test_tampering_is_found_and_the_first_day_named(
    doomed_db: Settings, statements: list[str], day: int, detail: str
) -> None:
    await make_past()
    await tamper_with_days(*statements)
    found = await broken()
    assert found[0][0] == name(day)
    assert found[0][1].startswith(detail.format(name(0)))


async def test_the_command_seals_and_prints_hashes_that_verify_takes(committed_db: Settings) -> None:
    async with transaction() as session:
        await post_at(session, at(0), await make_customer(session), 100)
    sealed_now = await asyncio.to_thread(run_command, committed_db, "seal")
    assert sealed_now.returncode == 0, sealed_now.stderr
    first, second, *_ = sealed_now.stdout.splitlines()
    assert first.endswith("  2 postings")
    assert second.endswith("  0 postings")
    known = [argument for line in (first, second) for argument in ("--known", line.split(" ")[0])]
    verified = await asyncio.to_thread(run_command, committed_db, "verify", *known)
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout.splitlines()[-1].startswith("sealed up to ")


async def test_who_also_rewrites_the_day_is_found_a_day_later(doomed_db: Settings) -> None:
    await make_past()
    await tamper_with_days(
        DOUBLE,
        "UPDATE ledger_day_totals SET debit_minor = debit_minor * 2, credit_minor = credit_minor * 2 WHERE day = '{1}'",
    )
    async with transaction() as session:
        (day,) = await chain.next_days(session, FIRST, limit=1)
        forged = await chain.hash_day(session, day.day, previous_hash=day.previous_hash)
    await tamper_with_days("UPDATE ledger_days SET hash = '\\x{forged}' WHERE day = '{1}'", forged=forged.hash.hex())
    assert await broken() == [(name(2), f"it does not follow from {name(1)}")]


async def test_who_rewrites_all_days_is_found_by_a_hash_noted_elsewhere(doomed_db: Settings) -> None:
    await make_past()
    noted = {day.day: day.hash for day in await sealed()}
    await tamper_with_days(DOUBLE, "DELETE FROM ledger_day_totals", "DELETE FROM ledger_days")
    assert await seal_days() == 5
    assert await broken() == []
    async with transaction() as session:
        found = await chain.check_known(session, {**noted, FIRST - timedelta(days=1): bytes(32)})
    assert found == [
        Violation(DAYS.name, name(-1), "it is not sealed"),
        *(Violation(DAYS.name, name(day), "its hash is not the one noted") for day in range(1, 5)),
    ]


async def test_a_posting_before_the_first_day_is_found(doomed_db: Settings) -> None:
    await make_past()
    await tamper_with_days(
        "UPDATE postings SET created_at = created_at - interval '9 days' WHERE created_at::date = '{3}'"
    )
    assert (name(0), "there are postings before it, the first day") in await broken()
