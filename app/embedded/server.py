"""One embedded server: a child process on one data directory, with a port, a password, a lock and a log of its own."""

import contextlib
import fcntl
import importlib.util
import logging
import os
import random
import secrets
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

log = logging.getLogger(__name__)

START_SECONDS = 30.0
# Below every system's range of outgoing ports: a client that keeps dialling a stopped server on a port of that range
# can be given the very same port for its own end, and then the server cannot have it back.
PORTS = range(15_000, 30_000)
POLL_SECONDS = 0.02
# What a server says when the port, or the memory of its killed predecessor, is not free yet.
RETRY_WHEN_LOGGED = ("Address already in use", "is still in use")


class EmbeddedError(Exception):
    """An embedded server could not be found, prepared or started; the message says what to do about it."""


class Server(ABC):
    """One server process on one data directory: start and stop it as often as needed, on one port."""

    name: ClassVar[str]
    # Each with the seconds it is given; the first is the clean way.
    stop_signals: ClassVar[tuple[tuple[signal.Signals, float], ...]]

    def __init__(self, data_dir: Path, *, durable: bool = True) -> None:
        self.data_dir = data_dir.expanduser().resolve()
        self.directory = self.data_dir / self.name
        self.log_file = self.data_dir / f"{self.name}.log"
        self.durable = durable
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    @property
    def pid(self) -> int | None:
        """The server's process id (of PostgreSQL: the postmaster's), None when it is not running."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def password(self) -> str:
        """The random password, made at the first start and kept in a file that only its owner can read."""
        return kept_secret(self.data_dir / f"{self.name}.password")

    def is_running(self) -> bool:
        """Whether the process exists; a stopped (SIGSTOP) one does."""
        return self.pid is not None

    def start(self) -> str:
        """Start the server, wait until it answers, return its URL; at once if it already runs.

        The first start takes the port of last time when that is free. A later start of the same object always has the
        same port, so URLs handed out stay good. Raises EmbeddedError.
        """
        if self.is_running():
            return self.url
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            if self._lock is None:
                self._lock = take_lock(self.data_dir, self.name)
            self._stop_stale()
            self._prepare()
            self._launch()
        except OSError as error:
            self.stop()
            raise EmbeddedError(f"Cannot start {self.name} in {self.data_dir}: {error}") from error
        except BaseException:
            self.stop()
            raise
        return self.url

    def stop(self) -> None:
        """Stop the server cleanly, by force when it does not obey, also when it is frozen; nothing to do is fine."""
        process, self._process = self._process, None
        try:
            if process is not None:
                self._end(process.pid, lambda: process.poll() is None)
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    @property
    def url(self) -> str:
        """Where the server listens once it has been started; raises EmbeddedError before."""
        if self._port is None:
            raise EmbeddedError(f"{self.name} has not been started")
        return self._url(self._port)

    @abstractmethod
    def _url(self, port: int) -> str: ...

    @abstractmethod
    def _prepare(self) -> None:
        """Make what must be there before the first start."""

    @abstractmethod
    def _command(self, port: int) -> list[str]: ...

    @abstractmethod
    def _answers(self, port: int) -> bool:
        """Whether a real connection is served."""

    @abstractmethod
    def _stale_pid(self) -> int | None:
        """The process id that the server itself noted in its data directory, if that process still is this server."""

    def _run_as(self) -> dict[str, Any]:
        return {}

    def _stop_stale(self) -> None:
        # We hold the lock, so a server that still runs here has lost its supervisor (kill -9).
        if (pid := self._stale_pid()) is not None:
            log.warning("stopping the %s that a killed process left behind (pid %d)", self.name, pid)
            self._end(pid, lambda: self._stale_pid() == pid)

    def _end(self, pid: int, alive: Callable[[], bool]) -> None:
        for number, seconds in self.stop_signals:
            if not alive():
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                os.kill(pid, signal.SIGCONT)  # a frozen process takes no other signal
            deadline = time.monotonic() + seconds
            while alive() and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
        if alive():
            raise EmbeddedError(f"{self.name} (pid {pid}) does not end, not even by SIGKILL")

    def _launch(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        if self.log_file.exists() and self.log_file.stat().st_size > 10_000_000:
            self.log_file.replace(self.log_file.with_suffix(".log.old"))
        self.log_file.touch(mode=0o600)  # statements, and with them data, end up there
        while True:
            port = self._choose_port()
            with self.log_file.open("ab") as output:
                seen = output.tell()
                self._process = subprocess.Popen(  # noqa: S603  (no shell; the arguments are ours)
                    self._command(port),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd="/",  # the unprivileged user may not be able to read ours
                    env=clean_environment(),
                    start_new_session=True,  # a terminal's Ctrl-C is for the supervisor, which then stops us in order
                    **self._run_as(),
                )
            while self._process.poll() is None and time.monotonic() < deadline:
                if self._answers(port):
                    self._port = port
                    return
                time.sleep(POLL_SECONDS)
            said = self.log_file.read_bytes()[seen:].decode(errors="replace")
            exit_code = self._process.poll()
            if time.monotonic() < deadline and any(reason in said for reason in RETRY_WHEN_LOGGED):
                time.sleep(0.2)
                continue
            what = f"did not answer within {START_SECONDS:.0f} s" if exit_code is None else f"exited with {exit_code}"
            tail = "\n".join(said.splitlines()[-20:])
            raise EmbeddedError(f"{self.name} {what}. The end of {self.log_file}:\n{tail}")

    def _choose_port(self) -> int:
        if self._port is not None:
            if not _port_is_free(self._port):
                raise EmbeddedError(f"Port {self._port}, which {self.name} had before, was taken by another process")
            return self._port
        memory = self.data_dir / f"{self.name}.port"
        last = memory.read_text().strip() if memory.exists() else ""
        if last.isdigit() and _port_is_free(int(last)):
            return int(last)
        for port in random.SystemRandom().sample(PORTS, 100):
            if _port_is_free(port):
                memory.write_text(f"{port}\n")
                return port
        raise EmbeddedError(f"No free port between {PORTS.start} and {PORTS.stop} on 127.0.0.1")


def take_lock(data_dir: Path, name: str) -> int:
    """Take `<name>.lock` in the data directory for as long as the returned file descriptor stays open.

    Raises EmbeddedError when another process (or object) has it; a killed process has not.
    """
    lock = os.open(data_dir / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(lock, 20).decode() or "unknown"
        os.close(lock)
        raise EmbeddedError(
            f"{data_dir} is in use: process {holder} runs {name} there. Stop it, or set another DATA_DIR."
        ) from error
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    return lock


def kept_secret(file: Path, make: Callable[[], str] = lambda: secrets.token_hex(16)) -> str:
    """What `file` holds; a secret (of `make`) is put there, readable for its owner only, when there is no such file."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return file.read_text().strip()
    with os.fdopen(descriptor, "w") as output:
        value = make()
        output.write(f"{value}\n")
    return value


def command_line(pid: int) -> str:
    """The process's program and arguments with spaces between; empty when there is none, or only a zombie."""
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603  (a number is all we add)


def package_folder(name: str) -> Path | None:
    """Return the folder of an installed package, found without importing it; None when it is not installed."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).resolve().parent if spec is not None and spec.origin else None


def clean_environment() -> dict[str, str]:
    """Return our environment without what is about the developer's other databases."""
    # libpq and the server read PG* variables.
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def noted_pid(file: Path) -> int | None:
    """Return the process id in the first line of a file, or None."""
    first = file.read_text().split("\n", 1)[0].strip() if file.exists() else ""
    return int(first) if first.isdigit() else None


def _port_is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers do it: connections of the last run that linger in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
