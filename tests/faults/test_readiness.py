"""Readiness follows the dependencies; liveness does not."""

import httpx
import pytest

from app.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.service import Service, frozen, wait_until

pytestmark = pytest.mark.fault


def test_readyz_names_what_is_away_and_recovers(
    service: Service, postgres: EmbeddedPostgres, redis: EmbeddedRedis
) -> None:
    service.start_api()
    with httpx.Client(base_url=service.url, timeout=5) as http:

        def readiness() -> tuple[int, str]:
            assert http.get("/livez").json() == {"status": "alive"}
            assert http.get("/healthz").json() == {"status": "ok"}
            answer = http.get("/readyz")
            return answer.status_code, answer.json().get("detail", answer.json().get("status"))

        assert readiness() == (200, "ready")
        for server, name in ((redis, "redis"), (postgres, "postgres")):
            server.stop()
            status, detail = readiness()
            assert status == 503
            assert detail.startswith(f"{name}: ")
            server.start()
            wait_until(lambda: readiness() == (200, "ready"), seconds=10, what=f"ready with {name} back")


def test_a_frozen_dependency_meets_the_deadline(
    service: Service, postgres: EmbeddedPostgres, redis: EmbeddedRedis
) -> None:
    service.start_api()
    with httpx.Client(base_url=service.url, timeout=5) as http:
        assert http.get("/readyz").status_code == 200
        assert redis.pid is not None
        with frozen(redis.pid):
            answer = http.get("/readyz")
            assert (answer.status_code, answer.json()["detail"]) == (503, "redis: no answer within 1 s")
            assert http.get("/livez").status_code == 200
        wait_until(lambda: http.get("/readyz").status_code == 200, seconds=10, what="ready with Redis thawed")
