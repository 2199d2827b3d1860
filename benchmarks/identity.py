"""Signing in: known and unknown addresses, the event loop under a crowd of logins, and verifying access tokens.

The application runs in this process, on durable servers of its own. Usage: python -m benchmarks.identity [--tries 40]
"""

import argparse
import asyncio
import statistics
import time
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app import db
from app.ids import new_id
from app.main import create_app
from app.services.signing_keys import derived_ring
from app.services.tokens import AccessTokens, issue_access_token, verify_access_token
from benchmarks.harness import running_stack, write_result
from tests.conftest import in_process

PASSWORD = "correct horse battery staple"
CROWD = 50


async def measure(tries: int) -> dict[str, Any]:
    """Measure all three."""
    with running_stack() as stack:
        settings = stack.settings.model_copy(update={"rate_limit_factor": 1000})
        await db.open_database(settings, application_name="bench", pool_size=10, max_overflow=20)
        try:
            async with in_process(create_app(settings), settings) as client:
                emails = [f"customer-{number}@example.com" for number in range(max(tries, CROWD))]
                for email in emails:
                    (await client.post("/v1/customers", json={"email": email, "password": PASSWORD})).raise_for_status()
                return {
                    "addresses": await addresses(client, emails[:tries]),
                    "crowd": await crowd(client, emails[:CROWD]),
                    "verify": await verification(AccessTokens(settings), settings),
                }
        finally:
            await db.close_database()


async def login(client: httpx.AsyncClient, email: str, password: str) -> float:
    """Ask for tokens; returns how many milliseconds that took."""
    began = time.perf_counter()
    await client.post("/v1/auth/token", data={"grant_type": "password", "username": email, "password": password})
    return (time.perf_counter() - began) * 1000


async def addresses(client: httpx.AsyncClient, emails: list[str]) -> dict[str, float]:
    """Medians of wrong passwords for known and unknown addresses, turn by turn."""
    known, unknown = [], []
    for email in emails:
        known.append(await login(client, email, "wrong password"))
        unknown.append(await login(client, f"un{email}", "wrong password"))
    medians = statistics.median(known), statistics.median(unknown)
    return {
        "known_median_ms": round(medians[0], 2),
        "unknown_median_ms": round(medians[1], 2),
        "difference_percent": round(abs(medians[0] - medians[1]) / medians[0] * 100, 2),
    }


async def crowd(client: httpx.AsyncClient, emails: list[str]) -> dict[str, float]:
    """How late the event loop is while a crowd signs in at once."""
    lags: list[float] = []
    logins = asyncio.gather(*(login(client, email, PASSWORD) for email in emails))
    while not logins.done():
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        lags.append((time.perf_counter() - began - 0.001) * 1000)
    return {
        "logins": len(emails),
        "slowest_login_ms": round(max(await logins), 1),
        "loop_lag_p99_ms": round(statistics.quantiles(lags, n=100)[98], 2),
        "loop_lag_max_ms": round(max(lags), 2),
    }


async def verification(access_tokens: AccessTokens, settings: Any) -> dict[str, float]:  # noqa: ANN401 - Settings
    """Microseconds of verifying a token: with the signature, remembered, and the bare signature beside it."""
    ring, rounds = derived_ring(settings), 2_000
    tokens = [
        issue_access_token(settings, ring.signing(), customer_id=new_id(), session_id=new_id()) for _ in range(rounds)
    ]
    began = time.perf_counter()
    for token in tokens:
        verify_access_token(settings, ring, token)
    uncached = time.perf_counter() - began
    await access_tokens.verify(tokens[0])
    began = time.perf_counter()
    for _ in range(rounds):
        await access_tokens.verify(tokens[0])
    cached = time.perf_counter() - began
    key, message = Ed25519PrivateKey.generate(), b"x" * 400
    signature, public = key.sign(message), key.public_key()
    began = time.perf_counter()
    for _ in range(rounds):
        public.verify(signature, message)
    bare = time.perf_counter() - began
    return {
        name: round(seconds / rounds * 1e6, 1)
        for name, seconds in (("uncached_us", uncached), ("cached_us", cached), ("bare_signature_us", bare))
    }


def main() -> None:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=40)
    result = asyncio.run(measure(parser.parse_args().tries))
    for name, figures in result.items():
        print(f"{name}: " + ", ".join(f"{what} {figure}" for what, figure in figures.items()))
    print(f"kept in {write_result('identity', result)}")


if __name__ == "__main__":
    main()
