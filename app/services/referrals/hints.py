"""Hints of who sits behind an account: keyed hashes of the address and the device that it was made from.

They tell equal from different, and nothing else to whoever has not SECRET_KEY.
"""

from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address

from app.config import Settings
from app.services.secrets import keyed_hash

# What one household, or one server, is given of IPv6 at least (RFC 6177; RFC 4291, section 2.5.4).
_HOUSEHOLD_PREFIX = 64


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from: its address as text, and what its client calls its device; each where known."""

    address: str | None = None
    device: str | None = None


def address_hint(settings: Settings, origin: Origin) -> bytes | None:
    """Return the hash of an IPv4 address, or of the /64 of an IPv6 one; None for what is no address."""
    try:
        address = ip_address(origin.address or "")
    except ValueError:
        return None
    if not isinstance(address, IPv6Address):
        return keyed_hash(settings, "address", str(address))
    if address.ipv4_mapped is not None:
        return keyed_hash(settings, "address", str(address.ipv4_mapped))
    household = IPv6Network((int(address), _HOUSEHOLD_PREFIX), strict=False)
    return keyed_hash(settings, "address", str(household))


def device_hint(settings: Settings, origin: Origin) -> bytes | None:
    """Return the hash of a device's name; None where it has none."""
    return keyed_hash(settings, "device", origin.device) if origin.device else None
