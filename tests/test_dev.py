"""`cashback dev` as a developer runs it: a real process with its own servers, watched from outside."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest
import redis

from app.dev import CHILDREN, CHILDREN_STOP_SECONDS, DevError, DevSettings, _Child, _Supervisor, free_port
from app.embedded import ServerURLs, embedded_servers

ROOT = Path(__file__).resolve().parent.parent
READY_SECONDS = 90
STOP_SECONDS = 10


class Dev:
    """One `cashback dev` process; its output goes to a file, as with `make run > file`."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.data_dir = folder / "data"
        self.state_file = self.data_dir / "dev.json"
        self.output = folder / "output.log"
        # A developer's own variables and .env file (none in this folder) are not what is tested here.
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app.cli", "dev"],
                cwd=folder,
                env=inherited | {"PYTHONPATH": str(ROOT), "DATA_DIR": "data", "PORT": "0"} | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def wait_until_ready(self) -> dict[str, Any]:
        wait_until(lambda: self.state_file.exists() or self.process.poll() is not None, READY_SECONDS)
        assert self.process.poll() is None, self.output.read_text()
        state: dict[str, Any] = json.loads(self.state_file.read_text())
        return state

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, arguments: str) -> psutil.Process | None:
        """The API or a worker, by the end of its command line."""
        for process in self.family():
            try:
                if " ".join(process.cmdline()).endswith(f"-m app.cli {arguments}"):
                    return process
            except psutil.NoSuchProcess:
                continue
        return None

    def end(self) -> None:
        if self.process.poll() is None:
            family = self.family()
            self.process.terminate()
            try:
                self.process.wait(2 * STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            for process in family:
                if process.is_running():
                    process.kill()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    # Not tmp_path: every other pytest run takes the search permission from that one's parent, which as root we need.
    with tempfile.TemporaryDirectory(prefix="dev test ") as directory:  # the space is meant
        yield Path(directory)


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[tuple[Dev, dict[str, Any]]]:
    dev = Dev(folder)
    try:
        yield dev, dev.wait_until_ready()
    finally:
        dev.end()


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def log_in(state: dict[str, Any]) -> httpx.Response:
    demo = state["demo"]
    form = {"grant_type": "password", "username": demo["customer_email"], "password": demo["customer_password"]}
    return httpx.post(f"{state['api_url']}/v1/auth/token", data=form, trust_env=False, timeout=10)


def is_ready(api_url: str) -> bool:
    try:
        return httpx.get(f"{api_url}/readyz", trust_env=False, timeout=2).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def test_state_file_is_complete_and_readable_for_its_owner_only(running: tuple[Dev, dict[str, Any]]) -> None:
    dev, state = running
    assert set(state) == {"api_url", "database_url", "redis_url", "mailbox_dir", "staff_api_key", "demo"}
    assert {"merchant_id", "source_key", "webhook_secret", "customer_email", "customer_password"} <= set(state["demo"])
    assert state["api_url"].startswith("http://127.0.0.1:")
    assert is_ready(state["api_url"])
    assert stat.S_IMODE(dev.state_file.stat().st_mode) == 0o600
    for secret in ("secret.key", "encryption.key", "postgres.password", "redis.password"):
        assert stat.S_IMODE((dev.data_dir / secret).stat().st_mode) == 0o600


def test_demo_customer_can_log_in(running: tuple[Dev, dict[str, Any]]) -> None:
    answer = log_in(running[1])
    assert answer.status_code == httpx.codes.OK, answer.text
    assert answer.json()["access_token"]


def test_redirected_output_shows_where_but_no_secret(running: tuple[Dev, dict[str, Any]]) -> None:
    dev, state = running
    output = dev.output.read_text()
    assert state["api_url"] in output
    assert "make demo" in output
    passwords = [(dev.data_dir / f"{server}.password").read_text().strip() for server in ("postgres", "redis")]
    demo = state["demo"]
    for secret in (state["staff_api_key"], demo["webhook_secret"], demo["customer_password"], *passwords):
        assert secret not in output


def test_taken_port_is_named_with_the_way_out_and_starts_nothing(running: tuple[Dev, dict[str, Any]]) -> None:
    port = running[1]["api_url"].rpartition(":")[2]
    with tempfile.TemporaryDirectory() as other:
        dev = Dev(Path(other), PORT=port)
        assert dev.process.wait(READY_SECONDS) == 1
        assert f"127.0.0.1:{port} is in use" in dev.output.read_text()
        assert f"PORT={int(port) + 1} make run" in dev.output.read_text()
        assert {file.name for file in dev.data_dir.iterdir()} == {"dev.lock"}


def test_second_start_on_the_same_data_is_refused(running: tuple[Dev, dict[str, Any]], folder: Path) -> None:
    first, state = running
    second = Dev(folder)
    assert second.process.wait(READY_SECONDS) == 1
    assert f"process {first.process.pid} runs dev there" in second.output.read_text()
    assert first.state_file.exists()
    assert is_ready(state["api_url"])


@pytest.mark.parametrize("arguments", [" ".join(child) for child in CHILDREN])
def test_killed_child_is_started_again(running: tuple[Dev, dict[str, Any]], arguments: str) -> None:
    dev, state = running
    child = dev.child(arguments)
    assert child is not None
    child.kill()

    def is_back() -> bool:
        successor = dev.child(arguments)
        return successor is not None and successor.pid != child.pid

    wait_until(is_back, STOP_SECONDS)
    wait_until(lambda: is_ready(state["api_url"]), READY_SECONDS)


def test_killed_server_is_started_again_where_it_was(running: tuple[Dev, dict[str, Any]]) -> None:
    dev, state = running
    (server,) = (process for process in dev.family() if process.name().endswith("-server"))
    server.kill()
    wait_until(lambda: is_gone(server), STOP_SECONDS)
    with redis.Redis.from_url(state["redis_url"]) as client:
        wait_until(lambda: _answers(client), STOP_SECONDS)


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


async def test_sigterm_leaves_nothing_and_the_next_start_finds_everything() -> None:
    with tempfile.TemporaryDirectory(prefix="dev test ") as own:
        first = Dev(Path(own))
        try:
            state = first.wait_until_ready()
            connection = await asyncpg.connect(state["database_url"])
            await connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
            await connection.close()
            family = first.family()
            assert len(family) > len(CHILDREN) + 2
            first.process.send_signal(signal.SIGTERM)
            assert first.process.wait(STOP_SECONDS) == 0
            assert all(map(is_gone, family))
            assert not first.state_file.exists()
        finally:
            first.end()
        second = Dev(Path(own))
        try:
            again = second.wait_until_ready()
            assert again["database_url"] == state["database_url"]
            assert again["redis_url"] == state["redis_url"]
            connection = await asyncpg.connect(again["database_url"])
            assert await connection.fetchval("SELECT n FROM kept") == 42
            await connection.close()
            assert log_in(again).status_code == httpx.codes.OK
        finally:
            second.end()


def test_given_servers_are_used_and_left_running(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as own, embedded_servers(folder / "given", durable=False) as urls:
        dev = Dev(Path(own), DATABASE_URL=urls.database_url, REDIS_URL=urls.redis_url)
        try:
            state = dev.wait_until_ready()
            assert ServerURLs(state["database_url"], state["redis_url"]) == urls
            assert not (dev.data_dir / "postgres").exists()
            assert not (dev.data_dir / "redis").exists()
        finally:
            dev.end()
        with redis.Redis.from_url(urls.redis_url) as client:
            assert client.ping()


@pytest.mark.fault
def test_start_after_a_killed_supervisor_clears_up_first() -> None:
    with tempfile.TemporaryDirectory(prefix="dev test ") as own:
        first = Dev(Path(own))
        state = first.wait_until_ready()
        family = first.family()
        first.process.kill()
        first.process.wait()
        assert is_ready(state["api_url"])  # its children live on
        second = Dev(Path(own), PORT=state["api_url"].rpartition(":")[2])
        try:
            wait_until(lambda: all(map(is_gone, family)), READY_SECONDS)
            wait_until(lambda: second.process.poll() is not None or is_ready(state["api_url"]), READY_SECONDS)
            assert second.process.poll() is None, second.output.read_text()
        finally:
            second.end()
            for process in family:
                if process.is_running():
                    process.kill()


@pytest.mark.fault
def test_repeated_signal_ends_even_frozen_children_at_once() -> None:
    with tempfile.TemporaryDirectory(prefix="dev test ") as own:
        dev = Dev(Path(own))
        try:
            dev.wait_until_ready()
            family = dev.family()
            for arguments in CHILDREN:
                child = dev.child(" ".join(arguments))
                assert child is not None
                child.suspend()
            started = time.monotonic()

            def has_ended_when_asked_again() -> bool:
                dev.process.send_signal(signal.SIGINT)
                return dev.process.poll() is not None

            wait_until(has_ended_when_asked_again, STOP_SECONDS)
            assert time.monotonic() - started < CHILDREN_STOP_SECONDS
            assert dev.process.returncode == 0
            wait_until(lambda: all(map(is_gone, family)), STOP_SECONDS)
        finally:
            dev.end()


@pytest.mark.fault
def test_frozen_children_do_not_hold_up_the_stop() -> None:
    with tempfile.TemporaryDirectory(prefix="dev test ") as own:
        dev = Dev(Path(own))
        try:
            dev.wait_until_ready()
            family = dev.family()
            worker = dev.child("worker sync")
            assert worker is not None
            worker.suspend()
            dev.process.send_signal(signal.SIGHUP)
            assert dev.process.wait(STOP_SECONDS) == 0
            assert all(map(is_gone, family))
        finally:
            dev.end()


def test_api_that_keeps_dying_at_start_ends_it_all(tmp_path: Path) -> None:
    supervisor = _Supervisor(DevSettings(data_dir=tmp_path))
    supervisor.children = [_Child(("serve",))]
    # Without a DATABASE_URL the API refuses to start.
    supervisor.environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    supervisor._start(supervisor.children[0])

    def watch_until_failure() -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            supervisor._watch()
            time.sleep(0.05)

    with pytest.raises(DevError, match="3 times in a row"):
        watch_until_failure()


def test_free_port_names_what_is_wrong() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DevError, match=rf"127\.0\.0\.1:{port} is in use .* PORT={port + 1} make run"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", port) == port
    assert free_port("127.0.0.1", 0) > 0
    with pytest.raises(DevError, match="HOST=no host"):
        free_port("no host", 8000)


def test_unreadable_setting_is_named(tmp_path: Path) -> None:
    dev = Dev(tmp_path, PORT="abc")
    assert dev.process.wait(READY_SECONDS) == 1
    assert "PORT:" in dev.output.read_text()
