"""Fixtures: databases, the application in-process, and checks that hold after every test.

`session` and `client` share one outer transaction that is rolled back; `committed_db` is a database of its own,
for races, workers and everything else where a commit must really happen.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager

import asyncpg
import httpx
import pytest
from alembic import command
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app import db
from app.cli import alembic_config
from app.config import Environment, Settings
from app.doorbell import Doorbell, create_arq_pool
from app.edge.finished import FinishedAnswers
from app.ids import new_id
from app.logs import configure_logging
from app.main import create_app
from app.services.catalogue_version import catalogue_version
from app.services.external_keys import ExternalKeys
from app.services.ledger.verify import violations
from app.services.passwords import Passwords
from app.services.rate_limits import RateLimiter, RequestClasses
from app.services.sign_in_throttle import SignInThrottle
from app.services.tokens import AccessTokens
from tests.faults import report
from tests.servers import DATABASE_VARIABLE, database_url, redis_url, start_servers

_servers = pytest.StashKey[ExitStack]()

# Files whose tests take long, though they are few: handed out first, none is left for one process at the end.
_LONG = ("tests/money/test_machine.py", "tests/sources/test_malformed.py", "tests/test_dev.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("PYTEST_XDIST_WORKER") is None and not config.getoption("collectonly"):
        config.stash[_servers] = start_servers()
        # As Ctrl-C does: end the run, and with it the servers. By default SIGTERM would leave them behind.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        config.pluginmanager.register(report, "fault-report")


def pytest_unconfigure(config: pytest.Config) -> None:
    if (servers := config.stash.get(_servers, None)) is not None:
        servers.close()


@pytest.fixture(scope="session")
def worker_number() -> int:
    """A number of this test process, from 0: picks its Redis database and names its PostgreSQL ones."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def make_settings(*, database_url: str, redis_url: str, **changes: object) -> Settings:
    """Settings as the suite needs them; nothing is taken from a `.env` file."""
    values: dict[str, object] = {
        "environment": Environment.DEVELOPMENT,
        "allow_private_feeds": True,
        "frontend_origins": ["https://shop.example"],
        "shutdown_grace_seconds": 5,
        # A crowd of requests on a busy machine shall wait for a connection, not fail.
        "db_pool_timeout_seconds": 30.0,
        # What a test writes with a factory raises no version; tests of keeping answers ask for it.
        "catalogue_cache_bytes": 0,
        **changes,
    }
    return Settings(_env_file=None, database_url=database_url, redis_url=redis_url, **values)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
async def empty_database(worker_number: int) -> AsyncIterator[str]:
    """A new, empty database of this test process."""
    name = f"cashback_test_{os.getpid()}_{worker_number}"
    await administer(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)', f'CREATE DATABASE "{name}"')
    yield name
    await drop_database(name)


@pytest.fixture(scope="session")
def template(empty_database: str) -> str:
    """The database, migrated once. Nobody stays connected to it, so that others can be copied from it in no time."""
    # Alembic's env.py runs an event loop of its own, so it needs a thread without one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(command.upgrade, alembic_config(database_url(empty_database)), "head").result()
    return empty_database


@pytest.fixture(scope="session")
async def shared_database(template: str) -> AsyncIterator[str]:
    """This process's database for tests that roll back."""
    async with copied(template) as name:
        yield name


