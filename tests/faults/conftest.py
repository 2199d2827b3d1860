"""Servers of the test's own, so that it may stop, freeze and kill them."""

import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command

from app.cli import alembic_config
from app.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.service import Service


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: as root, PostgreSQL runs as another user, who must be able to reach its files.
    path = Path(tempfile.mkdtemp(prefix="cashback-fault-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def postgres(folder: Path) -> Iterator[EmbeddedPostgres]:
    """A migrated PostgreSQL."""
    server = EmbeddedPostgres(folder / "postgres", durable=False)
    url = server.start()
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(command.upgrade, alembic_config(url), "head").result()
        yield server
    finally:
        server.stop()


@pytest.fixture
def redis(folder: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(folder / "redis", durable=False)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def service(folder: Path, postgres: EmbeddedPostgres, redis: EmbeddedRedis) -> Iterator[Service]:
    with Service(folder, database_url=postgres.url, redis_url=redis.url) as service:
        yield service
