"""`make bench`: runs the measurements named, or all, one after another; each prints ratios and keeps its result."""

import subprocess
import sys

MEASUREMENTS = {
    "ledger": "transfers a second beside pgbench, and the proof of 1M and 10M postings beside a bare scan",
    "reads": "a merchant's offers and a wallet, beside the printed pattern, FastAPI + asyncpg, Fastify and constants",
    "mix": "the traffic mix of docs/performance.md: requests a second, p99, errors",
    "feeds": "50,000 offers in each shape of feed, beside the bare COPY of them; 500,000 for memory",
    "identity": "logins of known and unknown addresses, the event loop under 50 of them, verifying a token",
    "scale": 'CPU of each call and job as the data grows, beside its cost at 1 % (SCALE="0.01 0.1")',
    "soak": "a mix of traffic with a fault every minute: nothing lost, doubled or growing (SOAK_MINUTES=60)",
    "storm": "five syncs of 50,000 offers at once while customers shop, beside the same done in the request",
    "sync": "a 50,000-offer feed, fetch to visible, beside the bare floor",
    "webhooks": "signed webhooks taken in and worked off, beside a bare constant and a bare durable INSERT",
}


def main() -> int:
    """Run them; the exit code is 1 when one failed, 2 when a name is unknown."""
    wanted = sys.argv[1:] or list(MEASUREMENTS)
    if unknown := [name for name in wanted if name not in MEASUREMENTS]:
        print(f"There is no measurement {unknown[0]!r}. There are:", file=sys.stderr)
        for name, what in MEASUREMENTS.items():
            print(f"  {name:<10} {what}", file=sys.stderr)
        return 2
    failed = []
    for name in wanted:
        print(f"\n== {name}: {MEASUREMENTS[name]}", flush=True)
        # Each in a process of its own: one measurement's memory and caches are not the next one's.
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
