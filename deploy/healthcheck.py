# ruff: noqa: INP001 - a script of its own, in no package
"""Says whether this container's process still answers: the image's HEALTHCHECK.

The API answers /livez on PORT; a job worker answers /metrics on WORKER_METRICS_PORT, where that is set. No dependency
is asked: an outage of PostgreSQL or Redis is no reason to replace a container.
"""

import http.client
import os
import sys

TIMEOUT_SECONDS = 3


def answers(port: int, path: str) -> bool:
    """Whether a GET on this host is answered with 200 in time."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> int:
    """Ask what this container runs; 0 is healthy."""
    if metrics_port := os.environ.get("WORKER_METRICS_PORT"):
        return 0 if answers(int(metrics_port), "/metrics") else 1
    return 0 if answers(int(os.environ.get("PORT") or 8000), "/livez") else 1


if __name__ == "__main__":
    sys.exit(main())
