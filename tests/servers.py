"""The PostgreSQL and Redis that the suite runs against: its own embedded ones, or those of the two URLs.

The controlling process starts them once; xdist's workers find them in the environment.
"""

import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from app.embedded import embedded_servers

DATABASE_VARIABLE = "CASHBACK_TEST_DATABASE_URL"
REDIS_VARIABLE = "CASHBACK_TEST_REDIS_URL"


def start_servers() -> ExitStack:
    """Start what no URL is given for, publish both URLs, and return what stops it all again."""
    stack = ExitStack()
    # Not pytest's tmp_path: as root, PostgreSQL runs as another user, who must be able to reach its files.
    folder = Path(tempfile.mkdtemp(prefix="cashback-tests-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    servers = stack.enter_context(
        embedded_servers(
            folder,
            durable=False,
            database_url=os.environ.get("DATABASE_URL"),
            redis_url=os.environ.get("REDIS_URL"),
        )
    )
    os.environ[DATABASE_VARIABLE] = servers.database_url
    os.environ[REDIS_VARIABLE] = servers.redis_url
    return stack


def database_url(name: str) -> str:
    """Return the URL of a database on the suite's PostgreSQL."""
    base, _, query = os.environ[DATABASE_VARIABLE].partition("?")
    return f"{base.rsplit('/', 1)[0]}/{name}" + (f"?{query}" if query else "")


def redis_url(index: int) -> str:
    """Return the URL of one of Redis's 16 databases."""
    return f"{os.environ[REDIS_VARIABLE].rsplit('/', 1)[0]}/{index}"
