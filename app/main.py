"""Builds the application: middleware, routers, lifespan, and the one handler that turns exceptions into problems."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import sqlalchemy.exc
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.params import Form
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from app import db, db_watch, metrics, openapi, reads
from app.config import Environment, Settings
from app.doorbell import Doorbell, create_arq_pool
from app.edge.finished import FinishedAnswers, FinishedAnswersMiddleware
from app.edge.load import Load, LoadLimitMiddleware, OverloadedError, watch
from app.edge.rate_classes import RateClassMiddleware
from app.edge.request_limits import RequestLimitsMiddleware, UnsupportedMediaTypeError, is_accepted
from app.edge.security_headers import SecurityHeadersMiddleware
from app.errors import AppError, FieldError, UnavailableError, problem
from app.garbage import spare_what_is_loaded
from app.logs import configure_logging, request_id_var
from app.middleware import RequestContextMiddleware
from app.routers import ROUTERS
from app.schema_version import known_revisions
from app.services.catalogue_version import catalogue_version
from app.services.external_keys import ExternalKeys
from app.services.passwords import Passwords
from app.services.rate_limits import RateLimiter, RequestClasses
from app.services.sign_in_throttle import SignInThrottle
from app.services.tokens import AccessTokens

logger = logging.getLogger(__name__)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the application from settings (default: from the environment)."""
    settings = settings or Settings()
    configure_logging(settings.log_level, process="api")
    app = FastAPI(
        title="Cashback service",
        version="1.0.0",
        description=openapi.DESCRIPTION,
        openapi_tags=openapi.TAGS,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
        responses=openapi.COMMON_PROBLEMS,
        generate_unique_id_function=openapi.operation_id,
    )
    app.state.settings = settings
    app.state.passwords = Passwords(settings.password_hash_concurrency)
    app.state.request_classes = RequestClasses(factor=settings.rate_limit_factor)
    app.state.load = Load(settings.max_concurrent_requests)
    app.state.access_tokens = AccessTokens(settings)
    app.state.finished_answers = FinishedAnswers(
        max_bytes=settings.catalogue_cache_bytes, read_version=catalogue_version
    )
    app.state.external_keys = ExternalKeys(settings)
    for error in (AppError, HTTPException, RequestValidationError):
        app.add_exception_handler(error, handle_exception)
    _add_middleware(app, settings)
    for router in ROUTERS:
        app.include_router(router)
    openapi.install(app)
    return app


