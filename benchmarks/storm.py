"""The storm: five merchants with 50,000 offers each sync at once while customers shop.

The traffic of the targets' mix goes on at a steady rate before, during and after; then the same storm on a small
program that syncs in the request. Ratios to the calm before are what counts.
Usage: python -m benchmarks.storm [--rate 100] [--seconds 10] [--offers 50000]
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import httpx
import orjson

from app import db
from app.db import transaction
from app.models import StaffRole
from benchmarks.harness import Stack, running_stack, write_result
from benchmarks.scale import find_customers
from benchmarks.scale_data import Loaded, Sizes, load_business
from benchmarks.steady_load import Answer, SteadyLoad, to_bytes
from benchmarks.webhook_load import sale
from tests.factories import make_merchant, staff_headers
from tests.feed_server import FeedServer, document, offers
from tests.service import free_port, wait_until

MERCHANTS = 5
TARGET_RATIO = 1.5
_SIZES = Sizes(customers=2_000, merchants=50, offers=50_000, orders=4_000)
_DONE = {"succeeded", "failed"}
# Of a hundred requests: see the targets in docs/scaling.md.
MIX = {"offers": 45, "merchants": 10, "merchant": 15, "wallet": 12, "orders": 8, "click": 7, "webhook": 3}


def make_mix(url: str, loaded: Loaded, customers: list[tuple[dict[str, str], str]], *, count: int) -> list[bytes]:
    """Return so many requests in the mix's shares, evenly mingled."""
    kinds = [kind for kind, share in MIX.items() for _ in range(share)]
    return [_request(url, kinds[number * 37 % len(kinds)], loaded, customers, number) for number in range(count)]


def _request(url: str, kind: str, loaded: Loaded, customers: list[tuple[dict[str, str], str]], number: int) -> bytes:
    headers, click = customers[number * 61 % len(customers)]
    merchant_id = loaded.merchant_id + number * 7 % loaded.merchants
    reads = {
        "offers": f"/v1/merchants/{merchant_id}/offers?limit={18 + number % 5}",
        "merchants": f"/v1/merchants?limit={18 + number % 5}",
        "merchant": f"/v1/merchants/{merchant_id}",
        "wallet": "/v1/me/wallet",
        "orders": "/v1/me/orders",
    }
    if path := reads.get(kind):
        return to_bytes(url, "GET", path, headers)
    if kind == "click":
        body = orjson.dumps({"merchant_id": merchant_id})
        return to_bytes(url, "POST", "/v1/clicks", {**headers, "content-type": "application/json"}, body)
    signed, body = sale(f"S-{number}", click)
    return to_bytes(url, "POST", f"/v1/webhooks/{loaded.source_key}", signed, body)


def summary(answers: Iterable[Answer]) -> dict[str, Any]:
    """Return p50, p95 and p99 of the answers, how many there were, and how many were errors (no 2xx, or none)."""
    answers = list(answers)
    # None at all are sent in a phase that went by while those of the one before still waited.
    times = [answer.ms for answer in answers]
    cuts = statistics.quantiles(times if len(times) > 1 else [float("nan")] * 2, n=100)
    return {
        "requests": len(answers),
        "errors": sum(not 200 <= answer.status < 300 for answer in answers),
        "p50_ms": round(cuts[49], 1),
        "p95_ms": round(cuts[94], 1),
        "p99_ms": round(cuts[98], 1),
    }


async def weather(load: SteadyLoad, storm: Callable[[], Awaitable[list[float]]], *, seconds: float) -> dict[str, Any]:
    """Let the load run before, during and after the storm, which returns the milliseconds until each sync's answer."""
    load.start()
    # The first seconds are for connections and plans.
    await asyncio.sleep(3)
    calm = time.time()
    await asyncio.sleep(seconds)
    begun = time.time()
    answered = await storm()
    ended = time.time()
    await asyncio.sleep(seconds)
    answers = await asyncio.to_thread(load.stop)
    before = summary(answer for answer in answers if calm <= answer.due < begun)
    during = summary(answer for answer in answers if begun <= answer.due < ended)
    return {
        "storm_seconds": round(ended - begun, 1),
        "sync_answer_ms": [round(one) for one in answered],
        "before": before,
        "during": during,
        "after": summary(answer for answer in answers if ended <= answer.due),
        "p99_ratio": round(during["p99_ms"] / before["p99_ms"], 2),
    }


async def service_storm(client: httpx.AsyncClient, merchants: list[int]) -> list[float]:
    """Ask for all syncs at once, and wait for the end of each."""
    answered, jobs = [], []
    for merchant_id in merchants:
        asked = time.perf_counter()
        answer = (await client.post(f"/sync/{merchant_id}")).raise_for_status()
        answered.append((time.perf_counter() - asked) * 1000)
        jobs.append(answer.json()["job_id"])
    for job in jobs:
        while (state := (await client.get(f"/sync/jobs/{job}")).raise_for_status().json())["status"] not in _DONE:
            await asyncio.sleep(0.5)
        if state["error"]:
            raise RuntimeError(state["error"])
    return answered


