"""From a row of any shape to the raw values of our fields, as the mapping says where they are."""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from app.schemas.feed_mappings import AnyMapping
from app.services.sync.errors import RowError, UnreadableFeedError

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


class Values(NamedTuple):
    """A row's raw values. None or blank: the row has none."""

    external_id: Any = None
    title: Any = None
    description: Any = None
    brand: Any = None
    category: Any = None
    url: Any = None
    image_url: Any = None
    price: Any = None
    sale_price: Any = None
    sale_period: Any = None
    price_max: Any = None
    currency: Any = None
    available: Any = None
    # What the row is a variant of.
    group: Any = None
    # Of a delta: what became of the offer.
    action: Any = None
    # What the URL template names, in its order.
    template: tuple[Any, ...] = ()


# What a reader yields: a row, or why there is none at this place.
Row = Values | RowError
Get = Callable[[Any], Any]

_MOST_BLANK_LINES = 1_000_000
_BLANK = list(Values())
_TEMPLATE = Values._fields.index("template")
# The currency too: money in another than is meant is worse than no offer.
_NEEDED = {"external_id", "title", "price", "currency", "group", "action"}


def split_template(template: str | None) -> list[str]:
    """Split a URL template into texts (even places) and the names between them (odd places)."""
    return [] if template is None else _PLACEHOLDER.split(template)


class Picker:
    """Takes our fields' values from rows of one shape."""

    def __init__(self, mapping: AnyMapping, getter: Callable[[str], Get]) -> None:
        self._fields: list[tuple[int, Get]] = []
        self._others: list[tuple[int, list[Get]]] = []
        for index, (first, *others) in _names(mapping):
            self._fields.append((index, getter(first)))
            if others:
                self._others.append((index, [getter(name) for name in others]))
        self._template = [getter(name) for name in split_template(mapping.url_template)[1::2]]

    def pick(self, row: Any) -> Values:  # noqa: ANN401 - of the reader's own shape
        """Return a row's values."""
        values = _BLANK.copy()
        for index, get in self._fields:
            values[index] = get(row)
        for index, gets in self._others:
            for get in gets:
                if not _is_blank(values[index]):
                    break
                values[index] = get(row)
        if self._template:
            values[_TEMPLATE] = tuple([get(row) for get in self._template])
        return Values._make(values)


def refuse_blanks(count: int) -> None:
    """Refuse a file of blank lines, which are no rows and would end at its size alone. Raises UnreadableFeedError."""
    if count > _MOST_BLANK_LINES:
        raise UnreadableFeedError(f"The file has more than {_MOST_BLANK_LINES} blank lines.")


def names_of(mapping: AnyMapping) -> set[str]:
    """Return all names that a mapping looks for."""
    return {name for _, names in _names(mapping) for name in names} | set(split_template(mapping.url_template)[1::2])


def required_names(mapping: AnyMapping) -> list[list[str]]:
    """Return the names that offers cannot do without; of each list one is enough."""
    needed = _NEEDED | ({"url"} if mapping.url_template is None else set())
    fields = [names for index, names in _names(mapping) if Values._fields[index] in needed]
    return [*fields, *([name] for name in split_template(mapping.url_template)[1::2])]


def _names(mapping: AnyMapping) -> Iterator[tuple[int, list[str]]]:
    named = dict(mapping.fields)
    named |= {"group": mapping.group_by, "action": mapping.delta and mapping.delta.field}
    for index, field in enumerate(Values._fields):
        if (names := named.get(field)) is not None:
            yield index, [names] if isinstance(names, str) else names


def _is_blank(value: Any) -> bool:  # noqa: ANN401 - a feed's value
    return value is None or (isinstance(value, str) and not value.strip())
