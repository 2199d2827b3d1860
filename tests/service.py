"""The service as real processes, started by the real command, for tests that need the whole."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import orjson

from app.config import DEVELOPMENT_ENCRYPTION_KEY, DEVELOPMENT_SECRET_KEY

Found = TypeVar("Found")


def wait_until(look: Callable[[], Found], *, seconds: float, what: str) -> Found:
    """Look again and again until the answer is true, and return it. Fails when it takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := look():
                return found
        except (httpx.HTTPError, OSError):
            pass
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Process:
    """One process of the service; its JSON log goes to a file."""

    arguments: tuple[str, ...]
    environment: dict[str, str]
    log: Path
    popen: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> "Process":
        with self.log.open("ab") as output:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "app.cli", *self.arguments],
                env=os.environ | self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def kill(self) -> None:
        """End it at once, as an out-of-memory killer would."""
        self.popen.kill()
        self.popen.wait(10)

    def stop(self, *, seconds: float = 15) -> int:
        """Ask it to end and return its exit code; kills it when it does not."""
        if self.popen.poll() is None:
            self.popen.terminate()
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def log_lines(self) -> list[dict[str, Any]]:
        """The JSON lines written so far."""
        lines = self.log.read_bytes().splitlines()
        return [orjson.loads(line) for line in lines if line.startswith(b"{")]


class Service:
    """An API and workers on one database and Redis."""

    def __init__(self, folder: Path, *, database_url: str, redis_url: str, **settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "ENVIRONMENT": "development",
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "SECRET_KEY": DEVELOPMENT_SECRET_KEY,
            "ENCRYPTION_KEYS": DEVELOPMENT_ENCRYPTION_KEY,
            "ALLOW_PRIVATE_FEEDS": "true",
            "PORT": str(self.port),
            "SHUTDOWN_GRACE_SECONDS": "5",
            # All of a test's load comes from one address.
            "RATE_LIMIT_FACTOR": "1000",
            "MAILBOX_DIR": str(folder / "mailbox"),
            **settings,
        }
        self.processes: list[Process] = []

    def start(self, *arguments: str) -> Process:
        """Start one process of the service: `serve`, or `worker default`."""
        name = "-".join(arguments)
        process = Process(arguments, self.environment, self.folder / f"{name}-{len(self.processes)}.log").start()
        self.processes.append(process)
        return process

    def start_api(self) -> Process:
        """Start the API and wait until it serves."""
        process = self.start("serve")
        wait_until(lambda: httpx.get(f"{self.url}/livez").is_success, seconds=20, what="the API serves")
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes:
            if process.popen.poll() is None:
                process.popen.terminate()
        for process in self.processes:
            process.stop()


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process's clock (SIGSTOP) while the block runs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
