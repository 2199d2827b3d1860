"""uvicorn's HTTP protocol with bounds on what comes before the application sees anything.

llhttp, the parser, bounds neither a head nor a trailer, and uvicorn waits for ever for the rest of a head that has
begun: one connection could fill the memory, and many idle ones all sockets. Pinned with uvicorn's minor version.
"""

import asyncio
import logging
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.edge.request_limits import HeadersTooLargeError, RequestTimeoutError
from app.edge.security_headers import fixed_fields
from app.errors import AppError, problem
from app.ids import new_id

logger = logging.getLogger(__name__)

# Twice what the middleware takes, whose answer is the better one.
MAX_SILENT_BYTES = 65_536
HEAD_SECONDS = 10.0


class MalformedRequestError(AppError):
    """Bytes that are no HTTP/1.1."""

    status_code = 400
    code = "malformed_request"
    title = "Malformed request"


class BoundedHttpProtocol(HttpToolsProtocol):
    """Closes a connection that sends a head or a trailer too long, or a head too slowly, after saying so if it can."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - handed on to uvicorn
        super().__init__(*args, **kwargs)
        # Bytes that came since the parser last had a whole head or a piece of a body for us.
        self._silent_bytes = 0
        self._head_begun = False
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own does
        """Expect a first head."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing more."""
        self._stop_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Expect the rest of the head."""
        super().on_message_begin()
        self._head_begun = True
        self._expect_head()

    def on_headers_complete(self) -> None:
        """Hand the head on."""
        self._stop_timer()
        self._head_begun = False
        self._silent_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hand a piece of the body on."""
        self._silent_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Hand the end on."""
        self._silent_bytes = 0
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Parse what came, within its bound."""
        self._silent_bytes += len(data)
        super().data_received(data)
        if self._silent_bytes > MAX_SILENT_BYTES and not self.transport.is_closing():
            self._refuse(HeadersTooLargeError())

    def send_400_response(self, msg: str) -> None:
        """Answer for what the parser cannot read, as a problem document."""
        self._refuse(MalformedRequestError(msg))

    def _expect_head(self) -> None:
        self._stop_timer()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        if self._in_progress():  # a client that sends ahead
            self._expect_head()
        elif self._head_begun:
            self._refuse(RequestTimeoutError(HEAD_SECONDS))
        else:  # nobody asked anything
            self.transport.close()

    def _in_progress(self) -> bool:
        return not (self.cycle is None or self.cycle.response_complete)  # type: ignore[redundant-expr]  # None at first

    def _refuse(self, error: AppError) -> None:
        if not self._in_progress():
            self._answer(error)
        self.transport.close()

    def _answer(self, error: AppError) -> None:
        request_id = str(new_id())
        logger.warning("request refused unread", extra={"code": error.code, "refused_id": request_id})
        document = problem(
            status=error.status_code,
            title=error.title,
            detail=error.detail,
            code=error.code,
            instance="",
            request_id=request_id,
        )
        body = orjson.dumps(document)
        fields = [
            *fixed_fields(),
            (b"content-type", b"application/problem+json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
        ]
        head = b"".join(b"%b: %b\r\n" % field for field in fields)
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[error.status_code], head, body))
