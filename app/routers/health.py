"""Probes and metrics. Only /readyz asks dependencies; a probe never takes a pooled connection from a customer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

import sqlalchemy.exc
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from pydantic import BaseModel, Field
from redis.exceptions import RedisError

from app import db, metrics
from app.db import AsyncSessionLocal
from app.dependencies import ArqPoolDep, SettingsDep
from app.doorbell import DEFAULT_QUEUE, SYNC_QUEUE
from app.openapi import problems
from app.schema_version import require_schema
from app.services import alerts, monitoring
from app.services.fraud.show import measure_reviews

router = APIRouter(tags=["health"])

_METRICS_TIMEOUT_SECONDS = 2


class Health(BaseModel):
    """The process runs."""

    status: Literal["ok"] = Field(examples=["ok"])


class Liveness(BaseModel):
    """The event loop turns."""

    status: Literal["alive"] = Field(examples=["alive"])


class Readiness(BaseModel):
    """Every required dependency answered."""

    status: Literal["ready"] = Field(examples=["ready"])


@router.get("/healthz", summary="Does the process run?")
async def healthz() -> Health:
    """Answer without asking any dependency."""
    return Health(status="ok")


@router.get("/livez", summary="Does the event loop turn?")
async def livez() -> Liveness:
    """Answer without asking any dependency: an outage elsewhere must not restart this process."""
    return Liveness(status="alive")


@router.get("/readyz", summary="Can this process serve?", responses=problems(503))
async def readyz(settings: SettingsDep, redis: ArqPoolDep) -> Readiness:
    """Ask PostgreSQL, whose schema must not be older than this code, and Redis, each with a deadline.

    503 names what failed.
    """
    checks: dict[str, Callable[[], Awaitable[object]]] = {
        "postgres": lambda: require_schema(db.engine),
        "redis": redis.ping,
    }
    required = [str(name) for name in settings.readyz_requires]
    await monitoring.require_ready(
        {name: checks[name] for name in required}, timeout_seconds=settings.readyz_timeout_seconds
    )
    return Readiness(status="ready")


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"description": "Prometheus text.", "content": {"text/plain": {}}}},
)
async def prometheus_metrics(redis: ArqPoolDep) -> Response:
    """Counters of all processes of this host, and the depths of inbox and queues as they are now."""
    registry = CollectorRegistry()
    await _gather_depths(registry, redis)
    return Response(metrics.exposition() + generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


async def _gather_depths(registry: CollectorRegistry, redis: ArqPoolDep) -> None:
    inbox = Gauge("webhook_inbox_events", "Webhook events not processed, by status.", ("status",), registry=registry)
    oldest = Gauge("webhook_inbox_oldest_seconds", "Age of the oldest event that waits.", registry=registry)
    syncs = Gauge(
        "sync_runs_unfinished", "Sync runs that have not finished, by status.", ("status",), registry=registry
    )
    polls_failing = Gauge("polling_failing_sources", "Sources whose last poll failed.", registry=registry)
    polls_overdue = Gauge(
        "polling_overdue_seconds", "Time since the most overdue source was to be polled.", registry=registry
    )
    violations = Gauge(
        "ledger_invariant_violations",
        "Violations found by the last whole check of a rule of the ledger, or so far by the one on its way.",
        ("invariant",),
        registry=registry,
    )
    age = Gauge(
        "ledger_invariant_pass_age_seconds",
        "Time since the last whole check of a rule ended.",
        ("invariant",),
        registry=registry,
    )
    unsealed = Gauge("ledger_days_unsealed", "Days that are over and not sealed.", registry=registry)
    claims = Gauge("claims_waiting", "Claims that wait for staff, by status.", ("status",), registry=registry)
    overdue = Gauge("claims_overdue", "Claims that were to be decided by now.", registry=registry)
    uncredited = Gauge("claims_uncredited", "Approved claims whose order is still to come.", registry=registry)
    held = Gauge("orders_held", "Orders that are held for a person to look at.", registry=registry)
    held_oldest = Gauge("orders_held_oldest_seconds", "How long the oldest of them has been held.", registry=registry)
    queue = Gauge("queue_jobs", "Jobs in each queue, running ones included.", ("queue",), registry=registry)
    alerts_open = Gauge("alerts_open", "Open alerts, by kind.", ("kind",), registry=registry)
    up = Gauge("dependency_up", "1 when the dependency answered this scrape.", ("dependency",), registry=registry)
    try:
        async with asyncio.timeout(_METRICS_TIMEOUT_SECONDS), AsyncSessionLocal() as session:
            counts, oldest_seconds = await monitoring.measure_inbox(session)
            for status, count in counts.items():
                inbox.labels(status).set(count)
            oldest.set(oldest_seconds)
            waiting, overdue_count, uncredited_count = await monitoring.measure_claims(session)
            for status, count in waiting.items():
                claims.labels(status).set(count)
            overdue.set(overdue_count)
            uncredited.set(uncredited_count)
            held_count, held_seconds = await measure_reviews(session)
            held.set(held_count)
            held_oldest.set(held_seconds)
            for status, count in (await monitoring.measure_syncs(session)).items():
                syncs.labels(status).set(count)
            failing, overdue_seconds = await monitoring.measure_polling(session)
            polls_failing.set(failing)
            polls_overdue.set(overdue_seconds)
            proofs, days = await monitoring.measure_ledger(session)
            for proof in proofs:
                violations.labels(proof.rule).set(proof.violations)
                age.labels(proof.rule).set(proof.pass_age_seconds)
            unsealed.set(days)
            for kind, count in (await alerts.count_open(session)).items():
                alerts_open.labels(kind).set(count)
            _show_payouts(registry, await monitoring.measure_payouts(session))
        up.labels("postgres").set(1)
    except (sqlalchemy.exc.SQLAlchemyError, OSError, TimeoutError):
        up.labels("postgres").set(0)
    try:
        async with asyncio.timeout(_METRICS_TIMEOUT_SECONDS):
            for name, jobs in (await monitoring.measure_queues(redis, (DEFAULT_QUEUE, SYNC_QUEUE))).items():
                queue.labels(name).set(jobs)
        up.labels("redis").set(1)
    except (RedisError, OSError, TimeoutError):
        up.labels("redis").set(0)


def _show_payouts(registry: CollectorRegistry, found: monitoring.PayoutDepths) -> None:
    unfinished = Gauge(
        "payouts_unfinished", "Payouts on their way, by provider and state.", ("provider", "status"), registry=registry
    )
    for (provider, status), count in found.unfinished.items():
        unfinished.labels(provider.value, status.value).set(count)
    for name, description, value in (
        ("payouts_unknown", "Payouts of which the HTTP provider did not say what became.", found.unknown),
        (
            "payouts_unknown_oldest_seconds",
            "Time since the oldest of the unknown payouts was handed over.",
            found.unknown_oldest_seconds,
        ),
        ("payouts_contradicted", "Failed payouts that the HTTP provider calls paid.", found.contradicted),
    ):
        Gauge(name, description, registry=registry).set(value)
