"""HTTP for feeds: only to addresses that were judged, only what was promised, and never more than is asked for.

Each hop's host is resolved and judged here and the request goes to the address itself, with the name in the Host
header and in TLS; so redirects and rebinding lead nowhere new. Redirects are followed by hand for that reason.
"""

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from ssl import SSLContext
from types import TracebackType
from typing import Self

import httpx

from app.services.sync.addresses import Resolve, find_addresses, system_resolve
from app.services.sync.credentials import Access, origin_of
from app.services.sync.errors import BrokenOffError, FetchError, ForbiddenAddressError, UnresolvedError
from app.services.sync.gunzip import Gunzip
from app.services.sync.retry import Backoff, retry_after_seconds

logger = logging.getLogger(__name__)

_MOST_REDIRECTS = 5
_TOO_MANY_REQUESTS = 429
_ACCEPTED_ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip"})
_ADVICE = {
    401: " Check the {subject}'s credentials.",
    403: " Check the {subject}'s credentials, and whether the server lets us in.",
    404: " Check the {subject}'s URL.",
    410: " Check the {subject}'s URL.",
}


@dataclass(frozen=True, slots=True)
class Ask:
    """What is sent beside the address."""

    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = field(default=None, repr=False)


_PLAIN = Ask()


@dataclass(frozen=True, slots=True)
class Validators:
    """What a server calls a version of a document."""

    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """How a fetch ended: where (after redirects), with which version and next page, or that nothing is newer."""

    url: str
    validators: Validators
    not_modified: bool = False
    # As the answer's `Link` header names it, perhaps relative to `url`.
    next_url: str | None = None


class _RetryError(Exception):
    """The same request may succeed in a moment; `error` says what happened."""

    def __init__(self, error: FetchError, after_seconds: float = 0) -> None:
        super().__init__(str(error))
        self.error = error
        self.after_seconds = after_seconds


async def no_pace(host: str) -> None:
    """Let every call go at once."""


class Fetcher:
    """Fetches the documents of one feed. Use as an async context manager.

    `pace` is awaited before each request with the host that it goes to. `subject` is whose credentials and URL staff
    are told to check.
    """

    def __init__(
        self,
        *,
        allow_private: bool,
        timeout_seconds: float,
        backoff: Backoff,
        access: Access | None = None,
        pace: Callable[[str], Awaitable[None]] = no_pace,
        resolve: Resolve = system_resolve,
        subject: str = "feed",
    ) -> None:
        self._subject = subject
        self._allow_private = allow_private
        self._timeout_seconds = timeout_seconds
        self._backoff = backoff
        self._access = access
        self._pace = pace
        self._resolve = resolve
        self._stack = AsyncExitStack()
        self._hosts: dict[tuple[str, int], tuple[httpx.AsyncHTTPTransport, list[str]]] = {}
        self._credentials: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def fetch(
        self,
        url: str,
        *,
        write: Callable[[bytes], None],
        validators: Validators | None = None,
        restart: Callable[[], None] | None = None,
        ask: Ask = _PLAIN,
    ) -> Fetched:
        """Hand a document to `write`, piece by piece, decompressed; with `validators`, only when it is newer.

        What failed before its first byte is tried again, with a wait that grows and is as long as the server asks for.
        With `restart`, which forgets what was written, so is what broke off. Raises FetchError, of which BrokenOffError
        for a document that broke off, and what `write` raises.
        """
        for tries in range(self._backoff.tries):
            try:
                return await self._fetch_once(url, write, validators, ask)
            except (_RetryError, BrokenOffError) as failure:
                error, asked = (
                    (failure.error, failure.after_seconds) if isinstance(failure, _RetryError) else (failure, 0)
                )
                if isinstance(failure, BrokenOffError) and restart is None:
                    raise
                seconds = self._backoff.wait_seconds(tries, asked)
                if seconds is None:
                    hint = f" It asks to come back in {asked:.0f} s." if asked else ""
                    final = type(error)(f"{error}{hint}")
                    final.after_seconds = asked
                    raise final from None
                if restart is not None:
                    restart()
                logger.info("feed's server is asked again", extra={"reason": str(failure), "after_seconds": seconds})
                await asyncio.sleep(seconds)
        raise AssertionError("the last try has no wait")

    async def _fetch_once(
        self, url: str, write: Callable[[bytes], None], validators: Validators | None, ask: Ask
    ) -> Fetched:
        async with self._open(url, _conditions(validators) | dict(ask.headers), ask) as (final, response):
            _require_success(final, response, conditional=validators is not None, subject=self._subject)
            version = Validators(response.headers.get("ETag"), response.headers.get("Last-Modified"))
            if response.status_code == HTTPStatus.NOT_MODIFIED:
                return Fetched(str(final), version, not_modified=True)
            try:
                await _read(response, write)
            except httpx.TransportError as error:
                raise BrokenOffError(f"{origin_of(final)} broke off: {self._describe(error)}") from None
            return Fetched(str(final), version, next_url=response.links.get("next", {}).get("url"))

    @asynccontextmanager
    async def _open(
        self, start: str, headers: dict[str, str], ask: Ask
    ) -> AsyncIterator[tuple[httpx.URL, httpx.Response]]:
        """Send the request and follow redirects; yield the last address and its answer."""
        url = _parse(start)
        for _ in range(_MOST_REDIRECTS + 1):
            response = await self._send(url, headers, ask)
            if not response.has_redirect_location:
                try:
                    yield url, response
                finally:
                    await response.aclose()
                return
            await response.aclose()
            if ask.method != "GET":
                raise FetchError(f"{origin_of(url)} redirects a {ask.method}, which is not followed.")
            url = _parse(response.headers["Location"], base=url)
        raise FetchError(f"{origin_of(url)} redirects more than {_MOST_REDIRECTS} times.")

    async def _send(self, url: httpx.URL, headers: dict[str, str], ask: Ask) -> httpx.Response:
        transport, addresses = await self._host(url)
        asked, letting_in = self._access.apply(url) if self._access is not None else (url, {})
        headers = {**headers, "Host": url.netloc.decode("ascii"), **self._authorization(url), **letting_in}
        await self._pace(url.host)
        failure: httpx.TransportError | None = None
        for address in addresses:
            request = httpx.Request(
                ask.method,
                asked.copy_with(host=address, userinfo=b"", fragment=None),
                headers=headers,
                content=ask.content,
                extensions={
                    "sni_hostname": url.raw_host.decode("ascii"),
                    "timeout": httpx.Timeout(self._timeout_seconds).as_dict(),
                },
            )
            try:
                # Not through httpx's client, which looks at where a redirect leads even when it shall not follow.
                return await transport.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
            except httpx.TransportError as error:
                failure = error
                break
        message = self._describe(failure) if failure else "it has no address"
        raise _RetryError(FetchError(f"{origin_of(url)} does not answer: {message}"))

    async def _host(self, url: httpx.URL) -> tuple[httpx.AsyncHTTPTransport, list[str]]:
        """Return a host's own pool of connections, and where the host is."""
        host = url.raw_host.decode("ascii")
        port = url.port or (443 if url.scheme == "https" else 80)
        if (known := self._hosts.get((host, port))) is None:
            try:
                addresses = await find_addresses(
                    host,
                    port,
                    allow_private=self._allow_private,
                    timeout_seconds=self._timeout_seconds,
                    resolve=self._resolve,
                )
            except UnresolvedError as error:
                raise _RetryError(error) from None
            transport = await self._stack.enter_async_context(httpx.AsyncHTTPTransport(verify=_tls(), trust_env=False))
            known = self._hosts[host, port] = (transport, addresses)
        return known

    def _authorization(self, url: httpx.URL) -> dict[str, str]:
        """Return the header for user info that this URL, or an earlier one of the same origin, carried."""
        if url.userinfo:
            pair = f"{url.username}:{url.password}".encode()
            self._credentials[origin_of(url)] = f"Basic {base64.b64encode(pair).decode()}"
        known = self._credentials.get(origin_of(url))
        return {"Authorization": known} if known else {}

    def _describe(self, error: httpx.TransportError) -> str:
        if isinstance(error, httpx.TimeoutException):
            return f"nothing came for {self._timeout_seconds:g} s."
        # Of httpx, h11 and OpenSSL; none of them quotes a URL.
        return f"{str(error)[:200] or type(error).__name__}."


