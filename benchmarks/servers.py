"""Servers under load: ours and those of the baselines, each in processes of its own, and what they cost."""

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.load import Load, LoadError, put_load
from tests.service import free_port, wait_until

FASTIFY = Path(__file__).parent / "baselines" / "fastify"


@dataclass
class Measured:
    """A server's rounds: the load, and microseconds of CPU a request of the server and of PostgreSQL."""

    url: str
    pid: int
    headers: dict[str, str] = field(default_factory=dict)
    # Lua for wrk, where not each request is the same.
    script: Path | None = None
    loads: list[Load] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    postgres_cpu_us: list[float] = field(default_factory=list)

    def run(self, *, connections: int, seconds: int) -> None:
        """Put load on the server for one round."""
        server, postgres = cpu_seconds([psutil.Process(self.pid)]), cpu_seconds(postgres_processes())
        load = put_load(self.url, connections=connections, seconds=seconds, headers=self.headers, script=self.script)
        if load.failures:
            raise LoadError(f"{load.failures} of {load.requests} requests to {self.url} failed")
        self.cpu_us.append((cpu_seconds([psutil.Process(self.pid)]) - server) / load.requests * 1e6)
        self.postgres_cpu_us.append((cpu_seconds(postgres_processes()) - postgres) / load.requests * 1e6)
        self.loads.append(load)

    def summary(self) -> dict[str, Any]:
        """Medians over the rounds."""
        return {
            "requests_per_second": round(statistics.median(load.requests_per_second for load in self.loads)),
            "p50_ms": round(statistics.median(load.p50_ms for load in self.loads), 2),
            "p95_ms": round(statistics.median(load.p95_ms for load in self.loads), 2),
            "p99_ms": round(statistics.median(load.p99_ms for load in self.loads), 2),
            "cpu_us_per_request": round(statistics.median(self.cpu_us)),
            "postgres_cpu_us_per_request": round(statistics.median(self.postgres_cpu_us)),
            "peak_memory_mib": peak_mib(self.pid),
            "rounds": [round(load.requests_per_second) for load in self.loads],
        }


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """CPU time that processes, and those they started that have ended, used so far, in user and system mode."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # ended a moment ago: then its parent tells
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def postgres_processes() -> list[psutil.Process]:
    """All of the embedded PostgreSQL; none when DATABASE_URL names another."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [process] if process.name().startswith("postgres") else []
    return found


def peak_mib(pid: int) -> int | None:
    """Most memory that a process has held; None where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 1024
    return None


@contextlib.contextmanager
def baseline(name: str, probe: str = "/", **environment: str) -> Iterator[Measured]:
    """A program of `benchmarks/baselines` in a uvicorn process of its own, set up as the API's is."""
    arguments = ["-m", "uvicorn", f"benchmarks.baselines.{name}:app", "--log-level", "warning"]
    port = free_port()
    command = [sys.executable, *arguments, "--port", str(port), "--no-access-log", "--no-server-header"]
    with _running(command, port, probe, environment) as measured:
        yield measured


def constant_server() -> contextlib.AbstractContextManager[Measured]:
    """FastAPI's constant answer."""
    return baseline("fastapi_constant")


@contextlib.contextmanager
def fastify(probe: str, **environment: str) -> Iterator[Measured | None]:
    """Fastify and node-postgres; None, after saying so, where node or npm is missing or cannot fetch the packages."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        print("node or npm is missing: no Fastify in this run.")
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="cashback-fastify-") as folder:
        shutil.copytree(FASTIFY, folder, dirs_exist_ok=True)
        fetched = subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if fetched.returncode:
            print(f"npm cannot fetch the packages: no Fastify in this run. {fetched.stderr.strip()[-300:]}")
            yield None
            return
        port = free_port()
        command = ["node", str(Path(folder) / "server.js")]
        with _running(command, port, probe, {**environment, "PORT": str(port), "NODE_ENV": "production"}) as measured:
            yield measured


@contextlib.contextmanager
def _running(command: list[str], port: int, probe: str, environment: dict[str, str]) -> Iterator[Measured]:
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: httpx.get(url + probe, trust_env=False).is_success, seconds=30, what=f"{command} serves")
        yield Measured(url + probe, process.pid)
    finally:
        process.terminate()
        process.wait(10)
