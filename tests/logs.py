"""Reading what the service logs, in the form in which it logs it."""

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from app.logs import configure_logging


@contextmanager
def captured_logs(level: str = "DEBUG") -> Iterator[io.StringIO]:
    """Everything that is logged inside, formatted as in production. Build the application before: it configures too."""
    output = io.StringIO()
    root = logging.getLogger()
    before, handlers = root.level, root.handlers[:]
    configure_logging(level, process="test")
    handler = root.handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(output)
    try:
        yield output
    finally:
        root.handlers[:] = handlers
        root.setLevel(before)


def lines_of(output: io.StringIO) -> list[dict[str, Any]]:
    """The lines, each of which has to be a JSON object."""
    return [json.loads(line) for line in output.getvalue().splitlines()]
