"""JSON that everybody reads alike: I-JSON (RFC 7493) in what it forbids, and nested no deeper than anybody needs.

Python's reader takes the last of two members of one name, NaN, and numbers that become infinite. PostgreSQL refuses
some of that in the middle of a transaction, and a proxy before us may have judged the other member.
"""

import json
import math
import re
from typing import Any

from app.errors import InvalidRequestError

MAX_DEPTH = 64

# A text (whose brackets do not count), or one bracket.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)

# Half of a pair of UTF-16, escaped or as it is. Python's reader takes also one without its other half.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")


class _Refused(Exception):  # noqa: N818 - leaves this module as InvalidRequestError
    def __init__(self, message: str, place: list[str | int] | None = None) -> None:
        super().__init__(message)
        self.place = place or ["body"]


def check_json(body: bytes) -> None:
    """Raise InvalidRequestError for JSON that readers may disagree on; what is no JSON at all is left to the reader."""
    try:
        if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
            _check_depth(body)
        value = json.loads(body, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
        if _SURROGATE.search(body) is not None:
            _check_texts(value, ["body"])
    except _Refused as refused:
        raise InvalidRequestError(
            "The body is no JSON that everybody reads alike; see errors.",
            errors=[{"loc": refused.place, "msg": str(refused), "type": "json_invalid"}],
        ) from None
    except (ValueError, RecursionError):
        return


def _check_depth(body: bytes) -> None:
    depth = 0
    for token in _TOKEN.finditer(body):
        match token[0]:
            case b"[" | b"{":
                depth += 1
                if depth > MAX_DEPTH:
                    raise _Refused(f"At most {MAX_DEPTH} levels may be nested")
            case b"]" | b"}":
                depth -= 1


def _check_texts(value: Any, place: list[str | int]) -> None:  # noqa: ANN401 - any JSON value
    match value:
        case str():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise _Refused("A text must not have half of a surrogate pair", place) from None
        case dict():
            for name, member in value.items():
                _check_texts(name, place)
                _check_texts(member, [*place, name])
        case list():
            for number, item in enumerate(value):
                _check_texts(item, [*place, number])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise _Refused("An object must not have two members of one name")
    return members


def _constant(name: str) -> float:
    raise _Refused(f"{name} is no number of JSON")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _Refused("A number is beyond the range of a double")
    return number
