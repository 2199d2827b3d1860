"""More servers for the tests: a standby of a PostgreSQL, a PgBouncer, and Redis with Sentinels."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.embedded import EmbeddedPostgres, EmbeddedRedis
from app.embedded.redis import redis_program
from tests.service import free_port, wait_until

# Debian leaves it out of the PATH of ordinary users.
_PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def make_standby(primary: EmbeddedPostgres, folder: Path) -> EmbeddedPostgres:
    """Start a standby that follows a primary."""
    standby = EmbeddedPostgres(folder, durable=False)
    folder.mkdir()
    # The roles are the primary's, and so are their passwords.
    shutil.copyfile(primary.data_dir / "postgres.password", folder / "postgres.password")
    standby.directory.mkdir(mode=0o700)
    shutil.copymode(primary.directory, standby.directory)
    if os.geteuid() == 0:
        owner = primary.directory.stat()
        os.chown(standby.directory, owner.st_uid, owner.st_gid)
        folder.chmod(0o711)
    standby._bin = primary._bin
    server = primary.superuser_url.rpartition("/")[0]
    standby._tool("pg_basebackup", f"--pgdata={standby.directory}", f"--dbname={server}", "-R", "-c", "fast")
    standby.start()
    return standby


@contextmanager
def running(command: list[str], *, port: int, log: Path, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server that listens on a port while the block runs."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, **options)  # type: ignore[call-overload]  # user and group

    def listens() -> bool:
        assert process.poll() is None, log.read_text()
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True

    try:
        wait_until(listens, seconds=20, what=f"{command[0]} listens")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait(10)


@contextmanager
def pgbouncer(postgres: EmbeddedPostgres, folder: Path, *, pool_size: int) -> Iterator[str]:
    """Run a PgBouncer in transaction mode before a PostgreSQL; yields the URL that leads through it."""
    if _PGBOUNCER is None:
        pytest.skip("there is no pgbouncer: install it (Debian, Ubuntu: apt-get install pgbouncer)")
    port = free_port()
    folder.mkdir()
    users = folder / "users.txt"
    users.write_text(f'"cashback" "{postgres.password}"\n')
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"""
        [databases]
        cashback = host=127.0.0.1 port={postgres._port} dbname=cashback
        [pgbouncer]
        listen_addr = 127.0.0.1
        listen_port = {port}
        unix_socket_dir =
        auth_type = scram-sha-256
        auth_file = {users}
        pool_mode = transaction
        default_pool_size = {pool_size}
        max_client_conn = 200
        """.replace("\n        ", "\n")
    )
    identity = postgres._run_as()
    if identity:
        for path in (folder, users, config):
            os.chown(path, identity["user"], identity["group"])
    with running([_PGBOUNCER, str(config)], port=port, log=folder.with_suffix(".log"), cwd="/", **identity):
        yield f"postgresql://cashback:{postgres.password}@127.0.0.1:{port}/cashback"


class Replica(EmbeddedRedis):
    """A Redis that follows another, under the same password."""

    def __init__(self, data_dir: Path, master: EmbeddedRedis) -> None:
        super().__init__(data_dir, durable=False)
        self.master = master
        data_dir.mkdir()
        shutil.copyfile(master.data_dir / "redis.password", data_dir / "redis.password")

    def _command(self, port: int) -> list[str]:
        command = super()._command(port)
        with Path(command[-1]).open("a") as config:
            config.write(f"replicaof 127.0.0.1 {self.master._port}\nmasterauth {self.password}\n")
        return command


@contextmanager
def sentinels(master: EmbeddedRedis, folder: Path, *, count: int = 3) -> Iterator[str]:
    """Run Sentinels of a Redis; yields the URL that asks them."""
    ports = [free_port() for _ in range(count)]
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        for port in ports:
            config = folder / f"{port}.conf"
            config.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
                f"sentinel monitor cashback 127.0.0.1 {master._port} {count // 2 + 1}\n"
                f"sentinel auth-pass cashback {master.password}\n"
                "sentinel down-after-milliseconds cashback 1000\n"
                "sentinel failover-timeout cashback 3000\n"
            )
            command = [str(redis_program()), str(config), "--sentinel"]
            stack.enter_context(running(command, port=port, log=folder / f"{port}.log"))
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        yield f"redis+sentinel://:{master.password}@{hosts}/cashback/0"
