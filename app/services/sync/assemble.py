"""From rows to offers: rows are counted and judged, variants of one offer are put together, deltas are followed.

Variants that stand next to each other are put together here, with memory for one offer; those that do not are staged
under the same external_id and put together by `apply`.
"""

from collections.abc import Iterable, Iterator

from app.schemas.feed_mappings import AnyMapping
from app.services.sync.errors import RowError
from app.services.sync.offers import OfferBuilder, Price, StagedRow
from app.services.sync.readers.pick import Row, Values
from app.services.sync.tally import Tally


def assemble(rows: Iterable[Row], mapping: AnyMapping, *, builder: OfferBuilder, tally: Tally) -> Iterator[StagedRow]:
    """Yield what a document's rows come to, ready to stage. Raises TooLargeError, and what reading the rows raises."""
    if mapping.group_by is not None:
        return _grouped(rows, builder, tally)
    if mapping.delta is not None:
        return _changes(rows, builder, tally, delete=set(mapping.delta.delete), upsert=set(mapping.delta.upsert))
    return _one_row_each(rows, builder, tally)


def _one_row_each(rows: Iterable[Row], builder: OfferBuilder, tally: Tally) -> Iterator[StagedRow]:
    for row in rows:
        number = tally.next_row()
        try:
            if isinstance(row, RowError):
                raise row
            staged = builder.build(number, row, builder.price(row))
        except RowError as error:
            tally.reject(number, str(error))
        else:
            tally.offer()
            yield staged


def _changes(
    rows: Iterable[Row], builder: OfferBuilder, tally: Tally, *, delete: set[str], upsert: set[str]
) -> Iterator[StagedRow]:
    for row in rows:
        number = tally.next_row()
        try:
            if isinstance(row, RowError):
                raise row
            action = str("" if row.action is None else row.action).strip().lower()
            if action in delete:
                staged = builder.build_deletion(number, row)
                tally.deletion()
            elif action in upsert:
                staged = builder.build(number, row, builder.price(row))
                tally.offer()
            else:
                raise RowError(f"the action {action[:40]!r} is not known")  # noqa: TRY301 - see above
        except RowError as error:
            tally.reject(number, str(error))
        else:
            yield staged


def _grouped(rows: Iterable[Row], builder: OfferBuilder, tally: Tally) -> Iterator[StagedRow]:
    group: _Group | None = None
    for row in rows:
        number = tally.next_row()
        if isinstance(row, RowError):
            tally.reject(number, str(row))
            continue
        key = str("" if row.group is None else row.group).strip()
        if not key:
            tally.reject(number, "what the row is a variant of (group_by) is empty")
            continue
        if group is not None and group.key == key:
            group.add(number, row)
            continue
        if group is not None:
            yield from group.finish()
        group = _Group(key, number, row, builder, tally)
    if group is not None:
        yield from group.finish()


class _Group:
    """Adjacent rows of one product: the first value of each field, the range of all prices, available if any is."""

    def __init__(self, key: str, number: int, row: Values, builder: OfferBuilder, tally: Tally) -> None:
        self.key = key
        self._number = number
        self._builder = builder
        self._tally = tally
        self._values = row
        self._price: Price | None = None
        self._is_available = False
        self._has_bad_row = False
        self._take(number, row)

    def add(self, number: int, row: Values) -> None:
        """Take a further row in."""
        self._values = Values._make(old or new for old, new in zip(self._values, row, strict=True))
        self._take(number, row)

    def _take(self, number: int, row: Values) -> None:
        """Take what a row costs; one with a bad price is rejected by itself, one without a price is a further image."""
        try:
            if row.available and self._builder.is_available(row.available):
                self._is_available = True
            self._price = _range(self._price, self._builder.price(row))
        except RowError as error:
            self._tally.reject(number, str(error))
            self._has_bad_row = True

    def finish(self) -> Iterator[StagedRow]:
        """Yield the offer, unless none can be made."""
        if self._price is None and self._has_bad_row:
            return  # the row that should have had the price is counted already
        values = self._values._replace(available=True) if self._is_available else self._values
        try:
            staged = self._builder.build(self._number, values, self._price)
        except RowError as error:
            self._tally.reject(self._number, str(error))
        else:
            self._tally.offer()
            yield staged


def _range(one: Price | None, other: Price | None) -> Price | None:
    if one is None or other is None:
        return one or other
    if one.currency != other.currency:
        raise RowError(f"price is in {other.currency}, that of other rows in {one.currency}")
    return Price(one.currency, min(one.minor, other.minor), max(one.max_minor, other.max_minor))
