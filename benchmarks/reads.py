"""Reads through the real API with all that surrounds them, beside what others do, in the same run and in turn.

Rows: `offers`, 20 of one merchant of 250,000, from the finished answers; `offers-read`, the same without those;
`wallet`, signed in and never kept. Baselines are the programs in `benchmarks/baselines`.
Usage: python -m benchmarks.reads [--row offers] [--rounds 3] [--seconds 2] [--connections 32] [--offers 250000]
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt

from benchmarks.baselines import PRINTED_SECRET
from benchmarks.harness import Stack, running_stack, write_result
from benchmarks.load import generator, put_load
from benchmarks.servers import Measured, baseline, fastify
from benchmarks.shop import Shop, open_shop

ROWS = ("offers", "offers-read", "wallet")
# What each row is held against: the target's name, the baseline's, and the least ratio.
TARGETS = {
    "offers": (("printed_pattern", 10.0), ("fastify", 1.0)),
    "offers-read": (("fastapi_asyncpg", 0.6),),
    "wallet": (("printed_pattern", 5.0), ("fastapi_asyncpg", 0.6)),
}


@contextlib.contextmanager
def servers(stack: Stack, shop: Shop, row: str) -> Iterator[dict[str, Measured]]:
    """All that a row compares, ours first."""
    database = {"DATABASE_URL": stack.settings.database_url}
    merchant, customer = shop.merchants[len(shop.merchants) // 2], shop.customers[0]
    wallet = row == "wallet"
    path = f"/wallet/{customer}" if wallet else f"/offers/{merchant}"
    found: dict[str, Measured] = {}
    api = stack.service.processes[0].popen.pid
    base = stack.service.url
    with contextlib.ExitStack() as stack_of:
        if wallet:
            found["ours"] = Measured(f"{base}/v1/me/wallet", api, headers={"Authorization": shop.tokens[0]})
        else:
            found["ours"] = Measured(f"{base}/v1/merchants/{merchant}/offers", api)
            found["asgi_constant"] = stack_of.enter_context(baseline("asgi_constant"))
            found["fastapi_constant"] = stack_of.enter_context(baseline("fastapi_constant"))
        found["fastapi_asyncpg"] = stack_of.enter_context(baseline("fastapi_asyncpg", path, **database))
        printed = stack_of.enter_context(baseline("printed_pattern", f"/offers/{merchant}", **database))
        if wallet:
            claims = {"sub": customer, "exp": datetime.now(UTC) + timedelta(hours=1)}
            printed.url = printed.url.replace(f"/offers/{merchant}", "/wallet")
            printed.headers = {"Authorization": f"Bearer {jwt.encode(claims, PRINTED_SECRET)}"}
        found["printed_pattern"] = printed
        if (node := stack_of.enter_context(fastify(path, **database))) is not None:
            found["fastify"] = node
        yield found


def measure_row(stack: Stack, shop: Shop, row: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds of a row, its servers in turn; returns the result."""
    with servers(stack, shop, row) as compared:
        for server in compared.values():
            httpx.get(server.url, headers=server.headers, trust_env=False).raise_for_status()
            # What only the first requests pay for.
            put_load(server.url, connections=options.connections, seconds=1, headers=server.headers)
        for number in range(options.rounds):
            # Whoever comes first in a round comes last in the next.
            for server in list(compared.values())[:: -1 if number % 2 else 1]:
                server.run(connections=options.connections, seconds=options.seconds)
        ratios = {
            name: [
                ours.requests_per_second / theirs.requests_per_second
                for ours, theirs in zip(compared["ours"].loads, server.loads, strict=True)
            ]
            for name, server in compared.items()
            if name != "ours"
        }
        return {
            "servers": {name: server.summary() for name, server in compared.items()},
            "ratios": {
                name: {"median": round(statistics.median(each), 2), "rounds": [round(one, 2) for one in each]}
                for name, each in ratios.items()
            },
        }


def show(row: str, result: dict[str, Any]) -> None:
    """Print a row, and whether its targets are met."""
    print(f"{row}:")
    for name, one in result["servers"].items():
        ratio = result["ratios"].get(name)
        latency = f"p50 {one['p50_ms']:.1f}, p95 {one['p95_ms']:.1f}, p99 {one['p99_ms']:.1f} ms"
        cpu = f"{one['cpu_us_per_request']} us API, {one['postgres_cpu_us_per_request']} us PostgreSQL"
        ours = f"   ours is {ratio['median']}x" if ratio else ""
        print(f"  {name:<18}{one['requests_per_second']:>7} requests/s   {latency}   CPU a request: {cpu}{ours}")
    for name, least in TARGETS[row]:
        if name in result["ratios"]:
            reached = result["ratios"][name]["median"]
            print(f"  target {least:g} x {name}: {reached} ({'met' if reached >= least else 'MISSED'})")


def main() -> int:
    """Measure, print and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", choices=ROWS, action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="length of a round for each server")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--offers", type=int, default=250_000)
    options = parser.parse_args()
    if generator() != "wrk":
        print("wrk is missing (Debian, Ubuntu: apt install wrk); no client of ours is quick enough.", file=sys.stderr)
        return 1
    rows: dict[str, Any] = {}
    for kept in (True, False):
        wanted = [row for row in options.row or ROWS if (row != "offers-read") is kept]
        if not wanted:
            continue
        with running_stack("serve", CATALOGUE_CACHE_BYTES="16777216" if kept else "0") as stack:
            shop = asyncio.run(open_shop(stack, merchants=5, offers=options.offers))
            for row in wanted:
                rows[row] = measure_row(stack, shop, row, options)
                show(row, rows[row])
    shape = {name: getattr(options, name) for name in ("offers", "connections", "rounds", "seconds")}
    write_result("reads", {"load_generator": generator(), **shape, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
