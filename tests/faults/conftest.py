"""Servers of the test's own, so that it may stop, freeze and kill them."""

import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command

from app import db
from app.cli import alembic_config
from app.config import Settings
from app.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.conftest import make_settings
from tests.faults.report import note
from tests.service import Service

__all__ = ["note"]


@pytest.fixture(scope="session")
def migrated() -> Iterator[Path]:
    """The data of a migrated PostgreSQL that does not run, to be copied: a second instead of six."""
    path = Path(tempfile.mkdtemp(prefix="cashback-fault-template-"))
    server = EmbeddedPostgres(path, durable=False)
    try:
        url = server.start()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(command.upgrade, alembic_config(url), "head").result()
        server.stop()
        yield path
    finally:
        server.stop()
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: as root, PostgreSQL runs as another user, who must be able to reach its files.
    path = Path(tempfile.mkdtemp(prefix="cashback-fault-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def postgres(folder: Path, migrated: Path) -> Iterator[EmbeddedPostgres]:
    """A migrated PostgreSQL."""
    target = folder / "postgres"
    # With its owner, which copytree forgets.
    subprocess.run(["cp", "-a", str(migrated), str(target)], check=True)
    (target / "postgres.port").unlink()
    server = EmbeddedPostgres(target, durable=False)
    server.start()
    try:
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


@pytest.fixture
async def settings_of_service(
    service: Service, postgres: EmbeddedPostgres, redis: EmbeddedRedis
) -> AsyncIterator[Settings]:
    """Settings that reach the service's servers, which this process's own sessions use as well."""
    settings = make_settings(database_url=postgres.url, redis_url=redis.url)
    await db.open_database(settings, application_name="tests", pool_size=4, max_overflow=4)
    yield settings
    await db.close_database()
    db.AsyncSessionLocal.configure(bind=None)
