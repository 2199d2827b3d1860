"""Prometheus metrics, defined once. With `PROMETHEUS_MULTIPROC_DIR` set, all processes of a host add up.

Depths of queues and inboxes are not kept here: they are read from PostgreSQL and Redis when `/metrics` is asked
(`app/services/monitoring.py`), so that they are right whoever answers.
"""

import os

from prometheus_client import REGISTRY as DEFAULT_REGISTRY
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

_LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_JOB_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 1800)

HTTP_REQUESTS = Histogram(
    "http_request_duration_seconds",
    "Time from the request's first byte to its answer's last, by route template.",
    ("method", "route", "status"),
    buckets=_LATENCY_BUCKETS,
)
REQUESTS_SHED = Counter("http_requests_shed_total", "Requests refused because too many were in progress.")
REQUESTS_IN_PROGRESS = Gauge(
    "http_requests_in_progress", "Requests in progress, probes and scrapes aside.", multiprocess_mode="livesum"
)
EVENT_LOOP_LAG = Histogram(
    "event_loop_lag_seconds", "How late the event loop is, sampled four times a second.", buckets=_LATENCY_BUCKETS
)
DB_POOL_IN_USE = Gauge(
    "db_pool_connections_in_use", "Connections checked out of the pools.", multiprocess_mode="livesum"
)
DB_CONNECTION_BUDGET = Gauge(
    "db_connection_budget", "Most connections this host's processes may hold together.", multiprocess_mode="livemax"
)
DB_CONNECTION_LIMIT = Gauge(
    "db_connection_limit", "Connections that the server has for us.", multiprocess_mode="livemax"
)
REPLICA_LAG = Gauge(
    "db_replica_lag_seconds", "How far the read replica is behind the primary.", multiprocess_mode="livemax"
)
READS = Counter("db_reads_total", "Reads that tolerate lag, by the server that was read.", ("server",))
RINGS = Counter("doorbell_rings_total", "Jobs announced to the workers, by outcome.", ("task", "outcome"))
JOB_DURATION = Histogram(
    "job_duration_seconds", "Time a job ran, by task and outcome.", ("task", "outcome"), buckets=_JOB_BUCKETS
)
WEBHOOKS_RECEIVED = Counter(
    "webhook_received_total", "Webhooks taken in or refused, by the source's preset and outcome.", ("preset", "outcome")
)
WEBHOOKS_PROCESSED = Counter(
    "webhook_processed_total", "Webhook events that left the inbox, by final status.", ("status",)
)
POLLED_ITEMS = Counter(
    "polled_items_total",
    "Items that polls fetched, by the source's preset and whether they were news.",
    ("preset", "outcome"),
)
POLLS = Counter("polls_total", "Polls that ended, by the source's preset and outcome.", ("preset", "outcome"))
SYNC_ROWS = Counter("sync_rows_total", "Feed rows by what became of them.", ("outcome",))
SYNC_RUNS = Counter("sync_runs_total", "Finished feed syncs by status.", ("status",))
RATE_LIMITED = Counter("rate_limited_total", "Requests refused because of a rate limit, by policy.", ("policy",))
NOTIFICATIONS = Counter(
    "notification_attempts_total", "Tries to deliver a notification, by what the delivery became.", ("status",)
)
MESSAGES = Counter(
    "message_attempts_total", "Tries to send a message to a customer, by what it became.", ("channel", "status")
)
PAYOUT_ANSWERS = Counter(
    "payout_provider_answers_total", "Exchanges with the HTTP payout provider, by what is known after.", ("outcome",)
)
PAYOUT_CALLBACKS = Counter("payout_callbacks_total", "Callbacks of the HTTP payout provider, by outcome.", ("outcome",))


def exposition() -> bytes:
    """Return the Prometheus text of all processes of this host (or of this one, without a shared folder)."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(DEFAULT_REGISTRY)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # the client types it not
    return generate_latest(registry)


def forget_process(pid: int) -> None:
    """Take a finished process out of the live gauges."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]  # the client types it not
