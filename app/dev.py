"""`cashback dev`: servers, migrations, demo data, the API and both job workers under one Ctrl-C.

With DATABASE_URL and REDIS_URL unset it starts its own PostgreSQL and Redis (app/embedded/). A child that dies is
started again; a signal stops everything, in order, within ten seconds.
"""

import asyncio
import contextlib
import errno
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn

import httpx
from cryptography.fernet import Fernet
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.config import Environment, Settings
from app.db import close_database, open_database, transaction
from app.embedded import (
    EmbeddedError,
    EmbeddedPostgres,
    EmbeddedRedis,
    ServerURLs,
    command_line,
    kept_secret,
    take_lock,
)
from app.logs import configure_logging
from app.services.demo import DemoCredentials, load_demo

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
READY_SECONDS = 60.0
# Children get this long after SIGTERM; with the servers' own stop it stays within the ten seconds promised.
CHILDREN_STOP_SECONDS = 5.0
# What they give running requests and jobs: less, so that they end by themselves.
CHILDREN_GRACE_SECONDS = 3
# A child that lived longer than this did not die "at start".
SETTLED_SECONDS = 10.0
LONGEST_BACKOFF_SECONDS = 10.0
MOST_API_DEATHS_AT_START = 3
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# `make` and process managers pass a signal on that the whole group got already: that is still the first.
SAME_SIGNAL_SECONDS = 0.5
CHILDREN = (("serve",), ("worker", "default"), ("worker", "sync"))


class DevError(Exception):
    """Development mode cannot go on; the message is for the developer's terminal."""


class _StopRequestedError(Exception):
    """A signal asked us to stop; not a failure."""


