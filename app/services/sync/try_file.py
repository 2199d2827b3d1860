"""A file as a feed, for the command line: what a sync would make of it, in words."""

from collections.abc import Iterator
from pathlib import Path

import orjson
from pydantic import ValidationError

from app.errors import AppError
from app.models import FeedFormat
from app.money import format_minor
from app.schemas.common import Money
from app.schemas.feed_mappings import FeedPreset, MappingWrite
from app.schemas.feeds import FeedTrial, TriedOffer
from app.services.sync.dry_run import MAX_TRIED_BYTES, read_sample
from app.services.sync.offers import Defaults
from app.services.sync.presets import resolve_mapping

_WIDTHS = (24, 40, 22, 6)


def try_file(
    file: Path,
    *,
    preset: FeedPreset | None,
    mapping_file: Path | None,
    format_: FeedFormat | None,
    currency: str,
    url: str,
) -> FeedTrial:
    """Read a file as a feed. Raises OSError, and ValueError for a mapping that is none or a file that is too large."""
    given = {} if mapping_file is None else orjson.loads(mapping_file.read_bytes())
    try:
        written = MappingWrite.model_validate(given if preset is None else {**given, "preset": preset})
        format_, mapping = resolve_mapping(written, format_)
    except ValidationError as error:
        raise ValueError("\n".join(f"{_place(item['loc'])}: {item['msg']}" for item in error.errors())) from None
    except AppError as error:
        raise ValueError("\n".join(f"{_place(item['loc'])}: {item['msg']}" for item in error.errors or [])) from None
    if file.stat().st_size > MAX_TRIED_BYTES:
        raise ValueError(f"{file} is larger than {MAX_TRIED_BYTES} bytes; try its beginning (head -n 1000).")
    return read_sample(file.read_bytes(), format_, mapping, defaults=Defaults(currency, url), url=url)


def describe(trial: FeedTrial) -> Iterator[str]:
    """Yield lines for people."""
    yield _line("EXTERNAL ID", "TITLE", "PRICE", "STOCK", "URL")
    for offer in trial.offers:
        yield _line(offer.external_id, offer.title, _price(offer), "yes" if offer.available else "no", offer.url)
    if (more := trial.offer_count - len(trial.offers)) > 0:
        yield f"... and {more} more"
    for external_id in trial.deleted:
        yield _line(external_id, "(taken out)")
    for sample in trial.rejected_samples:
        yield f"row {sample.row} rejected: {sample.reason}"
    if trial.never_filled:
        yield f"no row has: {', '.join(trial.never_filled)}"
    if trial.next_page is not None:
        yield f"next page: {trial.next_page}"
    yield f"{trial.rows} rows: {trial.offer_count} offers, {trial.rejected} rejected"
    if trial.error is not None:
        yield f"A sync would fail: {trial.error}"


def _price(offer: TriedOffer) -> str:
    texts = [_amount(money) for money in (offer.price, offer.price_max)]
    return f"{' - '.join(dict.fromkeys(texts))} {offer.price.currency}"


def _amount(money: Money) -> str:
    return format_minor(money.amount_minor, money.currency)


def _line(*texts: str) -> str:
    cut = [f"{text[: width - 1]:<{width}}" for text, width in zip(texts, _WIDTHS, strict=False)]
    return "".join([*cut, *texts[len(_WIDTHS) :]]).rstrip()


def _place(loc: tuple[int | str, ...] | list[int | str]) -> str:
    return ".".join(str(part) for part in loc if part not in {"body", "mapping"}) or "mapping"
