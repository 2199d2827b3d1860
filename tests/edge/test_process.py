"""The real server process: whom it believes about addresses, what it sheds, and what it never says."""

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from app.config import Settings
from tests.service import Service, wait_until

LIMIT = 4
# Of 1,200 writes a minute by address.
FACTOR = 0.02
WRITES = 24
PROXY, STRANGER, LOADER = "127.0.0.2", "127.0.0.3", "127.0.0.4"


@pytest.fixture(scope="module")
def service(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(
        tmp_path_factory.mktemp("edge"),
        database_url=settings.database_url,
        redis_url=settings.redis_url,
        MAX_CONCURRENT_REQUESTS=str(LIMIT),
        RATE_LIMIT_FACTOR=str(FACTOR),
        FORWARDED_ALLOW_IPS=f"{PROXY}, 10.1.0.0/16",
    ) as service:
        service.start_api()
        yield service


def client_at(service: Service, address: str) -> httpx.Client:
    return httpx.Client(base_url=service.url, transport=httpx.HTTPTransport(local_address=address), trust_env=False)


def statuses(client: httpx.Client, forwarded_for: str, *, count: int) -> list[int]:
    return [
        client.post("/v1/auth/revoke", headers={"X-Forwarded-For": forwarded_for.format(number)}).status_code
        for number in range(count)
    ]


def test_who_is_no_proxy_of_ours_is_counted_by_its_own_address_whatever_it_says(service: Service) -> None:
    with client_at(service, STRANGER) as client:
        answers = statuses(client, "203.0.113.{}", count=WRITES + 5)
        assert answers[:WRITES] == [422] * WRITES
        assert 429 in answers[WRITES:]


def test_a_proxy_of_ours_is_believed_about_the_hop_before_it_and_no_further(service: Service) -> None:
    with client_at(service, PROXY) as client:
        # Each of many customers behind it has a limit of their own.
        assert statuses(client, "203.0.113.{}", count=WRITES + 5) == [422] * (WRITES + 5)
        # What the customer wrote before the proxy's own entry, or before that of an inner proxy, is no evidence.
        for spoofed in ("192.0.2.{}, 198.51.100.7", "192.0.2.{}, 198.51.100.8, 10.1.2.3"):
            assert 429 in statuses(client, spoofed, count=WRITES + 5)


def test_https_is_believed_from_a_proxy_only(service: Service) -> None:
    for address, expected in ((PROXY, True), (STRANGER, False)):
        with client_at(service, address) as client:
            answer = client.get("/livez", headers={"X-Forwarded-Proto": "https"})
        assert ("Strict-Transport-Security" in answer.headers) is expected


def test_the_server_does_not_say_what_it_is(service: Service) -> None:
    with client_at(service, LOADER) as client:
        for path in ("/livez", "/nothing", "/docs", "/docs/assets/swagger-ui.css"):
            answer = client.get(path)
            assert "Server" not in answer.headers
            assert answer.headers["X-Content-Type-Options"] == "nosniff"


def half_a_request(service: Service, open_sockets: ExitStack) -> socket.socket:
    """A request in progress: its body is still to come."""
    address = ("127.0.0.1", service.port)
    connection = open_sockets.enter_context(socket.create_connection(address, 5, source_address=(LOADER, 0)))
    connection.sendall(
        b"POST /v1/customers HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{"
    )
    return connection


def metric(client: httpx.Client, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    assert found, name
    return float(found[1])


def test_a_full_process_sheds_what_is_more_answers_probes_and_recovers(service: Service) -> None:
    with client_at(service, LOADER) as client, ExitStack() as open_sockets:
        for _ in range(3 * LIMIT):
            open_sockets.enter_context(socket.create_connection(("127.0.0.1", service.port), 5))
        assert client.get("/v1/categories").status_code == 200  # idle sockets are nobody's requests
        started = [half_a_request(service, open_sockets) for _ in range(LIMIT)]
        wait_until(
            lambda: metric(client, "http_requests_in_progress") == LIMIT, seconds=5, what="all of them are in progress"
        )
        shed = client.get("/v1/categories")
        assert (shed.status_code, shed.json()["code"]) == (503, "overloaded")
        assert shed.headers["Content-Type"] == "application/problem+json"
        assert int(shed.headers["Retry-After"]) >= 1
        for path in ("/livez", "/healthz", "/readyz", "/metrics"):
            assert client.get(path).status_code == 200
        assert metric(client, "http_requests_shed_total") >= 1
        assert metric(client, "event_loop_lag_seconds_count") >= 1
        for connection in started:
            connection.sendall(b"}")
            assert connection.recv(100).startswith(b"HTTP/1.1 422 ")
        assert client.get("/v1/categories").status_code == 200
        # One that hangs up in the middle gives its place back as well.
        for connection in [half_a_request(service, open_sockets) for _ in range(LIMIT)]:
            connection.close()
        wait_until(lambda: metric(client, "http_requests_in_progress") == 0, seconds=5, what="places are given back")
        assert client.get("/v1/categories").status_code == 200


def test_shedding_writes_no_traceback(service: Service) -> None:
    lines = [line for process in service.processes for line in process.log_lines()]
    assert any(line.get("status") == 503 for line in lines)
    assert not any("exc_info" in line for line in lines)
