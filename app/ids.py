"""Public identifiers: UUID version 7 (RFC 9562), whose order is the order of their creation."""

from uuid import UUID

from uuid_utils.compat import uuid7


def new_id() -> UUID:
    """Return a new UUIDv7; ids made later in one process sort later."""
    return uuid7()
