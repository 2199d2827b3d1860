"""Where a feed's host may be: people type feed URLs, and none may lead inside our own network.

A host is resolved once, every address it has is judged, and the connection goes to a judged address. A name that
resolves otherwise a moment later (rebinding) gains nothing.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable

from app.services.sync.errors import FetchError, ForbiddenAddressError, UnresolvedError

# host, port -> addresses in the order to try them; raises OSError
Resolve = Callable[[str, int], Awaitable[list[str]]]

_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
# IPv6 prefixes with an IPv4 address inside, beyond those the library unpacks.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")


async def system_resolve(host: str, port: int) -> list[str]:
    """Ask the system's resolver. It also reads `127.1` or `2130706433`, as the connection would."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def find_addresses(
    host: str, port: int, *, allow_private: bool, timeout_seconds: float, resolve: Resolve = system_resolve
) -> list[str]:
    """Return where to connect to for a host.

    Raises ForbiddenAddressError if any address is not public, UnresolvedError if the same may succeed in a moment, and
    FetchError.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            addresses = await resolve(host, port)
    except TimeoutError:
        raise UnresolvedError(f"The name {host} was not resolved within {timeout_seconds:g} s.") from None
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno == socket.EAI_AGAIN:
            raise UnresolvedError(f"The name {host} cannot be resolved at present.") from None
        addresses = []
    if not addresses:
        raise FetchError(f"The name {host} does not exist; check the feed's URL.")
    if not allow_private and not all(is_public(address) for address in addresses):
        raise ForbiddenAddressError(
            f"{host} is not on the public internet; feeds are fetched only from there (ALLOW_PRIVATE_FEEDS)."
        )
    return addresses


def is_public(address: str) -> bool:
    """Whether an address, and any IPv4 address that an IPv6 one carries inside, is global unicast."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    # NAT64 is how networks without IPv4 reach the public one; only the address inside decides.
    judged = _inside(ip) if ip in _NAT64 else [ip, *_inside(ip)]
    return all(part.is_global and not part.is_multicast and not part.is_reserved for part in judged)


def _inside(ip: _IPAddress) -> list[_IPAddress]:
    if isinstance(ip, ipaddress.IPv4Address):
        return []
    carried: list[_IPAddress | None] = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
    if ip in _NAT64 or ip in _COMPATIBLE:
        carried.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return [address for address in carried if address is not None]
