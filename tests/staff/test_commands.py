"""The command that makes a staff key when there is none yet."""

import asyncio
import os
import subprocess
import sys

import httpx
from sqlalchemy import select

from app.config import Settings
from app.db import transaction
from app.models import AuditEntry, StaffKey


def create_key(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli", "staff", "create-key", *arguments],
        env={
            "PATH": os.environ["PATH"],
            "ENVIRONMENT": "development",
            "DATABASE_URL": settings.database_url,
            "REDIS_URL": settings.redis_url,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def test_the_first_key_is_made_at_the_command_line_and_leaves_a_row(
    committed_db: Settings, committed_client: httpx.AsyncClient
) -> None:
    arguments = ("ada@cashback.example", "--role", "admin", "--scope", "staff:manage", "--valid-days", "30")
    done = await asyncio.to_thread(create_key, committed_db, *arguments)
    assert done.returncode == 0, done.stderr
    key = done.stdout.strip()
    listed = await committed_client.get("/v1/admin/staff-keys", headers={"X-API-Key": key})
    [shown] = listed.json()["items"]
    assert (shown["name"], shown["role"], shown["scopes"]) == ("ada@cashback.example", "admin", ["staff:manage"])
    async with transaction() as session:
        [entry] = await session.scalars(select(AuditEntry))
        [row] = await session.scalars(select(StaffKey))
    assert (entry.action, entry.target_type, entry.target_id) == ("cli.staff create-key", "staff_keys", str(row.id))
    assert entry.actor
    assert (entry.member_id, entry.key_id) == (None, None)
    assert key not in str(entry.after)
