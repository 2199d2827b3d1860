"""The ledger: transfers a second through `ledger.post`, and the proof of the whole ledger by `cashback ledger verify`.

Baselines in the same run: pgbench with the same statements for the transfers, round by round in turn; one bare sum over
all postings for the proof. Usage: python -m benchmarks.ledger [--rounds 5] [--seconds 5] [--scale 1000000 10000000]
"""

import argparse
import asyncio
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import asyncpg
import psutil
import uvloop

from app import db
from app.db import transaction
from app.embedded.postgres import postgres_programs
from app.ids import new_id
from app.models import Account, CauseType, Wallet
from app.services.ledger import credit, debit, post
from benchmarks.harness import Stack, running_stack, write_result
from benchmarks.ledger_data import load_ledger, superuser_url
from benchmarks.servers import postgres_processes
from tests.factories import make_customer

CUSTOMERS = 1_000
CONCURRENCY = (4, 16)
# What `post` sends for a transfer of two lines, in the same order; ids are made by the server.
PGBENCH = f"""
\\set n random(1, {CUSTOMERS})
BEGIN;
INSERT INTO transfers (id, cause_type, cause_id, purpose, corrects_id, details)
    VALUES (uuidv7(), 'adjustment', uuidv7(), 'bench', NULL, '{{}}') RETURNING id AS transfer \\gset
INSERT INTO postings (transfer_id, account, merchant_id, customer_id, currency, amount_minor)
    VALUES (:transfer, 'promotions', NULL, NULL, 'PKR', 100);
INSERT INTO postings (transfer_id, account, merchant_id, customer_id, currency, amount_minor)
    VALUES (:transfer, 'customer_pending', NULL, lpad(to_hex(:n::int), 32, '0')::uuid, 'PKR', -100);
UPDATE wallets SET pending_minor = pending_minor + 100, updated_at = now()
    WHERE customer_id = lpad(to_hex(:n::int), 32, '0')::uuid AND currency = 'PKR' RETURNING customer_id;
SELECT id, topics FROM notification_endpoints WHERE status = 'active';
COMMIT;
"""


def pgbench_program() -> str | None:
    """Return pgbench: of the embedded PostgreSQL's wheel, else from the PATH."""
    program = postgres_programs() / "pgbench"
    return str(program) if program.exists() else shutil.which("pgbench")


async def make_customers() -> list[UUID]:
    """Customers with wallets; their ids count from 1, so that pgbench can name them."""
    ids = [UUID(int=number) for number in range(1, CUSTOMERS + 1)]
    async with transaction() as session:
        for customer_id in ids:
            await make_customer(session, id=customer_id)
            session.add(Wallet(customer_id=customer_id, currency="PKR"))
    return ids


async def through_post(customers: list[UUID], *, concurrency: int, seconds: float) -> tuple[float, float]:
    """Post gifts for some seconds, so many at a time, each in a transaction of its own.

    Returns transfers a second, and microseconds of this process's CPU for each.
    """
    done, cpu = 0, time.process_time()
    deadline = time.perf_counter() + seconds

    async def give(first: int) -> None:
        nonlocal done
        number = first
        while time.perf_counter() < deadline:
            number = (number + 7919) % len(customers)
            async with transaction() as session:
                await post(
                    session,
                    cause_type=CauseType.ADJUSTMENT,
                    cause_id=new_id(),
                    purpose="bench",
                    lines=[
                        debit(Account.PROMOTIONS, 100, "PKR"),
                        credit(Account.CUSTOMER_PENDING, 100, "PKR", customer_id=customers[number]),
                    ],
                )
            done += 1

    started = time.perf_counter()
    await asyncio.gather(*(give(number * 61) for number in range(concurrency)))
    return done / (time.perf_counter() - started), (time.process_time() - cpu) / done * 1e6


async def through_pgbench(program: str, url: str, *, concurrency: int, seconds: float) -> float:
    """Let pgbench send the same statements for some seconds; returns transactions a second."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(PGBENCH)
        script.flush()
        command = [program, "-n", "-M", "prepared", "-c", str(concurrency), "-j", "1", "-T", str(int(seconds))]
        process = await asyncio.create_subprocess_exec(
            *command, "-f", script.name, url, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        output, errors = await process.communicate()
    found = re.search(rb"tps = ([\d.]+)", output)
    if process.returncode or found is None:
        raise RuntimeError(f"pgbench failed: {errors.decode()[-500:]}")
    return float(found[1])


async def measure_transfers(stack: Stack, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Transfers a second, ours beside pgbench's, in turn; medians and their ratio for each concurrency."""
    await db.open_database(stack.settings, application_name="bench", pool_size=max(CONCURRENCY), max_overflow=0)
    result: dict[str, Any] = {}
    program = pgbench_program()
    try:
        customers = await make_customers()
        for concurrency in CONCURRENCY:
            await through_post(customers, concurrency=concurrency, seconds=1)  # connections and plans
            ours, cpu_us, bare = [], [], []
            for _ in range(rounds):
                rate, cpu = await through_post(customers, concurrency=concurrency, seconds=seconds)
                ours.append(rate)
                cpu_us.append(cpu)
                if program:
                    url = stack.settings.database_url
                    bare.append(await through_pgbench(program, url, concurrency=concurrency, seconds=seconds))
            result[f"at_a_time_{concurrency}"] = {
                "transfers_per_second": round(statistics.median(ours)),
                "pgbench_per_second": round(statistics.median(bare)) if bare else None,
                "ratio": round(statistics.median(ours) / statistics.median(bare), 2) if bare else None,
                "cpu_us_per_transfer": round(statistics.median(cpu_us)),
                "rounds": [round(one) for one in ours],
                "pgbench_rounds": [round(one) for one in bare],
            }
    finally:
        await db.close_database()
    return result


