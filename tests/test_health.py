"""Probes answer exactly as the contract says."""

import httpx


async def test_probes_without_dependencies_answer_exactly(client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    assert (await client.get("/livez")).json() == {"status": "alive"}


async def test_every_answer_carries_a_request_id_and_timing(client: httpx.AsyncClient) -> None:
    response = await client.get("/healthz", headers={"X-Request-ID": "abc-123"})
    assert response.headers["X-Request-ID"] == "abc-123"
    assert response.headers["Server-Timing"].startswith("app;dur=")
    for insane in ("", "a b", "x" * 200, "é", "-leading", 'quote"'):
        answered = (await client.get("/healthz", headers=[(b"X-Request-ID", insane.encode())])).headers["X-Request-ID"]
        assert answered != insane
        assert len(answered) == 36


async def test_unknown_path_is_a_problem(client: httpx.AsyncClient) -> None:
    response = await client.get("/nothing/here")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["code"] == "not_found"
    assert problem["instance"] == "/nothing/here"
    assert problem["request_id"] == response.headers["X-Request-ID"]


async def test_metrics_show_requests_by_route_template(client: httpx.AsyncClient) -> None:
    await client.get("/healthz")
    text = (await client.get("/metrics")).text
    assert 'http_request_duration_seconds_count{method="GET",route="/healthz",status="200"}' in text
    assert 'dependency_up{dependency="redis"} 1.0' in text
    assert "webhook_inbox_oldest_seconds 0.0" in text
