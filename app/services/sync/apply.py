"""From staged rows to offers, in one transaction that touches only what changed.

The planner has no statistics of rows that were staged a moment ago and would choose nested loops; with those off it
takes hash joins, which are right at any size. Statements may run longer than the engine's limits allow others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ClauseElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Offer
from app.money import BASIS_POINTS
from app.services.catalogue_version import catalogue_changed
from app.services.sync import apply_statements as statements
from app.services.sync.definition import FeedDefinition
from app.services.sync.errors import TooLossyError
from app.services.sync.staging import raw_connection
from app.services.sync.tally import Tally


@dataclass(frozen=True, slots=True)
class Changes:
    """What a sync did to a merchant's offers."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0


async def apply_staged(
    session: AsyncSession, *, feed: FeedDefinition, run_id: UUID, tally: Tally, timeout_seconds: int
) -> Changes:
    """Make the merchant's live offers what the staged rows say, and clear those.

    Rows with the same id are variants of one offer where the feed has variants; else the last counts, and the others
    are added to the tally's rejected. Offers that the feed does not name go, unless it is a delta. Raises
    TooLossyError, after which the transaction must be rolled back.
    """
    await _prepare(session, timeout_seconds)
    run = _Runner(session, timeout_seconds, {"run": run_id, "merchant": feed.merchant_id})
    await _settle_repeats(run, feed, tally)
    staged = tally.fetched - tally.rejected
    live = await count_live(session, merchant_id=feed.merchant_id)
    _refuse_rejections(feed, tally)
    if staged == 0 and live and not feed.is_delta:
        raise TooLossyError(
            f"The feed has no offers, {live} are live; they were kept. To take all down, close the merchant."
        )
    removed = await run.execute(statements.remove_named() if feed.is_delta else statements.remove_vanished())
    _refuse_losses(feed, removed, live)
    run.parameters["category"] = feed.category_id
    updated = await run.execute(statements.update_changed())
    created = await run.execute(statements.insert_new())
    await run.execute(statements.clear_staged())
    if removed or updated or created:
        catalogue_changed(session)
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


async def _settle_repeats(run: _Runner, feed: FeedDefinition, tally: Tally) -> None:
    """Leave one staged row of each id."""
    if feed.has_variants:
        strangers = await run.fetch(statements.delete_other_currencies())
        _reject(tally, strangers, "is in another currency than the first row of its id")
        tally.merged(await run.execute(statements.merge_variants()))
        return
    repeats = await run.fetch(statements.delete_duplicates())
    if feed.is_delta:
        # What became of an offer first and then.
        tally.superseded(*(repeats[0]["total"], repeats[0]["deletions"]) if repeats else (0, 0))
    else:
        _reject(tally, repeats, "comes again later; the last counts")


def _reject(tally: Tally, rows: Sequence[Any], why: str) -> None:
    if rows:
        samples = [(row["row_number"], f"external_id {row['external_id']!r} {why}") for row in rows]
        tally.reject_staged(rows[0]["total"], samples)


def _refuse_rejections(feed: FeedDefinition, tally: Tally) -> None:
    rows = tally.fetched + tally.deletions
    if tally.rejected * BASIS_POINTS > rows * feed.max_loss_basis_points:
        first = f" The first, row {tally.samples[0]['row']}: {tally.samples[0]['reason']}." if tally.samples else ""
        raise TooLossyError(
            f"{tally.rejected} of {rows} rows were rejected, more than {_percent(feed)} allows; the offers"
            f" were kept.{first}"
        )


def _refuse_losses(feed: FeedDefinition, removed: int, live: int) -> None:
    if removed * BASIS_POINTS > live * feed.max_loss_basis_points:
        gone = "are deleted by the feed" if feed.is_delta else "are not in the feed"
        raise TooLossyError(
            f"{removed} of {live} live offers {gone}, more than {_percent(feed)} allows; they were kept."
            " If it is right, raise the feed's max_loss_basis_points for one sync."
        )


def _percent(feed: FeedDefinition) -> str:
    whole, rest = divmod(feed.max_loss_basis_points, 100)
    return f"the feed's limit of {whole}.{rest:02d} %" if rest else f"the feed's limit of {whole} %"
