"""What one process takes on at a time, and how late its event loop is.

uvicorn's own `--limit-concurrency` counts idle sockets and lets probes fail; here only requests in progress count.
Those that wait for a database connection are the queue: its length is bounded here, its time by the pool's timeout.
"""

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from app import metrics
from app.errors import UnavailableError

# Kubernetes and Prometheus must see a busy process as it is: busy, and alive.
SPARED = frozenset({"/healthz", "/livez", "/readyz", "/metrics"})
_SAMPLE_SECONDS = 0.25


class OverloadedError(UnavailableError):
    """This process has as many requests in progress as it takes on; another may have room."""

    code = "overloaded"
    title = "Overloaded"

    def __init__(self) -> None:
        super().__init__("The service is busy; try again in a moment.")


class Load:
    """How many requests of a process are in progress, and how many it takes on."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_progress = 0


class LoadLimitMiddleware:
    """Refuses at once what could only wait. Raises OverloadedError, for RequestContextMiddleware to answer."""

    def __init__(self, app: ASGIApp, *, load: Load) -> None:
        self.app = app
        self.load = load

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] != "http" or scope["path"] in SPARED:
            await self.app(scope, receive, send)
            return
        load = self.load
        if load.in_progress >= load.limit:
            metrics.REQUESTS_SHED.inc()
            raise OverloadedError
        load.in_progress += 1
        try:
            await self.app(scope, receive, send)
        finally:
            load.in_progress -= 1


async def watch(load: Load) -> None:
    """Measure four times a second, until cancelled, how late the event loop is and what is in progress."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _SAMPLE_SECONDS
        await asyncio.sleep(_SAMPLE_SECONDS)
        metrics.EVENT_LOOP_LAG.observe(max(0.0, loop.time() - due))
        metrics.REQUESTS_IN_PROGRESS.set(load.in_progress)
