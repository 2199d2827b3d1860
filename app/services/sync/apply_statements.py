"""The set-based statements that make offers of staged rows.

Their parameters are `run`, `merchant` and `category` (of offers without a known one). They run on the driver's own
connection, where the planner has no statistics of rows that were staged a moment ago.
"""

from typing import Any

from sqlalchemy import (
    ARRAY,
    BindParameter,
    ClauseElement,
    ColumnElement,
    Subquery,
    Text,
    Uuid,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by

from app.models import Category, Offer, OfferStaging

# The columns that a feed decides; `category_id` comes from the slug.
_FEED_COLUMNS = (
    "title",
    "description",
    "brand",
    "category_id",
    "url",
    "image_url",
    "currency",
    "price_minor",
    "price_max_minor",
    "available",
    "content_hash",
)
_MOST_SAMPLES = 20


def _run() -> BindParameter[Any]:
    return bindparam("run", type_=Uuid())


def _merchant() -> BindParameter[Any]:
    return bindparam("merchant", type_=Offer.merchant_id.type)


def _repeated() -> Subquery:
    """Ids that several rows have. Most feeds have none, so that whatever is costly is asked of these alone."""
    return (
        select(OfferStaging.external_id, func.max(OfferStaging.row_number).label("last_row_number"))
        .where(OfferStaging.run_id == _run())
        .group_by(OfferStaging.external_id)
        .having(func.count() > 1)
        .subquery("repeated")
    )


def delete_duplicates() -> ClauseElement:
    """Delete all but the last staged row of each id; see `_deleted` for the answer."""
    repeated = _repeated()
    return _deleted(
        OfferStaging.external_id == repeated.c.external_id, OfferStaging.row_number < repeated.c.last_row_number
    )


def delete_other_currencies() -> ClauseElement:
    """Delete staged rows in another currency than the first row of their id; see `_deleted` for the answer."""
    currencies = func.array_agg(aggregate_order_by(OfferStaging.currency, OfferStaging.row_number), type_=ARRAY(Text()))
    repeated = _repeated()
    mixed = (
        select(OfferStaging.external_id, currencies[1].label("currency"))
        .where(OfferStaging.run_id == _run(), OfferStaging.external_id == repeated.c.external_id)
        .group_by(OfferStaging.external_id)
        .having(func.min(OfferStaging.currency) != func.max(OfferStaging.currency))
        .subquery("mixed")
    )
    return _deleted(OfferStaging.external_id == mixed.c.external_id, OfferStaging.currency != mixed.c.currency)


def _deleted(*which: ColumnElement[bool]) -> ClauseElement:
    """Delete staged rows; answers the first of them, how many there are, and how many of those were deletions."""
    gone = (
        delete(OfferStaging)
        .where(OfferStaging.run_id == _run(), *which)
        .returning(OfferStaging.row_number, OfferStaging.external_id, OfferStaging.deleted)
        .cte("gone")
    )
    return (
        select(
            gone.c.row_number,
            gone.c.external_id,
            func.count().over().label("total"),
            func.count().filter(gone.c.deleted).over().label("deletions"),
        )
        .order_by(gone.c.row_number)
        .limit(_MOST_SAMPLES)
    )


def merge_variants() -> ClauseElement:
    """Give the first row of each id the range of all, and delete the others."""
    in_order: ClauseElement = aggregate_order_by(literal_column("''::bytea"), OfferStaging.row_number)
    repeated = _repeated()
    merged = (
        select(
            OfferStaging.external_id,
            func.min(OfferStaging.row_number).label("row_number"),
            func.min(OfferStaging.price_minor).label("price_minor"),
            func.max(OfferStaging.price_max_minor).label("price_max_minor"),
            func.bool_or(OfferStaging.available).label("available"),
            func.sha256(func.string_agg(OfferStaging.content_hash, in_order)).label("content_hash"),
        )
        .where(OfferStaging.run_id == _run(), OfferStaging.external_id == repeated.c.external_id)
        .group_by(OfferStaging.external_id)
        .cte("merged")
    )
    first = (
        update(OfferStaging)
        .where(OfferStaging.run_id == _run(), OfferStaging.row_number == merged.c.row_number)
        .values({name: merged.c[name] for name in ("price_minor", "price_max_minor", "available", "content_hash")})
        .returning(OfferStaging.row_number)
        .cte("first")
    )
    return (
        delete(OfferStaging)
        .where(
            OfferStaging.run_id == _run(),
            OfferStaging.external_id == merged.c.external_id,
            OfferStaging.row_number > merged.c.row_number,
        )
        .add_cte(first)
    )


def remove_named() -> ClauseElement:
    """Take out the live offers that a delta deletes."""
    named = (
        select(OfferStaging.external_id)
        .where(OfferStaging.run_id == _run(), OfferStaging.deleted, OfferStaging.external_id == Offer.external_id)
        .exists()
    )
    return (
        update(Offer)
        .where(Offer.merchant_id == _merchant(), Offer.removed_at.is_(None), named)
        .values(removed_at=func.now(), updated_at=func.now())
    )


def remove_vanished() -> ClauseElement:
    """Take out the live offers that are not staged."""
    staged = (
        select(OfferStaging.external_id)
        .where(OfferStaging.run_id == _run(), OfferStaging.external_id == Offer.external_id)
        .exists()
    )
    return (
        update(Offer)
        .where(Offer.merchant_id == _merchant(), Offer.removed_at.is_(None), ~staged)
        .values(removed_at=func.now(), updated_at=func.now())
    )


def _staged() -> Subquery:
    category = func.coalesce(Category.id, bindparam("category", type_=Offer.category_id.type)).label("category_id")
    columns = [category if name == "category_id" else getattr(OfferStaging, name) for name in _FEED_COLUMNS]
    return (
        select(OfferStaging.offer_id, OfferStaging.external_id, *columns)
        .outerjoin(Category, Category.slug == OfferStaging.category_slug)
        .where(OfferStaging.run_id == _run(), ~OfferStaging.deleted)
        .subquery("staged")
    )


def update_changed() -> ClauseElement:
    """Change the offers whose staged row is another than they are, and bring back those that had gone."""
    staged = _staged()
    return (
        update(Offer)
        .where(
            Offer.merchant_id == _merchant(),
            Offer.external_id == staged.c.external_id,
            or_(
                Offer.content_hash != staged.c.content_hash,
                Offer.removed_at.is_not(None),
                Offer.category_id.is_distinct_from(staged.c.category_id),
            ),
        )
        .values({name: staged.c[name] for name in _FEED_COLUMNS} | {"removed_at": null(), "updated_at": func.now()})
    )


def insert_new() -> ClauseElement:
    """Add the staged offers that are not known yet."""
    staged = _staged()
    known = select(Offer.id).where(Offer.merchant_id == _merchant(), Offer.external_id == staged.c.external_id)
    new = select(
        staged.c.offer_id, _merchant(), staged.c.external_id, *(staged.c[name] for name in _FEED_COLUMNS)
    ).where(~known.exists())
    return insert(Offer).from_select(["id", "merchant_id", "external_id", *_FEED_COLUMNS], new, include_defaults=False)


def clear_staged() -> ClauseElement:
    """Delete what is staged."""
    return delete(OfferStaging).where(OfferStaging.run_id == _run())
