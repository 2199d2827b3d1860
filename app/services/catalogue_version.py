"""The catalogue's version: a number that rises with every transaction that changes what shoppers see of it.

It is raised as the last of such a transaction, so that syncs, which take their time, do not wait for one another.
"""

from functools import cache

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import before_commit
from app.models import CatalogueVersion
from app.reads import Read

_RAISE = update(CatalogueVersion).values(version=CatalogueVersion.version + 1)


def catalogue_changed(session: AsyncSession) -> None:
    """Raise the version with this session's transaction; for whoever writes categories, merchants, rates or offers."""
    before_commit(session, _RAISE)


async def catalogue_version() -> int:
    """Return the version now."""
    rows = await _version().fetch()
    return int(rows[0]["version"])


@cache
def _version() -> Read:
    # From the same server as what is of that version.
    return Read.of(select(CatalogueVersion.version), tolerates_lag=True)
