"""HTTP to addresses that people typed in: a host is resolved once, judged, and the connection goes where it was judged.

For httpx clients that post; feeds, which also follow redirects and unpack, have a fetcher of their own
(`sync/fetch.py`), built on the same judgement of addresses.
"""

from functools import cache
from ssl import SSLContext

import httpx

from app.services.sync.addresses import Resolve, find_addresses, system_resolve


class PinnedTransport(httpx.AsyncBaseTransport):
    """Connects to judged addresses only, with the host's name in TLS. Raises FetchError for any other."""

    def __init__(self, *, allow_private: bool, timeout_seconds: float, resolve: Resolve = system_resolve) -> None:
        self._allow_private = allow_private
        self._timeout_seconds = timeout_seconds
        self._resolve = resolve
        # No connection is kept: two names on one address must never share one.
        self._transport = httpx.AsyncHTTPTransport(
            verify=_tls(), trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to the first of its host's addresses; httpx has put the name into its Host header already."""
        host = request.url.raw_host.decode("ascii")
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        addresses = await find_addresses(
            host,
            port,
            allow_private=self._allow_private,
            timeout_seconds=self._timeout_seconds,
            resolve=self._resolve,
        )
        request.url = request.url.copy_with(host=addresses[0])
        request.extensions = {**request.extensions, "sni_hostname": host}
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        """Close the transport beneath."""
        await self._transport.aclose()


@cache
def _tls() -> SSLContext:
    # Reading the certificate authorities takes long.
    return httpx.create_ssl_context()
