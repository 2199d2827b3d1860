"""Checking the ledger's invariants while the service runs."""

import logging

from app.db import AsyncSessionLocal
from app.services.ledger.verify import verify

logger = logging.getLogger(__name__)


async def verify_ledger() -> int:
    """Check all invariants; each violation is an error in the log and counted in the metrics."""
    async with AsyncSessionLocal() as session, session.begin():
        violations = await verify(session)
    for violation in violations:
        logger.error(
            "ledger invariant violated",
            extra={"invariant": violation.invariant, "id": violation.id, "detail": violation.detail},
        )
    return len(violations)