def _add_middleware(app: FastAPI, settings: Settings) -> None:
    """Add what surrounds every request, from the inside out."""
    app.add_middleware(FinishedAnswersMiddleware)
    app.add_middleware(
        RequestLimitsMiddleware,
        max_bytes=settings.max_body_bytes,
        max_raw_bytes=settings.max_webhook_body_bytes,
        raw_below=("/v1/webhooks/", "/v1/payout-callbacks"),
        body_seconds=settings.body_timeout_seconds,
    )
    app.add_middleware(RateClassMiddleware)
    app.add_middleware(LoadLimitMiddleware, load=app.state.load)
    app.add_middleware(RequestContextMiddleware, on_error=handle_exception)
    # Outside what fails and refuses: also such an answer carries CORS headers.
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.frontend_origins,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-API-Key", "X-Device-ID", "X-Request-ID"],
        expose_headers=[
            "X-Request-ID",
            "Server-Timing",
            "Idempotency-Replayed",
            "ETag",
            "Retry-After",
            "RateLimit",
            "RateLimit-Policy",
        ],
        max_age=600,
    )
    app.add_middleware(
        SecurityHeadersMiddleware,
        hsts_seconds=settings.hsts_seconds,
        always_https=(settings.public_url or "").startswith("https://"),
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    if settings.environment is Environment.PRODUCTION and not settings.four_eyes_limits:
        logger.warning("one member of staff may move any amount alone: set FOUR_EYES_LIMITS")
    await db.open_database(
        settings,
        application_name="cashback-api",
        pool_size=settings.db_pool_size,
        max_overflow=settings.db_max_overflow,
    )
    await reads.open_pool(settings, application_name="cashback-api")
    app.state.arq_pool = create_arq_pool(settings.redis_url)
    app.state.rate_limiter = RateLimiter(app.state.arq_pool)
    app.state.sign_in_throttle = SignInThrottle(app.state.rate_limiter)
    doorbell = Doorbell(app.state.arq_pool)
    doorbell.start()
    watching = asyncio.create_task(watch(app.state.load))
    db.set_bell(doorbell.ring)
    try:
        await db.check_connection_budget(settings)
    except (sqlalchemy.exc.SQLAlchemyError, OSError, TimeoutError) as error:
        # /readyz says so until it answers; an API that exits instead would be restarted for nothing.
        logger.warning("PostgreSQL does not answer yet", extra={"error": type(error).__name__})
    spare_what_is_loaded()
    known_revisions()
    try:
        async with db_watch.watching(settings):
            yield
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        db.set_bell(None)
        await doorbell.stop()
        await app.state.arq_pool.aclose()
        await reads.close_pool()
        await db.close_database()
        metrics.forget_process(os.getpid())


async def handle_exception(request: Request, error: Exception) -> Response:
    """Turn any exception into `application/problem+json`; what is unexpected is logged with its traceback."""
    status, headers, document = _describe(request, error)
    if status >= 500 and not isinstance(error, OverloadedError):  # whose logs would be more of the load
        # In an outage each request fails like the first; a traceback of each would keep the event loop busy.
        shown = None if status == HTTPStatus.SERVICE_UNAVAILABLE else error
        about = {"status": status, "code": document["code"], "error": type(error).__name__}
        logger.error("request failed", exc_info=shown, extra=about)
    return JSONResponse(document, status, headers, media_type="application/problem+json")


def _describe(request: Request, error: Exception) -> tuple[int, dict[str, str] | None, dict[str, object]]:
    common: dict[str, Any] = {"instance": request.url.path, "request_id": request_id_var.get()}
    match error:
        case AppError():
            expected: AppError = error
        case HTTPException(__cause__=AppError() as cause):  # FastAPI's 400 for whatever goes wrong with reading a body
            expected = cause
        case RequestValidationError() if (refused := _unsupported_type(request)) is not None:
            expected = refused
        case RequestValidationError():
            return (
                422,
                None,
                problem(
                    status=422,
                    title="Invalid request",
                    detail="The request does not fit its schema; see errors.",
                    code="invalid_request",
                    errors=_field_errors(error.errors()),
                    **common,
                ),
            )
        case HTTPException():
            phrase = HTTPStatus(error.status_code).phrase
            headers = dict(error.headers or {})
            if error.status_code == 405:
                headers["Allow"] = _allowed(request.url.path, headers.get("Allow", ""))
            return (
                error.status_code,
                headers,
                problem(
                    status=error.status_code,
                    title=phrase,
                    detail=error.detail or phrase,
                    code=phrase.lower().replace(" ", "_").replace("-", "_"),
                    **common,
                ),
            )
        case _ if db.is_unavailable(error):
            expected = UnavailableError("The database does not answer; try again.")
        case _:
            expected = AppError("Something went wrong on our side; quote the request_id when you report it.")
    return (
        expected.status_code,
        expected.headers,
        problem(
            status=expected.status_code,
            title=expected.title,
            detail=expected.detail,
            code=expected.code,
            errors=expected.errors,
            members=expected.members,
            **common,
        ),
    )


def _allowed(path: str, by_one: str) -> str:
    """Name the methods of all routes of a path (RFC 9110, section 10.2.1); the framework names those of one."""
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    found = {method for route in routes if route.path_regex.match(path) for method in route.methods or ()}
    return ", ".join(sorted(found | set(filter(None, by_one.split(", ")))))


def _unsupported_type(request: Request) -> UnsupportedMediaTypeError | None:
    """Tell why a body does not fit its schema, when it is of a type that the route does not read at all.

    Asked only about requests that are refused anyway: FastAPI takes no JSON that does not call itself so.
    """
    field = getattr(request.scope.get("route"), "body_field", None)
    headers = request.headers
    if field is None or (headers.get("Content-Length", "0") == "0" and "Transfer-Encoding" not in headers):
        return None
    wanted = "application/x-www-form-urlencoded" if isinstance(field.field_info, Form) else "application/json"
    if is_accepted(headers.get("Content-Type", ""), wanted):
        return None
    return UnsupportedMediaTypeError.of_type(wanted)


def _field_errors(errors: Sequence[Any]) -> list[FieldError]:
    """Keep where, what and which kind; the offending input may be a password."""
    return [{"loc": list(item["loc"]), "msg": _message(item), "type": item["type"]} for item in errors]


def _message(item: Any) -> str:  # noqa: ANN401 - pydantic's error, a dict that the framework hands on as Any
    if item["type"] == "union_tag_invalid":  # pydantic's own message quotes what was sent
        return f"Input should have {item['ctx']['discriminator']} as one of {item['ctx']['expected_tags']}"
    message: str = item["msg"]
    return message
