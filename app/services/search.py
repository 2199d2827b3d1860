"""Full-text search from what people type into a box: PostgreSQL parses the words, so no input is a syntax error.

All words must occur, and the last one may be unfinished. The same parser ('simple' configuration) made the stored
tsvectors, so "T-shirt" or "50%" find what they were typed from.
"""

from typing import Any

from sqlalchemy import ColumnElement, Text, bindparam, func, literal_column
from sqlalchemy.dialects.postgresql import TSQUERY

_SIMPLE: ColumnElement[Any] = literal_column("'simple'::regconfig")


def search_query() -> ColumnElement[Any]:
    """Return a tsquery over the parameters that `search_parameters` makes; text without a word matches nothing."""
    words = func.plainto_tsquery(_SIMPLE, bindparam("words", type_=Text))
    prefix = func.to_tsquery(_SIMPLE, bindparam("prefix", type_=Text))
    return words.op("&&", return_type=TSQUERY())(prefix)


def search_parameters(text: str) -> dict[str, str]:
    """Return the parameters of `search_query` for a text that is not blank and holds no NUL."""
    # A text of separators that only Python takes for such (U+001F) has no part at all.
    *words, last = text.split() or [text]
    # Inside quotes to_tsquery takes any character as text, once quotes and backslashes are doubled.
    quoted = last.replace("\\", "\\\\").replace("'", "''")
    return {"words": " ".join(words), "prefix": f"'{quoted}':*"}