class DevSettings(BaseSettings):
    """What `cashback dev` itself reads, from the environment or `.env`; the rest its children read by themselves."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", env_ignore_empty=True, extra="ignore", frozen=True
    )

    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port the API listens on; 0 takes a free one.")
    data_dir: Path = Field(Path(".data"), description="Where the embedded servers, logs and generated secrets live.")
    database_url: str | None = Field(None, description="A PostgreSQL to use in place of the embedded one.")
    redis_url: str | None = Field(None, description="A Redis to use in place of the embedded one.")
    secret_key: SecretStr | None = Field(None, description="In place of the one generated in DATA_DIR.")
    encryption_keys: SecretStr | None = Field(None, description="In place of the one generated in DATA_DIR.")


def run_dev(settings: DevSettings | None = None) -> int:
    """Run everything in the foreground until a signal or a failure; returns the exit code (0 after a signal)."""
    configure_logging("INFO", process="dev")
    try:
        supervisor = _Supervisor(settings or DevSettings())
        return supervisor.run()
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        return _fail(problems)
    except (DevError, EmbeddedError) as error:
        return _fail(str(error))


def _fail(message: str) -> int:
    sys.stderr.write(f"cashback dev: {message}\n")
    return 1


@dataclass
class _Child:
    """One `python -m app.cli ...` process, in a session of its own, and the history of its deaths."""

    arguments: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths_at_start: int = 0
    start_again_at: float | None = field(default=None)

    @property
    def name(self) -> str:
        return " ".join(self.arguments)

    def start(self, environment: dict[str, str]) -> None:
        self.start_again_at = None
        self.started = time.monotonic()
        self.process = subprocess.Popen(  # noqa: S603  (no shell; the arguments are constants)
            [sys.executable, "-m", "app.cli", *self.arguments],
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )

    def has_died(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def bury(self) -> int:
        """Forget a dead process, end what it left of its session, and plan the next start; returns its exit code."""
        process, self.process = self.process, None
        if process is None:
            return 0
        self._kill_session(process.pid)
        self.deaths_at_start = self.deaths_at_start + 1 if time.monotonic() - self.started < SETTLED_SECONDS else 0
        backoff = min(LONGEST_BACKOFF_SECONDS, 0.5 * 2**self.deaths_at_start)
        self.start_again_at = time.monotonic() + backoff
        return process.returncode

    def terminate(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def kill(self) -> None:
        if self.process is not None:
            self._kill_session(self.process.pid)
            self.process.wait()

    @staticmethod
    def _kill_session(pid: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


class _Supervisor:
    def __init__(self, settings: DevSettings) -> None:
        self.settings = settings
        self.data_dir = settings.data_dir.expanduser().resolve()
        self.children = [_Child(arguments) for arguments in CHILDREN]
        self.servers: list[EmbeddedPostgres | EmbeddedRedis] = []
        self.signalled_at: float | None = None
        self.environment: dict[str, str] = {}

    @property
    def state_file(self) -> Path:
        return self.data_dir / "dev.json"

    @property
    def mailbox(self) -> Path:
        return self.data_dir / "mailbox"

    def run(self) -> int:
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        lock = None
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            lock = take_lock(self.data_dir, "dev")
            self._start_and_watch()
        except _StopRequestedError:
            logger.info("stopping")
            return 0
        except OSError as error:
            raise DevError(f"cannot work in {self.data_dir}: {error}") from error
        finally:
            if lock is not None:
                self._stop()
                os.close(lock)
            # All is stopped; one more signal while the interpreter ends must not change our exit code.
            for number in STOP_SIGNALS:
                signal.signal(number, signal.SIG_IGN)

    def _start_and_watch(self) -> NoReturn:
        self.state_file.unlink(missing_ok=True)
        self._stop_stale_children()
        port = free_port(self.settings.host, self.settings.port)
        urls = self._start_servers()
        self.environment = self._environment(urls, port)
        self._migrate()
        credentials = self._load_demo(urls)
        for child in self.children:
            self._start(child)
        api_url = f"http://{_reachable(self.settings.host)}:{port}"
        self._wait_until_ready(api_url)
        self._write_state(api_url, urls, credentials)
        sys.stdout.write(self._banner(api_url, credentials))
        sys.stdout.flush()
        while True:
            self._watch()
            self._pause()

    # --- Signals and waiting

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signalled_at is None:
            self.signalled_at = now
        elif now - self.signalled_at > SAME_SIGNAL_SECONDS:
            # Impatience: no more asking. The rest of the stop then finds everything dead already.
            pids = [child.process.pid for child in self.children if child.process is not None]
            pids += [server.pid for server in self.servers if server.pid is not None]
            for pid in pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)

    def _pause(self) -> None:
        # A flag, and no exception out of the handler: that could strike between a fork and our note of its pid.
        if self.signalled_at is not None:
            raise _StopRequestedError
        time.sleep(POLL_SECONDS)

    # --- Start

    def _stop_stale_children(self) -> None:
        """End the API and workers of a supervisor that was killed (we hold its lock): they would hold the port."""
        noted = self.data_dir / "dev.pids"
        if not noted.exists():
            return
        for line in noted.read_text().splitlines():
            pid, _, name = line.partition(" ")
            if pid.isdigit() and (command := f"-m app.cli {name}") in command_line(int(pid)):
                logger.warning("stopping what a killed supervisor left behind", extra={"child": name, "pid": int(pid)})
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGTERM)
                deadline = time.monotonic() + CHILDREN_STOP_SECONDS
                while command in command_line(int(pid)):
                    if time.monotonic() > deadline:
                        with contextlib.suppress(ProcessLookupError):
                            os.killpg(int(pid), signal.SIGKILL)
                    self._pause()
        noted.unlink()

    def _start_servers(self) -> ServerURLs:
        database_url, redis_url = self.settings.database_url, self.settings.redis_url
        if redis_url is None:
            redis = EmbeddedRedis(self.data_dir)
            self.servers.append(redis)
            redis_url = redis.start()
        if database_url is None:
            postgres = EmbeddedPostgres(self.data_dir)
            self.servers.append(postgres)
            database_url = postgres.start()
        return ServerURLs(database_url, redis_url)

    def _environment(self, urls: ServerURLs, port: int) -> dict[str, str]:
        # In development each restart would otherwise end all sessions and make stored secrets unreadable.
        secret_key = kept_secret(self.data_dir / "secret.key")
        encryption_key = kept_secret(self.data_dir / "encryption.key", lambda: Fernet.generate_key().decode())
        metrics = self.data_dir / "metrics"
        shutil.rmtree(metrics, ignore_errors=True)
        metrics.mkdir()
        given = self.settings
        return os.environ | {
            "ENVIRONMENT": "development",
            # A feed under development is served from the same machine.
            "ALLOW_PRIVATE_FEEDS": os.environ.get("ALLOW_PRIVATE_FEEDS", "true"),
            "DATABASE_URL": urls.database_url,
            "REDIS_URL": urls.redis_url,
            "HOST": given.host,
            "PORT": str(port),
            "SECRET_KEY": given.secret_key.get_secret_value() if given.secret_key else secret_key,
            "ENCRYPTION_KEYS": given.encryption_keys.get_secret_value() if given.encryption_keys else encryption_key,
            "PROMETHEUS_MULTIPROC_DIR": str(metrics),
            "MAILBOX_DIR": str(self.mailbox),
            "SHUTDOWN_GRACE_SECONDS": str(CHILDREN_GRACE_SECONDS),
        }

    def _migrate(self) -> None:
        migration = _Child(("migrate",))
        self.children.insert(0, migration)  # so that a signal ends it as well
        self._start(migration)
        while not migration.has_died():
            self._pause()
        self.children.remove(migration)
        if (exit_code := migration.bury()) != 0:
            raise DevError(f"the migrations failed (exit code {exit_code}); the reason is above")

    def _load_demo(self, urls: ServerURLs) -> DemoCredentials:
        settings = Settings(
            environment=Environment.DEVELOPMENT,
            database_url=urls.database_url,
            redis_url=urls.redis_url,
            secret_key=SecretStr(self.environment["SECRET_KEY"]),
            encryption_keys=[SecretStr(key) for key in self.environment["ENCRYPTION_KEYS"].split(",")],
        )

        async def load() -> DemoCredentials:
            await open_database(settings, application_name="cashback-dev", pool_size=1, max_overflow=1)
            try:
                async with transaction() as session:
                    return await load_demo(session, settings)
            finally:
                await close_database()

        async def load_unless_stopped() -> DemoCredentials:
            task = asyncio.create_task(load())
            while not task.done():
                if self.signalled_at is not None:
                    task.cancel()
                await asyncio.wait({task}, timeout=POLL_SECONDS)
            return task.result()

        try:
            return asyncio.run(load_unless_stopped())
        except asyncio.CancelledError:
            raise _StopRequestedError from None

    def _start(self, child: _Child) -> None:
        child.start(self.environment)
        noted = [f"{one.process.pid} {one.name}\n" for one in self.children if one.process is not None]
        (self.data_dir / "dev.pids").write_text("".join(noted))

    def _wait_until_ready(self, api_url: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        # trust_env: a proxy from the environment is not for our own loopback address.
        with httpx.Client(trust_env=False, timeout=2) as client:
            while True:
                self._watch()
                with contextlib.suppress(httpx.HTTPError):
                    if client.get(f"{api_url}/readyz").status_code == httpx.codes.OK:
                        return
                if time.monotonic() > deadline:
                    raise DevError(
                        f"{api_url}/readyz did not say ready within {READY_SECONDS:.0f} s; see the log above"
                    )
                self._pause()

    # --- Run

    def _watch(self) -> None:
        for server in self.servers:
            if not server.is_running():
                logger.warning("a server ended; starting it again", extra={"server": server.name})
                server.start()
        for child in self.children:
            if child.has_died():
                exit_code = child.bury()
                if child.arguments == ("serve",) and child.deaths_at_start >= MOST_API_DEATHS_AT_START:
                    raise DevError(
                        f"the API ended {child.deaths_at_start} times in a row right after its start"
                        f" (exit code {exit_code}); the reason is above"
                    )
                logger.warning(
                    "a process ended; starting it again", extra={"child": child.name, "exit_code": exit_code}
                )
            if child.start_again_at is not None and time.monotonic() >= child.start_again_at:
                self._start(child)

    def _write_state(self, api_url: str, urls: ServerURLs, credentials: DemoCredentials) -> None:
        demo = asdict(credentials)
        state = {
            "api_url": api_url,
            "database_url": urls.database_url,
            "redis_url": urls.redis_url,
            "mailbox_dir": str(self.mailbox),
            "staff_api_key": demo.pop("staff_api_key"),
            "demo": demo,
        }
        new = self.state_file.with_suffix(".new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
            json.dump(state, output, indent=2, default=str)
        new.replace(self.state_file)

    def _banner(self, api_url: str, credentials: DemoCredentials) -> str:
        lines = [
            "",
            "Cashback is ready; Ctrl-C stops everything.",
            f"  API        {api_url}",
            f"  Try it     {api_url}/docs",
            f"  Mails      {self.mailbox}",
        ]
        # Redirected output is a log, and no secret belongs into a log.
        if sys.stdout.isatty():
            lines += [
                f"  Customer   {credentials.customer_email} / {credentials.customer_password}",
                f"  Staff key  {credentials.staff_api_key}",
            ]
        return "\n".join(
            [*lines, f"  All keys   {self.state_file}", "  Next       make demo, in another terminal", "", ""]
        )

    # --- Stop

    def _stop(self) -> None:
        self.state_file.unlink(missing_ok=True)
        for child in self.children:
            child.terminate()
        deadline = time.monotonic() + CHILDREN_STOP_SECONDS
        while time.monotonic() < deadline and any(child.process and not child.has_died() for child in self.children):
            time.sleep(POLL_SECONDS)
        for child in self.children:
            child.kill()
        for server in reversed(self.servers):
            server.stop()
        (self.data_dir / "dev.pids").unlink(missing_ok=True)


def free_port(host: str, port: int) -> int:
    """Check that a server can listen there, and return the port (a free one for 0). Raises DevError."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise DevError(f"HOST={host} is no address of this machine: {error.strerror}") from error
    for family, kind, protocol, _, address in addresses:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise DevError(
                        f"{host}:{port} is in use by another program. Choose another port: PORT={port + 1} make run"
                    ) from error
                raise DevError(f"cannot listen on {host}:{port}: {error.strerror}") from error
            port = port or probe.getsockname()[1]
    return port


def _reachable(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104  (compared, not bound)
    return f"[{host}]" if ":" in host else host
