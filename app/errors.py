"""The tree of expected failures and their RFC 9457 form.

A service raises a subclass that it defines beside itself; one handler (`app/main.py`) turns it into
`application/problem+json`. This module knows no web framework.
"""

from collections.abc import Mapping
from typing import ClassVar, TypedDict


class FieldError(TypedDict):
    """One thing wrong with a payload: where (`loc`), what (`msg`), and its stable kind (`type`)."""

    loc: list[str | int]
    msg: str
    type: str


class AppError(Exception):
    """An expected failure with an HTTP status and a stable, unique code that clients may branch on."""

    status_code: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal server error"

    def __init__(
        self, detail: str, *, errors: list[FieldError] | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.headers = headers
        # Members that this kind of problem has beyond the common ones (RFC 9457, section 3.2).
        self.members: dict[str, str] = {}


class NotFoundError(AppError):
    """Something with this id does not exist, or not for this caller."""

    status_code = 404
    code = "not_found"
    title = "Not found"


class ConflictError(AppError):
    """The request does not fit the present state."""

    status_code = 409
    code = "conflict"
    title = "Conflict"


class InvalidRequestError(AppError):
    """The request is well-formed but its content cannot be taken."""

    status_code = 422
    code = "invalid_request"
    title = "Invalid request"


class UnauthorizedError(AppError):
    """No credential, or one that does not hold."""

    status_code = 401
    code = "unauthorized"
    title = "Unauthorized"

    def __init__(self, detail: str, *, scheme: str = "Bearer") -> None:
        super().__init__(detail, headers={"WWW-Authenticate": scheme})


class ForbiddenError(AppError):
    """A valid credential without the right to do this."""

    status_code = 403
    code = "forbidden"
    title = "Forbidden"


class UnavailableError(AppError):
    """A dependency does not answer; the same request may succeed soon."""

    status_code = 503
    code = "unavailable"
    title = "Service unavailable"

    def __init__(self, detail: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_seconds)})


def problem(
    *,
    status: int,
    title: str,
    detail: str,
    code: str,
    instance: str,
    request_id: str | None,
    errors: list[FieldError] | None = None,
    members: Mapping[str, str] | None = None,
) -> dict[str, object]:
    """Build the members of a problem document (RFC 9457) with our `code`, `request_id`, `errors`, and others."""
    document: dict[str, object] = {
        "type": f"urn:cashback:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": instance,
        "code": code,
        "request_id": request_id,
    }
    if errors is not None:
        document["errors"] = errors
    return {**(members or {}), **document}
