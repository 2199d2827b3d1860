"""Several API processes on one port: metrics add up, and a stop is clean."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.config import Settings
from tests.service import Service, wait_until

REQUESTS = 40


@pytest.fixture
def service(committed_db: Settings, tmp_path: Path) -> Iterator[Service]:
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    with Service(
        tmp_path,
        database_url=committed_db.database_url,
        redis_url=committed_db.redis_url,
        WEB_CONCURRENCY="2",
        PROMETHEUS_MULTIPROC_DIR=str(metrics),
    ) as service:
        yield service


def test_metrics_are_right_whichever_process_answers(service: Service) -> None:
    api = service.start_api()
    wait_until(
        lambda: [line["message"] for line in api.log_lines()].count("Application startup complete.") == 2,
        seconds=20,
        what="both API processes run",
    )
    # A new connection each time, so that both processes get some.
    for _ in range(REQUESTS):
        assert httpx.get(f"{service.url}/healthz").status_code == 200
    for _ in range(6):
        text = httpx.get(f"{service.url}/metrics").text
        counted = re.search(
            r'^http_request_duration_seconds_count\{method="GET",route="/healthz",status="200"\} (\d+)',
            text,
            re.MULTILINE,
        )
        assert counted is not None
        assert int(counted[1]) == REQUESTS
    assert api.stop() == 0


def test_a_budget_beyond_what_the_server_allows_is_a_clear_warning(service: Service) -> None:
    service.environment |= {"WEB_CONCURRENCY": "1", "DB_POOL_SIZE": "500"}
    api = service.start_api()
    (warning,) = [line for line in api.log_lines() if line["message"].startswith("connection budget")]
    assert (warning["level"], warning["connections_per_api_process"]) == ("WARNING", 516)
    assert warning["budget"] > warning["available"]
