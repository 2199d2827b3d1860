"""Where a request came from, as far as rate limits, hints of referrals and logs need it."""

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network

# What one subscriber is given of IPv6 at least (RFC 6177).
_SUBSCRIBER_PREFIX = 64


@dataclass(frozen=True, slots=True)
class Origin:
    """The caller's address as text, and what its client calls its device; each where known."""

    address: str | None = None
    device: str | None = None


def subscriber(address: str | None) -> str | None:
    """Return what tells subscribers apart: an IPv4 address, or the /64 of an IPv6 one; None for what is no address."""
    try:
        ip = ip_address(address or "")
    except ValueError:
        return None
    if not isinstance(ip, IPv6Address):
        return str(ip)
    return str(ip.ipv4_mapped or IPv6Network((int(ip), _SUBSCRIBER_PREFIX), strict=False))


# Asked for each request's log line; to parse an address took 10 us.
@lru_cache(maxsize=10_000)
def network_of(address: str | None) -> str | None:
    """Return the network an address is in, as a hint: /24 of IPv4, /48 of IPv6."""
    try:
        known = ip_address(address or "")
    except ValueError:
        return None
    return str(ip_network((known, 24 if known.version == 4 else 48), strict=False))
