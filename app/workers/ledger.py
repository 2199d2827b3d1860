"""Proving the ledger while the service runs, and sealing the days that are over."""

import logging
from time import monotonic

from app.db import transaction
from app.services.ledger.chain import seal_next
from app.services.ledger.verify_slices import CHECKS, continue_pass

logger = logging.getLogger(__name__)

# Of each minute: a share of one core of PostgreSQL that nobody notices.
BUDGET_SECONDS = 5.0


async def verify_ledger() -> int:
    """Check the next slices of all rules in turn, each in a transaction of its own; returns how many violations.

    Every rule gets a slice. Those that are not through with all their keys get more while there is time.
    """
    deadline = monotonic() + BUDGET_SECONDS
    waiting, found = list(CHECKS), 0
    while waiting:
        unfinished = []
        for check in waiting:
            async with transaction() as session:
                violations, finished = await continue_pass(session, check)
            for violation in violations:
                logger.error(
                    "ledger invariant violated",
                    extra={"invariant": violation.invariant, "id": violation.id, "detail": violation.detail},
                )
            found += len(violations)
            if not finished:
                unfinished.append(check)
        waiting = unfinished if monotonic() < deadline else []
    return found


async def seal_days() -> int:
    """Seal the days that are due, one transaction each; returns how many.

    Each hash is logged: a log that is kept elsewhere proves what the database held.
    """
    sealed = 0
    while True:
        async with transaction() as session:
            day = await seal_next(session)
        if day is None:
            return sealed
        logger.info(
            "ledger day sealed", extra={"day": day.day.isoformat(), "postings": day.postings, "hash": day.hash.hex()}
        )
        sealed += 1
