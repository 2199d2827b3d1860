"""What a sync would make of a sample, with nothing stored: the same steps as a sync, without network and database."""

import asyncio
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.ids import new_id
from app.models import Feed, FeedFormat, Merchant
from app.schemas.common import Money
from app.schemas.feed_mappings import AnyMapping
from app.schemas.feeds import FeedTrial, FeedTry, TriedOffer
from app.schemas.sync import RejectedRow
from app.services.catalogue import MerchantNotFoundError
from app.services.sync.assemble import assemble
from app.services.sync.errors import FeedError, RowError
from app.services.sync.feeds import FeedNotFoundError
from app.services.sync.gunzip import Gunzip
from app.services.sync.offers import STAGED_COLUMNS, Defaults, OfferBuilder
from app.services.sync.paging import Page, next_page
from app.services.sync.presets import mapping_model, resolve_mapping
from app.services.sync.readers import reader_for
from app.services.sync.readers.pick import Row
from app.services.sync.spool import DocumentReader, Spool
from app.services.sync.tally import Tally
from app.services.sync.unzip import Unzip

# Also when unpacked.
MAX_TRIED_BYTES = 16 * 1024**2
_MOST_ROWS = 20_000
_MOST_SHOWN = 50


async def try_feed(session: AsyncSession, *, merchant_id: int, wanted: FeedTry) -> FeedTrial:
    """Read a sample as the feed of a merchant; without a mapping in the request as its feed is read.

    Raises MerchantNotFoundError, FeedNotFoundError, InvalidFeedMappingError.
    """
    merchant = await session.get(Merchant, merchant_id)
    if merchant is None:
        raise MerchantNotFoundError(merchant_id)
    feed = await session.get(Feed, merchant_id)
    if wanted.mapping is not None:
        format_, mapping = resolve_mapping(wanted.mapping, wanted.format)
    elif feed is not None:
        format_, mapping = feed.format, mapping_model(feed.format).model_validate(feed.mapping)
    else:
        raise FeedNotFoundError(merchant_id)
    defaults = Defaults(merchant.currency, merchant.tracking_url)
    url = feed.url if feed is not None else merchant.tracking_url
    return await asyncio.to_thread(read_sample, wanted.sample, format_, mapping, defaults=defaults, url=url)


def read_sample(content: bytes, format_: FeedFormat, mapping: AnyMapping, *, defaults: Defaults, url: str) -> FeedTrial:
    """Read a sample, perhaps compressed, as one page of a feed at `url`."""
    tally = Tally(max_rows=_MOST_ROWS)
    offers: dict[str, dict[str, Any]] = {}
    filled: set[str] = set()
    following = error = None
    with Spool(max_bytes=MAX_TRIED_BYTES) as spool:
        try:
            document = _unpack(content, mapping, spool)
            reader = reader_for(mapping)
            builder = OfferBuilder(mapping, run_id=new_id(), defaults=defaults)
            rows = _noting(reader.rows(document), filled)
            for row in assemble(rows, mapping, builder=builder, tally=tally):
                _take(offers, dict(zip(STAGED_COLUMNS, row, strict=True)), mapping, tally)
            following = next_page(mapping.paging, reader=reader, feed_url=url, page=Page(0, url, document))
        except FeedError as failure:
            error = str(failure)
    present = [offer for offer in offers.values() if not offer["deleted"]]
    return FeedTrial(
        format=format_,
        rows=tally.rows,
        offers=[_shown(offer) for offer in present[:_MOST_SHOWN]],
        offer_count=len(present),
        never_filled=[name for name, names in mapping.fields if names is not None and name not in filled],
        deleted=[key for key, offer in offers.items() if offer["deleted"]][:_MOST_SHOWN],
        rejected=tally.rejected,
        rejected_samples=[RejectedRow.model_validate(sample) for sample in tally.samples],
        next_page=following,
        error=error,
    )


def _unpack(content: bytes, mapping: AnyMapping, spool: Spool) -> DocumentReader:
    spool.begin_document()
    outer, inner = Gunzip(), Gunzip()
    with Unzip(spool.write, member=mapping.member, max_bytes=MAX_TRIED_BYTES) as archive:
        for once in chain(outer.decode(content), outer.finish()):
            for piece in inner.decode(once):
                archive.write(piece)
        for piece in inner.finish():
            archive.write(piece)
        archive.finish()
    return spool.end_document()


def _noting(rows: Iterable[Row], filled: set[str]) -> Iterator[Row]:
    """Pass rows on, and note which fields have a value."""
    for row in rows:
        if not isinstance(row, RowError):
            filled.update(name for name, value in zip(row._fields, row, strict=True) if value not in (None, "", ()))
        yield row


def _take(offers: dict[str, dict[str, Any]], offer: dict[str, Any], mapping: AnyMapping, tally: Tally) -> None:
    """Take an offer in; of several rows of one id do what a sync does in its statements."""
    key = offer["external_id"]
    known = offers.get(key)
    if known is None or mapping.delta is not None:
        offers[key] = offer
    elif mapping.group_by is None:
        tally.reject_staged(1, [(known["row_number"], f"external_id {key!r} comes again later; the last counts")])
        offers[key] = offer
    elif known["currency"] != offer["currency"]:
        why = f"external_id {key!r} is in another currency than the first row of its id"
        tally.reject_staged(1, [(offer["row_number"], why)])
    else:
        known["price_minor"] = min(known["price_minor"], offer["price_minor"])
        known["price_max_minor"] = max(known["price_max_minor"], offer["price_max_minor"])
        known["available"] = known["available"] or offer["available"]


def _shown(offer: dict[str, Any]) -> TriedOffer:
    currency = offer["currency"]
    return TriedOffer(
        row=offer["row_number"],
        category=offer["category_slug"],
        price=Money(amount_minor=offer["price_minor"], currency=currency),
        price_max=Money(amount_minor=offer["price_max_minor"], currency=currency),
        **{name: offer[name] for name in TriedOffer.model_fields if name in offer},
    )
