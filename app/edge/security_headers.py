"""The fields that tell browsers and caches what not to do with our answers (OWASP's list for REST services)."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# An answer is data: nothing in it may run, load, or be framed.
DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"

_ALWAYS = ((b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"DENY"))
# What holds unless the route said otherwise.
_UNLESS_SET = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", DATA_POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
)


def fixed_fields() -> list[tuple[bytes, bytes]]:
    """Return the fields of an answer that no route made."""
    return [*_ALWAYS, *_UNLESS_SET]


class SecurityHeadersMiddleware:
    """Outermost: also a refused preflight and a failure carry them.

    `Strict-Transport-Security` goes out on https only (RFC 6797, section 7.2): when a trusted proxy says so, or when
    `always_https` says that there is no other way in.
    """

    def __init__(self, app: ASGIApp, *, hsts_seconds: int, always_https: bool) -> None:
        self.app = app
        self.hsts = (b"strict-transport-security", b"max-age=%d" % hsts_seconds) if hsts_seconds else None
        self.always_https = always_https

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"] = [*message.get("headers", ()), *_ALWAYS]
                names = {name for name, _ in headers}
                headers += [field for field in _UNLESS_SET if field[0] not in names]
                if self.hsts and (self.always_https or scope["scheme"] == "https"):
                    headers.append(self.hsts)
            await send(message)

        await self.app(scope, receive, send_with_headers)
