"""From staged rows to offers, in one transaction that touches only what changed.

The planner has no statistics of rows that were staged a moment ago and would choose nested loops; with those off it
takes hash joins, which are right at any size. Statements may run longer than the engine's limits allow others.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BindParameter,
    ClauseElement,
    Subquery,
    Uuid,
    bindparam,
    delete,
    func,
    insert,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Category, Offer, OfferStaging
from app.money import BASIS_POINTS
from app.services.sync.errors import TooLossyError
from app.services.sync.staging import raw_connection
from app.services.sync.stream import FeedDefinition
from app.services.sync.tally import Tally

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


@dataclass(frozen=True, slots=True)
class Changes:
    """What a sync did to a merchant's offers."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0


async def apply_staged(
    session: AsyncSession, *, feed: FeedDefinition, attempt_id: UUID, tally: Tally, timeout_seconds: int
) -> Changes:
    """Make the merchant's live offers equal to the staged rows, and clear those.

    Of rows with the same id the last counts; the others are added to the tally's rejected. Raises TooLossyError, after
    which the transaction must be rolled back.
    """
    await _prepare(session, timeout_seconds)
    run = _Runner(session, timeout_seconds, {"attempt": attempt_id, "merchant": feed.merchant_id})
    await _reject_duplicates(run, tally)
    staged = tally.fetched - tally.rejected
    live = await count_live(session, merchant_id=feed.merchant_id)
    _refuse_rejections(feed, tally)
    if staged == 0 and live:
        raise TooLossyError(
            f"The feed has no offers, {live} are live; they were kept. To take all down, close the merchant."
        )
    removed = await run.execute(_remove_vanished())
    _refuse_losses(feed, removed, live)
    run.parameters["category"] = feed.category_id
    updated = await run.execute(_update_changed())
    created = await run.execute(_insert_new())
    await run.execute(delete(OfferStaging).where(OfferStaging.attempt_id == _attempt()))
    return Changes(created=created, updated=updated, unchanged=staged - updated - created, removed=removed)


async def count_live(session: AsyncSession, *, merchant_id: int) -> int:
    """Count the offers that shoppers see."""
    statement = select(func.count()).where(Offer.merchant_id == merchant_id, Offer.removed_at.is_(None))
    return (await session.execute(statement)).scalar_one()


class _Runner:
    """Runs our statements on the driver's connection: only there may one wait longer than the engine's limit."""

    def __init__(self, session: AsyncSession, timeout_seconds: int, parameters: dict[str, Any]) -> None:
        self._session = session
        self._timeout_seconds = timeout_seconds
        self.parameters = parameters

    async def execute(self, statement: ClauseElement) -> int:
        """Run a statement that changes rows; returns how many."""
        raw, sql, arguments = await self._compile(statement)
        status: str = await raw.execute(sql, *arguments, timeout=self._timeout_seconds)
        return int(status.rpartition(" ")[2])

    async def fetch(self, statement: ClauseElement) -> list[Any]:
        """Run a statement that answers rows."""
        raw, sql, arguments = await self._compile(statement)
        rows: list[Any] = await raw.fetch(sql, *arguments, timeout=self._timeout_seconds)
        return rows

    async def _compile(self, statement: ClauseElement) -> tuple[Any, str, list[Any]]:
        connection = await self._session.connection()
        compiled: Any = statement.compile(dialect=connection.dialect)
        values = compiled.construct_params(self.parameters)
        return await raw_connection(self._session), str(compiled), [values[name] for name in compiled.positiontup]


async def _prepare(session: AsyncSession, timeout_seconds: int) -> None:
    settings = {"enable_nestloop": "off", "work_mem": "64MB", "statement_timeout": f"{timeout_seconds}s"}
    await session.execute(select(*(func.set_config(name, value, True) for name, value in settings.items())))  # noqa: FBT003 - PostgreSQL's signature


async def _reject_duplicates(run: _Runner, tally: Tally) -> None:
    rows = await run.fetch(_delete_duplicates())
    if rows:
        tally.reject_staged(
            rows[0]["duplicates"],
            [
                (row["row_number"], f"external_id {row['external_id']!r} comes again later; the last counts")
                for row in rows
            ],
        )


def _refuse_rejections(feed: FeedDefinition, tally: Tally) -> None:
    if tally.rejected * BASIS_POINTS > tally.fetched * feed.max_loss_basis_points:
        first = f" The first, row {tally.samples[0]['row']}: {tally.samples[0]['reason']}." if tally.samples else ""
        raise TooLossyError(
            f"{tally.rejected} of {tally.fetched} rows were rejected, more than {_percent(feed)} allows; the offers"
            f" were kept.{first}"
        )


def _refuse_losses(feed: FeedDefinition, removed: int, live: int) -> None:
    if removed * BASIS_POINTS > live * feed.max_loss_basis_points:
        raise TooLossyError(
            f"{removed} of {live} live offers are not in the feed, more than {_percent(feed)} allows; they were kept."
            " If it is right, raise the feed's max_loss_basis_points for one sync."
        )


def _percent(feed: FeedDefinition) -> str:
    whole, rest = divmod(feed.max_loss_basis_points, 100)
    return f"the feed's limit of {whole}.{rest:02d} %" if rest else f"the feed's limit of {whole} %"


# --- Statements, whose parameters are `attempt`, `merchant` and `category` (of offers without a known one).


def _attempt() -> BindParameter[Any]:
    return bindparam("attempt", type_=Uuid())


def _merchant() -> BindParameter[Any]:
    return bindparam("merchant", type_=Offer.merchant_id.type)


def _delete_duplicates() -> ClauseElement:
    last = (
        select(OfferStaging.external_id, func.max(OfferStaging.row_number).label("row_number"))
        .where(OfferStaging.attempt_id == _attempt())
        .group_by(OfferStaging.external_id)
        .having(func.count() > 1)
        .subquery("last")
    )
    gone = (
        delete(OfferStaging)
        .where(
            OfferStaging.attempt_id == _attempt(),
            OfferStaging.external_id == last.c.external_id,
            OfferStaging.row_number < last.c.row_number,
        )
        .returning(OfferStaging.row_number, OfferStaging.external_id)
        .cte("gone")
    )
    return (
        select(gone.c.row_number, gone.c.external_id, func.count().over().label("duplicates"))
        .order_by(gone.c.row_number)
        .limit(_MOST_SAMPLES)
    )


def _remove_vanished() -> ClauseElement:
    staged = (
        select(OfferStaging.external_id)
        .where(OfferStaging.attempt_id == _attempt(), OfferStaging.external_id == Offer.external_id)
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
        .where(OfferStaging.attempt_id == _attempt())
        .subquery("staged")
    )


def _update_changed() -> ClauseElement:
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


def _insert_new() -> ClauseElement:
    staged = _staged()
    known = select(Offer.id).where(Offer.merchant_id == _merchant(), Offer.external_id == staged.c.external_id)
    new = select(
        staged.c.offer_id, _merchant(), staged.c.external_id, *(staged.c[name] for name in _FEED_COLUMNS)
    ).where(~known.exists())
    return insert(Offer).from_select(["id", "merchant_id", "external_id", *_FEED_COLUMNS], new, include_defaults=False)
