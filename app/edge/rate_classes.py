"""Counts every request by its class and where it comes from, before anything is done for it."""

from starlette.types import ASGIApp, Receive, Scope, Send

from app.edge.load import SPARED
from app.middleware import ANSWER_HEADERS
from app.services.rate_limits import (
    READS_ADDRESS,
    WEBHOOKS_SOURCE,
    WRITES_ADDRESS,
    Policy,
    RequestClasses,
    address_caller,
)

_WEBHOOKS = "/v1/webhooks/"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class RateClassMiddleware:
    """Raises RateLimitedError, for RequestContextMiddleware to answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count one request and serve it."""
        if scope["type"] == "http" and scope["path"] not in SPARED:
            classes: RequestClasses = scope["app"].state.request_classes
            state = classes.charge(*_class_and_caller(scope))
            if state is not None:
                scope.setdefault(ANSWER_HEADERS, {}).update(state.headers())
        await self.app(scope, receive, send)


def _class_and_caller(scope: Scope) -> tuple[Policy, str]:
    path: str = scope["path"]
    if path.startswith(_WEBHOOKS):
        return WEBHOOKS_SOURCE, f"source:{path.removeprefix(_WEBHOOKS)}"
    client = scope.get("client")
    policy = READS_ADDRESS if scope["method"] in SAFE_METHODS else WRITES_ADDRESS
    return policy, address_caller(client[0] if client else None)
