"""Public identifiers: UUID version 7 (RFC 9562), whose order is the order of their creation."""

from datetime import datetime
from uuid import UUID

from uuid_utils.compat import uuid7


def new_id() -> UUID:
    """Return a new UUIDv7; ids made later in one process sort later."""
    return uuid7()


def first_id_at(moment: datetime) -> UUID:
    """Return the smallest id of a moment: what was made before sorts before it (48 bits of milliseconds come first)."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)
