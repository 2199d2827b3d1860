"""Only what has expired is deleted."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from app.db import transaction
from app.ids import new_id
from app.models import IdempotencyKey, RefreshToken
from app.workers.housekeeping import forget_expired
from tests.factories import make_customer


@pytest.mark.usefixtures("committed_db")
async def test_expired_rows_go_and_the_others_stay() -> None:
    now = datetime.now(UTC)
    async with transaction() as session:
        customer = await make_customer(session)
        for name, expires_at in (("old", now - timedelta(hours=1)), ("live", now + timedelta(hours=1))):
            session.add(
                RefreshToken(
                    customer_id=customer.id, family_id=new_id(), token_hash=name.encode(), expires_at=expires_at
                )
            )
            session.add(
                IdempotencyKey(
                    scope="test", key=name, request_hash=b"", status_code=201, body=b"", expires_at=expires_at
                )
            )
    assert await forget_expired() == 2
    assert await forget_expired() == 0
    async with transaction() as session:
        assert (await session.scalars(select(IdempotencyKey.key))).all() == ["live"]
        assert (await session.scalars(select(RefreshToken.token_hash))).all() == [b"live"]
