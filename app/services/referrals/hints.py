"""Hints of who sits behind an account: keyed hashes of the address and the device that it was made from.

They tell equal from different, and nothing else to whoever has not SECRET_KEY.
"""

from app.config import Settings
from app.services.origin import Origin, subscriber
from app.services.secrets import keyed_hash


def address_hint(settings: Settings, origin: Origin) -> bytes | None:
    """Return the hash of the address, equal for one household; None where there is none."""
    household = subscriber(origin.address)
    return keyed_hash(settings, "address", household) if household else None


def device_hint(settings: Settings, origin: Origin) -> bytes | None:
    """Return the hash of a device's name; None where it has none."""
    return keyed_hash(settings, "device", origin.device) if origin.device else None
