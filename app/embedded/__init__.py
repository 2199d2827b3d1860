"""A real PostgreSQL 18 and a real Redis as child processes, for development and the tests; never for production.

The programs come from the `[embedded]` extra's wheels (Redis: from the PATH first). Both servers listen on 127.0.0.1
only, ask for a random password, and keep everything (data, password, port, log) in one data directory.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.embedded.postgres import EmbeddedPostgres
from app.embedded.redis import EmbeddedRedis
from app.embedded.server import EmbeddedError, command_line, kept_secret, take_lock

__all__ = [
    "EmbeddedError",
    "EmbeddedPostgres",
    "EmbeddedRedis",
    "ServerURLs",
    "command_line",
    "embedded_servers",
    "kept_secret",
    "take_lock",
]


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
    with ExitStack() as stack:
        if not redis_url:
            redis = EmbeddedRedis(data_dir, durable=durable)
            stack.callback(redis.stop)
            redis_url = redis.start()
        if not database_url:
            postgres = EmbeddedPostgres(data_dir, durable=durable)
            stack.callback(postgres.stop)
            database_url = postgres.start()
        yield ServerURLs(database_url, redis_url)
