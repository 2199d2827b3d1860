"""One HTTP request as a source sent it, and what is in it: the payload, and the events that the payload reports.

JSON is read without losing a digit: a number with decimals becomes a `Decimal`. A payload that nests or branches
without end is refused before anything looks into it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NoReturn
from urllib.parse import parse_qs

import orjson

from app.expressions import Budget, Expression, ExpressionError
from app.schemas.source_definitions import FormFormat, FormJsonFormat, JsonFormat, QueryFormat, Transport
from app.services.webhooks.payload import PayloadError, Problem

FORM_CONTENT_TYPE = "application/x-www-form-urlencoded"
MOST_DEPTH = 32
MOST_NODES = 100_000
# Finding the list of events may look at all of them.
_EVENTS_STEPS = 2 * MOST_NODES
_MOST_FIELDS = 1000
# 64 bits, and what Python reads from text without effort.
_EXACT_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Delivery:
    """A request, untouched: `url` is the public address with its query, the headers' names are in lower case."""

    method: str
    url: str
    query: bytes
    headers: Mapping[str, str]
    body: bytes
    sender: str | None = None

    @property
    def content_type(self) -> str:
        """The media type with its parameters, or nothing."""
        return self.headers.get("content-type", "")

    @property
    def is_form(self) -> bool:
        """Whether the body is a form."""
        return self.content_type.partition(";")[0].strip().lower() == FORM_CONTENT_TYPE

    @property
    def payload(self) -> bytes:
        """What is reported, as bytes: the body, the query, or both."""
        return b"\n".join(part for part in (self.query, self.body) if part)


def decode(transport: Transport, delivery: Delivery) -> Any:  # noqa: ANN401 - any JSON value
    """Return the payload, from the first of the accepted formats that the request can have. Raises PayloadError."""
    for accepted in transport.accepts:
        match accepted:
            case QueryFormat() if not delivery.body and (delivery.query or delivery.method == "GET"):
                return read_form(delivery.query)
            case FormJsonFormat() if delivery.body and delivery.is_form:
                form = read_form(delivery.body)
                if accepted.field in form:
                    return read_json(form[accepted.field].encode("utf-8", "surrogatepass"))
                if "form" not in transport.kinds:
                    raise PayloadError(f"form field {accepted.field} is missing")
            case FormFormat() if delivery.body and delivery.is_form:
                return read_form(delivery.body)
            case JsonFormat() if not delivery.is_form and (delivery.body or not delivery.query):
                return read_json(delivery.body)
            case _:
                continue
    what = delivery.content_type or "no content type" if delivery.body else "no body"
    raise PayloadError(f"{delivery.method} with {what}, but the source sends {' or '.join(transport.kinds)}")


def events_in(payload: Any, path: Expression) -> list[Any]:  # noqa: ANN401 - any JSON value
    """Return the events of a payload that has several. Raises PayloadError."""
    try:
        found = path.search(payload, Budget(_EVENTS_STEPS))
    except ExpressionError as error:
        raise PayloadError([Problem("events", path.text, str(error))]) from None
    if not isinstance(found, list):
        raise PayloadError([Problem("events", path.text, "there is no list")])
    return found


def read_form(content: bytes) -> dict[str, str]:
    """Read a query string or a form; of several values of a field the first. Raises PayloadError."""
    try:
        fields = parse_qs(content.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError as error:
        raise PayloadError(f"no form: {error}") from None
    return {name: values[0] for name, values in fields.items()}


def read_json(content: bytes, *, most_nodes: int = MOST_NODES) -> Any:  # noqa: ANN401 - any JSON value
    """Read JSON in UTF-8, each number as it is written. Raises PayloadError."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        # It is quick, and refuses NaN, lone surrogates and what is no UTF-8.
        value = orjson.loads(content)
        if _check_shape(value, most_nodes):
            value = json.loads(content, parse_float=Decimal, parse_int=_exact, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"no JSON: {error}") from None
    return value


def write_json(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """Write what `read_json` read, each number as it was written. Raises PayloadError for anything else."""
    try:
        return orjson.dumps(value, default=_as_written)
    except TypeError as error:
        raise PayloadError(f"no JSON: {error}") from None


def _as_written(value: object) -> orjson.Fragment:
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    raise TypeError(f"a {type(value).__name__}")


def _check_shape(value: Any, most_nodes: int) -> bool:  # noqa: ANN401 - any JSON value
    """Refuse what is too deep or too large; returns whether a number was read that floats cannot hold exactly."""
    has_floats = False
    stack = [(value, 1)]
    nodes = 0
    while stack:
        item, depth = stack.pop()
        nodes += 1
        if depth > MOST_DEPTH or nodes > most_nodes:
            raise PayloadError(f"it is nested deeper than {MOST_DEPTH}, or has more than {most_nodes} values")
        if isinstance(item, float):
            has_floats = True
        elif isinstance(item, list):
            stack.extend((child, depth + 1) for child in item)
        elif isinstance(item, dict):
            stack.extend((child, depth + 1) for child in item.values())
    return has_floats


def _exact(digits: str) -> int | Decimal:
    return int(digits) if len(digits) <= _EXACT_DIGITS else Decimal(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