async def _read(response: httpx.Response, write: Callable[[bytes], None]) -> None:
    # Two layers: a server may compress a file that is compressed.
    outer, inner = Gunzip(), Gunzip()

    async def take(data: bytes) -> None:
        for piece in inner.decode(data):
            write(piece)
            # A little data can unpack to very much; other tasks come in between.
            await asyncio.sleep(0)

    async for chunk in response.aiter_raw():
        for piece in outer.decode(chunk):
            await take(piece)
    for piece in outer.finish():
        await take(piece)
    for piece in inner.finish():
        write(piece)


def _conditions(validators: Validators | None) -> dict[str, str]:
    headers = {"Accept": "*/*", "Accept-Encoding": "gzip", "User-Agent": "cashback-feed-sync/1.0"}
    if validators is not None and validators.etag:
        headers["If-None-Match"] = validators.etag
    if validators is not None and validators.last_modified:
        headers["If-Modified-Since"] = validators.last_modified
    return headers


def _require_success(url: httpx.URL, response: httpx.Response, *, conditional: bool, subject: str) -> None:
    status = response.status_code
    if status == HTTPStatus.OK:
        encodings = {part.strip().lower() for part in response.headers.get("Content-Encoding", "").split(",")}
        if not encodings <= _ACCEPTED_ENCODINGS:
            raise FetchError(
                f"{origin_of(url)} encodes its answer in a way that was not asked for; gzip is understood."
            )
        return
    if status == HTTPStatus.NOT_MODIFIED and conditional:
        return
    error = FetchError(
        f"{origin_of(url)} answered {status} {_phrase(status)}.{_ADVICE.get(status, '').format(subject=subject)}"
    )
    if status == _TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise _RetryError(error, retry_after_seconds(response.headers))
    raise error


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "(unknown)"


def _parse(text: str, *, base: httpx.URL | None = None) -> httpx.URL:
    try:
        url = httpx.URL(text) if base is None else base.join(text)
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL()
    if url.scheme not in {"http", "https"} or not url.raw_host:
        where = "The feed's URL" if base is None else f"{origin_of(base)} redirects to an address that"
        raise ForbiddenAddressError(f"{where} is not an http or https address.")
    return url


@cache
def _tls() -> SSLContext:
    # Reading the certificate authorities takes longer than many a feed.
    return httpx.create_ssl_context()
