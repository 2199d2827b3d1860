"""Raw events past their time lose their bytes, unless something needs them; repeats are known for ever."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import select

from app.config import Settings
from app.db import transaction
from app.ids import first_id_at
from app.models import OrderStatus, WebhookEvent, WebhookStatus
from app.services.retention import first_kept
from app.workers import retention
from tests.factories import make_click, make_customer, make_merchant, make_order


@pytest.mark.parametrize(
    ("now", "months", "first"),
    [
        (datetime(2026, 11, 25, tzinfo=UTC), 3, datetime(2026, 8, 1, tzinfo=UTC)),
        (datetime(2026, 1, 1, tzinfo=UTC), 12, datetime(2025, 1, 1, tzinfo=UTC)),
        (datetime(2026, 3, 31, tzinfo=UTC), 3, datetime(2025, 12, 1, tzinfo=UTC)),
    ],
)
def test_whole_months_before_this_one_are_kept(now: datetime, months: int, first: datetime) -> None:
    assert first_kept(now, months) == first


async def test_only_what_is_old_and_decided_and_of_no_order_in_progress_loses_its_bytes(
    committed_db: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    old = first_kept(datetime.now(UTC), 3) - timedelta(days=1)
    async with transaction() as session:
        click = await make_click(session, await make_customer(session), await make_merchant(session))
        pending, payable = [
            await make_order(session, click, status=status) for status in (OrderStatus.PENDING, OrderStatus.PAYABLE)
        ]

        def add(name: str, status: WebhookStatus, *, at: datetime = old, order_id: UUID | None = None) -> None:
            number = len(session.new)
            session.add(
                WebhookEvent(
                    id=UUID(int=first_id_at(at).int + number),
                    source_id=pending.source_id,
                    dedupe_key=name,
                    body=b"raw",
                    body_sha256=b"d" * 32,
                    content_type="",
                    headers={"a": "b"},
                    status=status,
                    received_at=at,
                    order_id=order_id,
                )
            )

        add("final", WebhookStatus.PROCESSED, order_id=payable.id)
        add("in progress", WebhookStatus.PROCESSED, order_id=pending.id)
        for status in WebhookStatus:
            add(status.value, status)
        add("young", WebhookStatus.REJECTED, at=old + timedelta(days=1))
    dry = await retention.erase_raw_events(3, is_dry=True)
    assert (dry.erased, dry.needed) == (6, 5)
    assert await _with_bytes() == 12
    task = retention.retention(committed_db.model_copy(update={"webhook_raw_keep_months": 3}))
    assert await task() == 6
    async with transaction() as session:
        kept = await session.scalars(select(WebhookEvent.dedupe_key).where(WebhookEvent.body != b""))
        rows = await session.scalars(select(WebhookEvent).where(WebhookEvent.erased_at.is_not(None)))
        erased = {row.dedupe_key: (row.body, row.headers, row.body_sha256) for row in rows}
    assert set(kept) == {"in progress", "received", "orphaned", "quarantined", "dead", "young"}
    assert erased == dict.fromkeys(
        ("final", "processed", "rejected", "discarded", "ignored", "split"), (b"", {}, b"d" * 32)
    )
    assert await task() == 0
    # By default everything is kept.
    assert await retention.retention(committed_db)() == 0


async def _with_bytes() -> int:
    async with transaction() as session:
        return len((await session.scalars(select(WebhookEvent.id).where(WebhookEvent.body != b""))).all())