@asynccontextmanager
async def copied(template: str) -> AsyncIterator[str]:
    """A database of its own, as the template is."""
    name = f"{template}_{new_id().hex[-12:]}"
    await administer(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    try:
        yield name
    finally:
        await drop_database(name)


async def drop_database(name: str) -> None:
    """Drop a database, whoever is connected to it."""
    for _ in range(100):
        try:
            await administer(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        except asyncpg.InsufficientPrivilegeError:
            # An autovacuum worker is in it: a superuser's process, which we may not end, but which ends soon.
            await asyncio.sleep(0.1)
        else:
            return
    raise TimeoutError(f"the database {name} cannot be dropped: somebody else's process stays in it")


async def administer(*statements: str) -> None:
    """Run statements on the server outside any of the tests' databases."""
    connection = await asyncpg.connect(os.environ[DATABASE_VARIABLE])
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def settings(shared_database: str, worker_number: int) -> Settings:
    """Settings of the shared database."""
    return make_settings(database_url=database_url(shared_database), redis_url=redis_url(worker_number % 16))


@pytest.fixture(scope="session")
async def shared_engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    engine = db.create_engine(settings, application_name="tests", pool_size=2, max_overflow=2)
    yield engine
    await engine.dispose()


@pytest.fixture
async def session(shared_engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """A session in an outer transaction that also the application's sessions join; all is rolled back."""
    async with shared_engine.connect() as connection:
        outer = await connection.begin()
        db.AsyncSessionLocal.configure(bind=connection, join_transaction_mode="create_savepoint")
        try:
            async with db.AsyncSessionLocal() as session:
                yield session
                # What a real commit would check at its end is checked here.
                await session.flush()
                await session.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
                assert await violations(session) == []
        finally:
            db.AsyncSessionLocal.configure(bind=None, join_transaction_mode="conditional_savepoint")
            await outer.rollback()


@pytest.fixture(scope="session")
def application() -> FastAPI:
    """One application for all tests; `in_process` gives it its settings, which differ in their servers only.

    The framework builds each route anew for each application, on its first request: a third of the suite's time.
    """
    return create_app(make_settings(database_url="postgresql://nobody@localhost/none", redis_url="redis://localhost"))


@pytest.fixture
async def client(session: AsyncSession, application: FastAPI, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """HTTP to the application in-process, inside the test's transaction, with a real Redis behind the doorbell."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(in_process(application, settings))


@pytest.fixture
async def committed_db(template: str, worker_number: int) -> AsyncIterator[Settings]:
    """Settings of a fresh database of this test alone, opened as a process would; every commit is real."""
    async with copied(template) as name:
        own = make_settings(database_url=database_url(name), redis_url=redis_url(worker_number % 16))
        try:
            await db.open_database(own, application_name="tests", pool_size=10, max_overflow=20)
            yield own
            async with db.transaction() as session:
                assert await violations(session) == []
        finally:
            await db.close_database()
            db.AsyncSessionLocal.configure(bind=None)


@pytest.fixture
async def committed_client(committed_db: Settings, application: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """HTTP to the application in-process on `committed_db`: requests may race."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(in_process(application, committed_db))


class in_process:  # noqa: N801 - reads as the function it stands for
    """Wires an application without its lifespan, whose database the fixtures have opened already."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self.app = app
        self.settings = settings

    async def __aenter__(self) -> httpx.AsyncClient:
        configure_logging(self.settings.log_level, process="api")
        self.app.state.settings = self.settings
        # What a test may have replaced.
        self.app.state.passwords = Passwords(self.settings.password_hash_concurrency)
        self.app.state.access_tokens = AccessTokens(self.settings)
        self.app.state.external_keys = ExternalKeys(self.settings)
        self.pool = create_arq_pool(self.settings.redis_url)
        await self.pool.flushdb()
        self.app.state.arq_pool = self.pool
        # On a busy machine the deadline of production would let counts go astray.
        self.app.state.rate_limiter = RateLimiter(self.pool, deadline_seconds=5)
        self.app.state.request_classes = RequestClasses()
        self.app.state.finished_answers = FinishedAnswers(
            max_bytes=self.settings.catalogue_cache_bytes, read_version=catalogue_version
        )
        self.app.state.sign_in_throttle = SignInThrottle(self.app.state.rate_limiter)
        self.doorbell = Doorbell(self.pool)
        self.doorbell.start()
        db.set_bell(self.doorbell.ring)
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://cashback.test")
        return self.client

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        db.set_bell(None)
        await self.doorbell.stop()
        await self.pool.aclose()


@pytest.fixture(autouse=True)
def _propagated_logs() -> Iterator[None]:
    """create_app() replaces the root logger's handlers; give pytest's own back to the next test."""
    import logging  # noqa: PLC0415 - only here

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
