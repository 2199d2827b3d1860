"""Request id, timing, the JSON access line and the body limit: two pure-ASGI middlewares, to be read at 3 AM.

They sit inside CORS and outside everything else, so that also an unexpected exception becomes a problem
document with a request id and CORS headers.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import metrics
from app.errors import AppError
from app.ids import new_id
from app.logs import request_id_var

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


class BodyTooLargeError(AppError):
    """A request body over the limit of its path."""

    status_code = 413
    code = "body_too_large"
    title = "Body too large"

    def __init__(self, limit: int) -> None:
        # What is left of the body is not worth reading, so the connection cannot be used again (RFC 9110, 15.5.14).
        super().__init__(f"The body may have {limit} bytes.", headers={"Connection": "close"})


class BodyLimitMiddleware:
    """Refuses a body over its limit: by its Content-Length before any of it is read, else as soon as it is passed.

    FastAPI's own `max_body_size` sits outside every middleware and answers in plain text, without CORS headers.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, max_bytes_below: Mapping[str, int]) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_bytes_below = max_bytes_below

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raises BodyTooLargeError, for RequestContextMiddleware to answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self._limit(scope["path"])
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > limit:
                raise BodyTooLargeError(limit)
        read = 0

        async def receive_within_limit() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise BodyTooLargeError(limit)
            return message

        await self.app(scope, receive_within_limit, send)

    def _limit(self, path: str) -> int:
        for prefix, limit in self.max_bytes_below.items():
            if path.startswith(prefix):
                return limit
        return self.max_bytes


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
            "client": client[0] if client else None,
        },
    )
