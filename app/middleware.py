"""Request id, timing and the JSON access line: a pure-ASGI middleware, to be read at 3 AM.

It sits inside CORS and outside everything else, so that also an unexpected exception becomes a problem
document with a request id and CORS headers.
"""

import logging
import re
from collections.abc import Awaitable, Callable
from time import perf_counter

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import metrics
from app.ids import new_id
from app.logs import request_id_var
from app.services.origin import network_of

logger = logging.getLogger("app.access")

# Where in the scope a dependency leaves headers for whatever answer the request will get.
ANSWER_HEADERS = "cashback.answer_headers"

# What a caller may choose as its request id: visible, short, and harmless in a log or a shell.
_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}")


class RequestContextMiddleware:
    """Gives each HTTP request an id, measures it, logs it, and answers for exceptions nobody handled."""

    def __init__(self, app: ASGIApp, on_error: Callable[[Request, Exception], Awaitable[Response]]) -> None:
        self.app = app
        self.on_error = on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = perf_counter()
        request_id = _request_id(scope)
        token = request_id_var.set(request_id)
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in scope.get(ANSWER_HEADERS, {}).items():
                    headers[name] = value
                headers["Server-Timing"] = f"app;dur={(perf_counter() - started) * 1000:.1f}"
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception as error:
            if status:  # half an answer is out: only closing the connection tells the client
                logger.exception("answer broken off")
                raise
            response = await self.on_error(Request(scope), error)
            await response(scope, receive, send_with_headers)
        finally:
            _record(scope, status, perf_counter() - started)
            request_id_var.reset(token)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return str(new_id())


def _record(scope: Scope, status: int, seconds: float) -> None:
    # The template, not the path: metrics must not grow with ids, and a source key in a path is a secret.
    route = getattr(scope.get("route"), "path", None) or "unmatched"
    method = scope["method"]
    metrics.HTTP_REQUESTS.labels(method, route, status or 499).observe(seconds)
    client = scope.get("client")
    logger.info(
        "request",
        extra={
            "method": method,
            "route": route,
            "path": route if "{source_key}" in route or route == "unmatched" else scope["path"],
            "status": status or 499,  # no answer was begun: the client went away
            "duration_ms": round(seconds * 1000, 2),
            # Its network: a log is no place to keep who clicked where.
            "client": network_of(client[0]) if client else None,
        },
    )
