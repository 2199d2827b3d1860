"""How large and how slow a request may be, and which of its bytes no route has to think about.

Inside CORS and the request context, so that each refusal is a problem document like every other.
"""

import asyncio
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.edge.strict_json import check_json
from app.errors import AppError, FieldError, InvalidRequestError

MAX_TARGET_BYTES = 8_192
MAX_HEADERS = 100
MAX_HEADER_BYTES = 32_768

# What is left of the request is not worth reading, so the connection cannot be used again (RFC 9110, 15.5.14).
_HANG_UP = {"Connection": "close"}


class BodyTooLargeError(AppError):
    """A request body over the limit of its path."""

    status_code = 413
    code = "body_too_large"
    title = "Body too large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body may have {limit} bytes.", headers=_HANG_UP)


class UriTooLongError(AppError):
    """A path with its query that is longer than any of ours."""

    status_code = 414
    code = "uri_too_long"
    title = "URI too long"

    def __init__(self) -> None:
        super().__init__(f"Path and query may have {MAX_TARGET_BYTES} bytes.", headers=_HANG_UP)


class HeadersTooLargeError(AppError):
    """Too many header fields, or too much in them (RFC 6585)."""

    status_code = 431
    code = "headers_too_large"
    title = "Headers too large"

    def __init__(self) -> None:
        super().__init__(
            f"A request may have {MAX_HEADERS} header fields of {MAX_HEADER_BYTES} bytes together.", headers=_HANG_UP
        )


class RequestTimeoutError(AppError):
    """The request did not arrive in time."""

    status_code = 408
    code = "request_timeout"
    title = "Request timeout"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The request did not arrive within {seconds:g} s.", headers=_HANG_UP)


class UnsupportedMediaTypeError(AppError):
    """A body of a type or a coding that the route does not read."""

    status_code = 415
    code = "unsupported_media_type"
    title = "Unsupported media type"

    @classmethod
    def of_type(cls, wanted: str) -> "UnsupportedMediaTypeError":
        """Of another content type than wanted, which the answer names (RFC 9110, section 15.5.16)."""
        return cls(f"Send the body as {wanted}, and say so in Content-Type.", headers={"Accept": wanted})

    @classmethod
    def of_coding(cls) -> "UnsupportedMediaTypeError":
        """Compressed, which nothing here unpacks (RFC 9110, section 12.5.3)."""
        return cls("Send the body without Content-Encoding.", headers={"Accept-Encoding": "identity"})


class RequestLimitsMiddleware:
    """Refuses what is over a limit: by what the head says before any body is read, else as soon as it is passed.

    FastAPI's own `max_body_size` sits outside every middleware and answers in plain text, without CORS headers.
    `raw_below` are the paths whose bodies and queries are kept as they came and judged by their own route.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_bytes: int,
        max_raw_bytes: int,
        raw_below: tuple[str, ...],
        body_seconds: float,
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_raw_bytes = max_raw_bytes
        self.raw_below = raw_below
        self.body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raises AppErrors, for RequestContextMiddleware to answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        raw = scope["path"].startswith(self.raw_below)
        _check_target(scope, raw=raw)
        headers = _checked_headers(scope)
        limit = self.max_raw_bytes if raw else self.max_bytes
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > limit:
            raise BodyTooLargeError(limit)
        if length or b"transfer-encoding" in headers:
            if headers.get(b"content-encoding", b"identity").strip().lower() not in {b"", b"identity"}:
                raise UnsupportedMediaTypeError.of_coding()
            json = not raw and _is_json(headers.get(b"content-type", b""))
            receive = _limited(receive, limit=limit, seconds=self.body_seconds, json=json)
        await self.app(scope, receive, send)


def _check_target(scope: Scope, *, raw: bool) -> None:
    query: bytes = scope["query_string"]
    if len(scope.get("raw_path") or scope["path"]) + len(query) > MAX_TARGET_BYTES:
        raise UriTooLongError
    # PostgreSQL's text cannot hold NUL, and nothing of ours is named by it.
    where = "path" if "\x00" in scope["path"] else "query" if b"%00" in query and not raw else None
    if where is not None:
        error: FieldError = {"loc": [where], "msg": "must not contain the character U+0000", "type": "value_error"}
        raise InvalidRequestError("The request does not fit its schema; see errors.", errors=[error])


def _checked_headers(scope: Scope) -> Mapping[bytes, bytes]:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    if len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
        raise HeadersTooLargeError
    return dict(headers)


def _is_json(content_type: bytes) -> bool:
    media_type = content_type.partition(b";")[0].strip().lower()
    return media_type.startswith(b"application/") and media_type.endswith((b"/json", b"+json"))


def _limited(receive: Receive, *, limit: int, seconds: float, json: bool) -> Receive:
    """Return what reads a body of at most `limit` bytes within `seconds`, and checks it whole when it is JSON."""
    deadline = asyncio.get_running_loop().time() + seconds
    parts: list[bytes] = []
    size, complete = 0, False

    async def receive_within_limits() -> Message:
        nonlocal size, complete
        if complete:  # what comes now is the client's going away
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise RequestTimeoutError(seconds) from None
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise BodyTooLargeError(limit)
        complete = not message.get("more_body", False)
        if json:
            parts.append(part)
            if complete:
                check_json(b"".join(parts))
        return message

    return receive_within_limits


def is_accepted(content_type: str, wanted: str) -> bool:
    """Tell whether a route that wants JSON, or a form, reads a body of this type."""
    if wanted == "application/json":
        return _is_json(content_type.encode("latin-1"))
    return content_type.partition(";")[0].strip().lower() in {wanted, "multipart/form-data"}
