"""What every measurement needs: durable servers of its own, the real service on them, and a place for the result."""

import os
import platform
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from alembic import command

from app.cli import alembic_config
from app.config import Settings
from app.embedded import embedded_servers
from tests.conftest import make_settings
from tests.service import Service, wait_until

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Stack:
    """A running service and the settings that reach its servers."""

    service: Service
    settings: Settings


@contextmanager
def running_stack(*processes: str, **environment: str) -> Iterator[Stack]:
    """Start durable servers, migrate, and start processes (`serve`, `worker sync`) while the block runs."""
    with (
        tempfile.TemporaryDirectory(prefix="cashback-bench-") as folder,
        embedded_servers(Path(folder), durable=True) as urls,
        Service(Path(folder), database_url=urls.database_url, redis_url=urls.redis_url, **environment) as service,
    ):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(command.upgrade, alembic_config(urls.database_url), "head").result()
        for process in processes:
            if process == "serve":
                service.start_api()
            else:
                started = service.start(*process.split())
                wait_until(started.log_lines, seconds=30, what=f"{process} runs")
        yield Stack(service, make_settings(database_url=urls.database_url, redis_url=urls.redis_url))


def machine() -> dict[str, Any]:
    """Describe the machine without naming it."""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Keep a result beside the machine's description in `benchmarks/results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_bytes(orjson.dumps({"machine": machine(), **result}, option=orjson.OPT_INDENT_2) + b"\n")
    return file