@dataclass
class Watch:
    """The most memory that a process, and all of PostgreSQL's together, took of their own while the block ran.

    Sampled: anonymous memory, without what PostgreSQL's processes share.
    """

    process: psutil.Process
    peak_bytes: int = 0
    postgres_peak_bytes: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._before = sum(map(anonymous_bytes, postgres_processes()))
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            self.peak_bytes = max(self.peak_bytes, anonymous_bytes(self.process))
            grown = sum(map(anonymous_bytes, postgres_processes())) - self._before
            self.postgres_peak_bytes = max(self.postgres_peak_bytes, grown)


def anonymous_bytes(process: psutil.Process) -> int:
    """Return a process's own resident memory; 0 when it has ended."""
    try:
        found = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def run_command(stack: Stack, *arguments: str) -> dict[str, Any]:
    """Run `cashback ledger ...`; returns its seconds, peak memory, and what it printed. Raises when it fails."""
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "ledger", *arguments],
        env=os.environ | stack.service.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    started = time.perf_counter()
    with Watch(psutil.Process(process.pid)) as watch:
        output, _ = process.communicate()
    seconds = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"ledger {' '.join(arguments)} failed:\n{output[-2000:]}")
    return {
        "seconds": round(seconds, 1),
        "peak_mib": round(watch.peak_bytes / 2**20),
        "postgres_peak_mib": round(watch.postgres_peak_bytes / 2**20),
        "output": output,
    }


async def bare_scan_seconds(connection: asyncpg.Connection) -> float:
    """Seconds of one bare sum over all postings."""
    started = time.perf_counter()
    await connection.fetch("SELECT account, sum(amount_minor) FROM postings GROUP BY account", timeout=3600)
    return time.perf_counter() - started


async def measure_proof(stack: Stack, *, scale: int) -> dict[str, Any]:
    """Load a ledger, seal its days, prove it; each step's time and memory."""
    started = time.perf_counter()
    await db.open_database(stack.settings, application_name="bench", pool_size=1, max_overflow=0)
    try:
        postings = await load_ledger(stack.settings, postings=scale)
    finally:
        await db.close_database()
    loaded = time.perf_counter() - started
    connection = await asyncpg.connect(superuser_url(stack.settings))
    try:
        spilled = "SELECT temp_bytes FROM pg_stat_database WHERE datname = current_database()"
        scans = [await bare_scan_seconds(connection) for _ in range(2)]
        seal = await asyncio.to_thread(run_command, stack, "seal")
        before = await connection.fetchval(spilled)
        verify = await asyncio.to_thread(run_command, stack, "verify")
        temp_bytes = await connection.fetchval(spilled) - before
        scans.append(await bare_scan_seconds(connection))
    finally:
        await connection.close()
    rules = re.findall(r"^ok +([\d.]+) s  (\w+):", verify.pop("output"), re.MULTILINE)
    days = len(seal.pop("output").splitlines())
    return {
        "postings": postings,
        "loaded_seconds": round(loaded, 1),
        "bare_scan_seconds": round(statistics.median(scans), 2),
        "verify": {
            **verify,
            "spilled_mib": round(temp_bytes / 2**20),
            "ratio": round(verify["seconds"] / statistics.median(scans), 1),
            "rules": {name: float(seconds) for seconds, name in rules},
        },
        "seal": {**seal, "days": days},
    }


def show(result: dict[str, Any]) -> None:
    """Print the ratios."""
    for name, row in result["transfers"].items():
        bare = f"pgbench {row['pgbench_per_second']}/s, ratio {row['ratio']}" if row["ratio"] else "no pgbench found"
        ours = f"{row['transfers_per_second']}/s, {row['cpu_us_per_transfer']} us CPU each"
        print(f"transfers, {name.replace('_', ' ')}: {ours}   {bare}")
    for row in result["proof"]:
        verify, seal = row["verify"], row["seal"]
        print(
            f"verify {row['postings']:,} postings: {verify['seconds']} s ({verify['ratio']} bare scans of"
            f" {row['bare_scan_seconds']} s), own peak {verify['peak_mib']} MiB, PostgreSQL's"
            f" +{verify['postgres_peak_mib']} MiB, {verify['spilled_mib']} MiB spilled into files"
        )
        slowest = sorted(verify["rules"].items(), key=lambda rule: -rule[1])[:4]
        print("  " + ", ".join(f"{name} {seconds} s" for name, seconds in slowest))
        print(f"  seal {seal['days']} days: {seal['seconds']} s, own peak {seal['peak_mib']} MiB")


def main() -> None:
    """Measure, print and keep the result."""
    parser = argparse.ArgumentParser(description="Posting to the ledger, and proving it.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    default = [int(scale) for scale in os.environ.get("SCALE", "1000000 10000000").split()]
    parser.add_argument("--scale", type=int, nargs="*", default=default, help="postings of each ledger to prove")
    arguments = parser.parse_args()
    if pgbench_program() is None:
        print("pgbench was not found (Debian: apt install postgresql-contrib): no baseline for transfers")
    with running_stack() as stack:
        transfers = uvloop.run(measure_transfers(stack, rounds=arguments.rounds, seconds=arguments.seconds))
    proof = []
    for scale in arguments.scale:
        with running_stack() as stack:
            proof.append(asyncio.run(measure_proof(stack, scale=scale)))
    result = {"transfers": transfers, "proof": proof}
    show(result)
    print(f"kept in benchmarks/results/{write_result('ledger', result).name}")


if __name__ == "__main__":
    main()
