"""The traffic mix through the real API, with a worker that works off its webhooks: requests a second, p99, errors.

55 % offer and merchant lists, 15 % single merchants, 12 % wallets, 8 % orders, 7 % clicks, 3 % signed webhooks.
Usage: python -m benchmarks.mix [--rounds 3] [--seconds 8] [--connections 32] [--offers 250000]
"""

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.harness import Stack, running_stack, write_result
from benchmarks.load import generator
from benchmarks.servers import Measured
from benchmarks.shop import Shop, open_shop
from benchmarks.webhook_load import sale

TARGET_REQUESTS, TARGET_P99_MS = 3_000, 50
_MERCHANTS = 300
# In hundredths; offers and merchants together are the 55 of lists.
_SHARES = {"offers": 40, "merchants": 15, "merchant": 15, "wallet": 12, "orders": 8, "click": 7, "webhook": 3}


def line_of(kind: str, number: int, shop: Shop, chance: random.Random) -> str:
    """Return one request as the script reads it."""
    # A few merchants get most of the visits.
    merchant = shop.merchants[min(int(chance.expovariate(1 / 40)), len(shop.merchants) - 1)]
    who = chance.randrange(len(shop.customers))
    method, path, headers, body = "GET", "", {}, b""
    match kind:
        case "offers":
            path = f"/v1/merchants/{merchant}/offers"
        case "merchants":
            path = "/v1/merchants"
        case "merchant":
            path = f"/v1/merchants/{merchant}"
        case "wallet" | "orders":
            path, headers = f"/v1/me/{kind}", {"Authorization": shop.tokens[who]}
        case "click":
            method, path, body = "POST", "/v1/clicks", b'{"merchant_id":%d}' % merchant
            headers = {"Authorization": shop.tokens[who], "Content-Type": "application/json"}
        case _:
            method, path = "POST", f"/v1/webhooks/{shop.source_key}"
            headers, body = sale(f"M-{number}", shop.clicks[who])
    fields = "|".join(f"{name}={value}" for name, value in headers.items())
    return f"{method}\t{path}\t{fields}\t{body.decode()}"


def write_script(folder: Path, shop: Shop, count: int) -> Path:
    """Write the requests and the script that sends them; returns the script."""
    chance = random.Random(1)
    kinds = chance.choices(list(_SHARES), weights=list(_SHARES.values()), k=count)
    requests, script = folder / "requests", folder / "mix.lua"
    requests.write_text("\n".join(line_of(kind, number, shop, chance) for number, kind in enumerate(kinds)) + "\n")
    source = (Path(__file__).parent / "mix.lua").read_text()
    script.write_text(f'FILE = "{requests}"\n{source}')
    return script


def measure(stack: Stack, options: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds; returns the result."""
    shop = asyncio.run(open_shop(stack, merchants=_MERCHANTS, offers=options.offers))
    with tempfile.TemporaryDirectory() as folder:
        # So many that no webhook comes twice in a round.
        script = write_script(Path(folder), shop, 10_000 * options.seconds)
        root = urlsplit(stack.service.url)
        mix = Measured(f"{root.scheme}://{root.netloc}/", stack.service.processes[0].popen.pid, script=script)
        for _ in range(options.rounds + 1):
            mix.run(connections=options.connections, seconds=options.seconds)
        # The first round opens connections and fills caches.
        for numbers in (mix.loads, mix.cpu_us, mix.postgres_cpu_us):
            del numbers[0]
        return {"failures": sum(load.failures for load in mix.loads), **mix.summary()}


def main() -> int:
    """Measure, print and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--offers", type=int, default=250_000)
    options = parser.parse_args()
    if generator() != "wrk":
        print("wrk is missing (Debian, Ubuntu: apt install wrk); no client of ours is quick enough.", file=sys.stderr)
        return 1
    with running_stack("serve", "worker default") as stack:
        result = measure(stack, options)
    rate, p99 = result["requests_per_second"], result["p99_ms"]
    print(
        f"{rate} requests/s ({'met' if rate >= TARGET_REQUESTS else 'MISSED'}: {TARGET_REQUESTS}),"
        f" p50 {result['p50_ms']}, p95 {result['p95_ms']}, p99 {p99} ms"
        f" ({'met' if p99 < TARGET_P99_MS else 'MISSED'}: {TARGET_P99_MS}), {result['failures']} errors;"
        f" CPU a request: {result['cpu_us_per_request']} us API, {result['postgres_cpu_us_per_request']} us PostgreSQL"
    )
    write_result("mix", {"shares": _SHARES, "offers": options.offers, "connections": options.connections, **result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
