"""Retiring an encryption key: everything sealed is sealed anew, and nothing is lost on the way."""

import asyncio
import os
import sys
from datetime import UTC, datetime

import pytest
from cryptography.fernet import Fernet, InvalidToken
from pydantic import SecretStr
from sqlalchemy import LargeBinary
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.models import Base, PayoutMethod, Source
from app.services import reseal
from app.services.payouts.accounts import fingerprint, open_method
from app.services.secrets import seal, unseal
from tests.factories import make_customer, make_payout_method, make_source


def keyed(settings: Settings, *keys: bytes) -> Settings:
    return settings.model_copy(update={"encryption_keys": [SecretStr(key.decode()) for key in keys]})


def test_every_sealed_column_is_known() -> None:
    columns = {
        f"{table.name}.{column.name}"
        for table in Base.metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, LargeBinary) and column.name.endswith("_encrypted")
    }
    assert columns == {f"{column.class_.__tablename__}.{column.key}" for column in reseal.SEALED}


async def reseal_all(session: AsyncSession, settings: Settings) -> tuple[int, list[str]]:
    done = 0
    unreadable: list[str] = []
    for column in reseal.SEALED:
        batch = await reseal.reseal_batch(session, settings, column)
        while batch.last_id is not None:
            done, unreadable = done + batch.done, unreadable + batch.unreadable
            batch = await reseal.reseal_batch(session, settings, column, after=batch.last_id)
    return done, unreadable


async def test_after_resealing_the_old_key_is_not_needed(
    session: AsyncSession, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reseal, "BATCH", 2)
    old, new = Fernet.generate_key(), Fernet.generate_key()
    before, during, after = keyed(settings, old), keyed(settings, new, old), keyed(settings, new)
    customer = await make_customer(session)
    methods = [await make_payout_method(session, before, customer) for _ in range(5)]
    accounts = [open_method(before, method) for method in methods]
    wiped = await make_payout_method(session, before, customer, details_encrypted=b"", deleted_at=datetime.now(UTC))
    source = await make_source(session, secrets_encrypted=seal(before, ["newest", "oldest"]))
    for _ in range(2):
        assert await reseal_all(session, during) == (6, [])
    found = [await session.get_one(PayoutMethod, method.id, populate_existing=True) for method in methods]
    assert [open_method(after, method) for method in found] == accounts
    kept = await session.get_one(Source, source.id, populate_existing=True)
    assert unseal(after, kept.secrets_encrypted or b"") == ["newest", "oldest"]
    assert (await session.get_one(PayoutMethod, wiped.id, populate_existing=True)).details_encrypted == b""
    with pytest.raises(InvalidToken):
        open_method(before, found[0])


async def test_fingerprints_follow_a_new_secret_key(session: AsyncSession, settings: Settings) -> None:
    renewed = settings.model_copy(update={"secret_key": SecretStr("another key of thirty-two characters or more")})
    customer, other = await make_customer(session), await make_customer(session)
    method = await make_payout_method(session, settings, customer)
    account = open_method(settings, method)
    again = await make_payout_method(session, renewed, other, account)
    twice = await make_payout_method(session, settings, other, account)
    assert (await reseal_all(session, renewed))[0] == 3
    for row in (method, again, twice):
        await session.refresh(row)
    assert method.fingerprint == again.fingerprint == fingerprint(renewed, account)
    # Its customer has it under the new key already.
    assert twice.fingerprint == fingerprint(settings, account)


async def test_the_command_reseals_and_names_what_no_key_opens(committed_db: Settings) -> None:
    old, new = Fernet.generate_key(), Fernet.generate_key()
    async with transaction() as session:
        customer = await make_customer(session)
        method = await make_payout_method(session, keyed(committed_db, old), customer)
        lost = await make_payout_method(session, keyed(committed_db, Fernet.generate_key()), customer)
    environment = {
        **os.environ,
        "ENVIRONMENT": "development",
        "DATABASE_URL": committed_db.database_url,
        "REDIS_URL": committed_db.redis_url,
        "ENCRYPTION_KEYS": f"{new.decode()},{old.decode()}",
    }
    command, pipe = [sys.executable, "-m", "app.cli", "reseal"], asyncio.subprocess.PIPE
    run = await asyncio.create_subprocess_exec(*command, env=environment, stdout=pipe, stderr=pipe)
    said, complained = await asyncio.wait_for(run.communicate(), 60)
    assert run.returncode == 1
    assert "payout_methods.details_encrypted: 1\n" in said.decode()
    assert complained.decode() == f"payout_methods.details_encrypted {lost.id}: none of ENCRYPTION_KEYS opens it\n"
    async with transaction() as session:
        found = await session.get_one(PayoutMethod, method.id)
        assert open_method(keyed(committed_db, new), found).account_number is not None
