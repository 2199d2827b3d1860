"""JSON logs on standard output, one object a line, each with the request id of the work that wrote it.

uvicorn's and arq's own loggers go through the same handler. Secrets are kept out at the source: no query
strings, no bodies, no headers, no statement parameters are logged.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.orjson import OrjsonFormatter

request_id_var: ContextVar[str | None] = ContextVar("request_id", default=None)

# These speak of every request, connection or job; our own lines say it once and without secrets.
_QUIET = ("uvicorn.access", "httpx", "httpcore", "asyncio", "arq.worker")


class _RequestIdFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id_var.get()
        return True


@contextmanager
def bound_request_id(request_id: str | None) -> Iterator[None]:
    """Put a request id on every log line written inside, as when a worker does what a request asked for."""
    token = request_id_var.set(request_id)
    try:
        yield
    finally:
        request_id_var.reset(token)


def configure_logging(level: str, *, process: str) -> None:
    """Send every logger's output as JSON to standard output; `process` names this process (api, worker:sync, ...)."""
    # Nothing of these is in our lines; to find them out took a third of the time that making a record takes.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - the logging HOWTO's way to say "no line numbers"
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(_RequestIdFilter())
    handler.setFormatter(
        OrjsonFormatter(
            ["levelname", "name", "message"],
            timestamp="time",
            rename_fields={"levelname": "level", "name": "logger"},
            static_fields={"process": process},
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "arq", "arq.worker", "fastapi"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