async def in_request_storm(client: httpx.AsyncClient, merchants: list[int]) -> list[float]:
    """Ask for all syncs at once; each answers when it is done."""

    async def one(merchant_id: int) -> float:
        asked = time.perf_counter()
        (await client.post(f"/sync/{merchant_id}")).raise_for_status()
        return (time.perf_counter() - asked) * 1000

    return list(await asyncio.gather(*map(one, merchants)))


async def measure(stack: Stack, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run both storms; returns the result."""
    settings, url = stack.settings, stack.service.url
    await db.open_database(settings, application_name="bench", pool_size=2, max_overflow=0)
    try:
        loaded = await load_business(settings, _SIZES)
        async with transaction() as session:
            headers = await staff_headers(session, StaffRole.OPERATOR)
            merchants = [(await make_merchant(session)).id for _ in range(2 * MERCHANTS)]
    finally:
        await db.close_database()
    mix = make_mix(url, loaded, await find_customers(settings), count=60 * arguments.rate)
    async with FeedServer() as server, httpx.AsyncClient(base_url=url, headers=headers, timeout=300) as client:
        server.serve(document(offers(arguments.offers)), "/feed")
        for merchant_id in merchants[:MERCHANTS]:
            body = {"url": server.url("/feed"), "mapping": {"preset": "direct-json"}, "enabled": False}
            (await client.put(f"/v1/admin/merchants/{merchant_id}/feed", json=body)).raise_for_status()
        ours = await weather(
            SteadyLoad(url, mix, rate=arguments.rate),
            lambda: service_storm(client, merchants[:MERCHANTS]),
            seconds=arguments.seconds,
        )
        theirs = await _in_request(settings.sqlalchemy_url, server.url("/feed"), merchants[MERCHANTS:], arguments)
    return {
        "load": "benchmarks/steady_load.py: one Python process, open loop",
        "rate_per_second": arguments.rate,
        "offers": MERCHANTS * arguments.offers,
        "mix_percent": MIX,
        "service": ours,
        "in_request": theirs,
    }


async def _in_request(database_url: str, feed_url: str, merchants: list[int], arguments: argparse.Namespace) -> Any:  # noqa: ANN401 - a part of the result
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "benchmarks.storm_in_request", str(port), database_url, feed_url]
    process = await asyncio.to_thread(subprocess.Popen, command)
    try:
        await asyncio.to_thread(
            wait_until,
            lambda: httpx.get(f"{url}/offers/{merchants[0]}", trust_env=False).is_success,
            seconds=30,
            what="the baseline serves",
        )
        requests = [to_bytes(url, "GET", f"/offers/{merchant_id}", {}) for merchant_id in range(1, 40)]
        async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as client:
            return await weather(
                SteadyLoad(url, requests, rate=arguments.rate),
                lambda: in_request_storm(client, merchants),
                seconds=arguments.seconds,
            )
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 30)


def show(result: dict[str, Any]) -> None:
    """Print both storms."""
    for name in ("service", "in_request"):
        storm = result[name]
        answers = ", ".join(f"{ms} ms" for ms in storm["sync_answer_ms"])
        print(f"{name}: all five done in {storm['storm_seconds']} s; POST /sync answered after {answers}")
        for phase in ("before", "during", "after"):
            row = storm[phase]
            times = f"p50 {row['p50_ms']} ms, p95 {row['p95_ms']} ms, p99 {row['p99_ms']} ms"
            print(f"  {phase:<7}{row['requests']:>6} requests, {row['errors']} errors, {times}")
        met = f"at most {TARGET_RATIO:g}: {'met' if storm['p99_ratio'] <= TARGET_RATIO else 'MISSED'}"
        print(f"  p99 during / before: {storm['p99_ratio']}   {met if name == 'service' else ''}")


def main() -> None:
    """Measure, print and keep the result."""
    parser = argparse.ArgumentParser(description="Five syncs at once while customers shop.")
    parser.add_argument("--rate", type=int, default=100, help="requests a second")
    parser.add_argument("--seconds", type=int, default=10, help="length of the calm before and after")
    parser.add_argument("--offers", type=int, default=50_000, help="offers of each of the five merchants")
    arguments = parser.parse_args()
    with running_stack("serve", "worker sync", "worker default") as stack:
        result = asyncio.run(measure(stack, arguments))
    show(result)
    print(f"kept in benchmarks/results/{write_result('storm', result).name}")


if __name__ == "__main__":
    main()
