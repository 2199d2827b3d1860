"""The OpenAPI document and the /docs page, whose files come from a wheel: it works without internet."""

import base64
import hashlib
import re
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.routing import APIRoute
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from app.schemas.common import Problem
from app.schemas.proposals import ProposalRead
from app.schemas.webhooks import DirectPayload

DESCRIPTION = """
Cashback for shoppers, merchants and staff.

* **Money** is an integer in the currency's minor unit: `{"amount_minor": 1250, "currency": "PKR"}` is 12.50 rupees.
* **Times** are RFC 3339 in UTC. **Ids** are UUIDv7; merchants have integers.
* **Lists** take `limit` and `cursor`, and answer `{"items": [...], "next_cursor": ...}`.
* **Errors** are RFC 9457 problems with a stable `code`.
* **Idempotency-Key** on a POST that makes money or a click: the same key and body replay the first answer.

Sign in with **Authorize**: customers with e-mail and password, staff and
merchants with an API key.
"""

TAGS = [
    {"name": "customers", "description": "Register, sign in, and manage the own account."},
    {"name": "catalogue", "description": "Categories, merchants with their cashback, and offers. Public."},
    {"name": "clicks", "description": "A customer leaves for a merchant; the rate is promised here."},
    {"name": "wallet", "description": "Balances and their history, never stale."},
    {"name": "orders", "description": "Purchases, and how each cashback came about."},
    {"name": "payouts", "description": "Where customers want their money, and asking for it."},
    {"name": "referrals", "description": "Inviting friends, and what that earns."},
    {"name": "claims", "description": "Cashback that is missing, and what was decided about it."},
    {"name": "webhooks", "description": "Merchants and networks report sales here."},
    {"name": "merchant", "description": "For merchants, with a key that reads and changes nothing."},
    {"name": "admin", "description": "For staff: merchants, sources, feeds, the webhook inbox."},
    {"name": "sync", "description": "For staff: fetch a merchant's feed."},
    {"name": "report", "description": "For staff: how merchants perform."},
    {"name": "health", "description": "For Kubernetes and Prometheus."},
]

_DESCRIPTIONS = {
    400: "The request cannot be read.",
    401: "No valid credential.",
    403: "The credential may not do this.",
    404: "There is no such thing, or not for you.",
    409: "It does not fit the present state.",
    408: "The request did not arrive in time.",
    413: "The body is larger than allowed.",
    414: "Path and query are longer than allowed.",
    415: "The body is of a type that this does not read; see `Accept`.",
    422: "The content cannot be taken; `errors` says where.",
    429: "Too many requests; see `Retry-After`.",
    431: "Too many header fields, or too much in them.",
    500: "Our fault; quote the `request_id`.",
    503: "A dependency does not answer; try again after `Retry-After` seconds.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document a route's error answers: `responses=problems(401, 404)`."""
    return {
        status: {
            "description": _DESCRIPTIONS[status],
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


# Of routes that move money by hand.
PROPOSED: dict[int | str, dict[str, Any]] = {
    202: {
        "model": ProposalRead,
        "description": "Nothing was done yet: it is more than one person may decide, and waits for another.",
    }
}

# What any route may answer, added to every one of them.
COMMON_PROBLEMS = problems(414, 422, 429, 431, 500, 503)
# And what any that takes a body may answer besides.
_BODY_PROBLEMS = problems(400, 408, 413, 415)


def operation_id(route: APIRoute) -> str:
    """Name an operation by its function, so that generated clients have stable, readable methods."""
    return route.name


def _page_policy(page: bytes) -> str:
    """Return the Content-Security-Policy under which the page works: its own files, and its one script by digest."""
    scripts = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts]
    return "; ".join(
        [
            "default-src 'none'",
            " ".join(["script-src 'self'", *(f"'sha256-{digest}'" for digest in digests)]),
            "style-src 'self' 'unsafe-inline'",  # Swagger UI sets styles on its elements
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        ]
    )


def install(app: FastAPI) -> None:
    """Serve /openapi.json and /docs from this process alone."""
    assets = files("fastapi_swagger") / "resources"
    app.mount("/docs/assets", StaticFiles(directory=str(assets)), name="docs-assets")

    page = get_swagger_ui_html(
        openapi_url=app.openapi_url or "/openapi.json",
        title=f"{app.title} – API",
        swagger_js_url="/docs/assets/swagger-ui-bundle.js",
        swagger_css_url="/docs/assets/swagger-ui.css",
        swagger_favicon_url="/docs/assets/favicon-32x32.png",
        swagger_ui_parameters={"persistAuthorization": True, "docExpansion": "list", "tryItOutEnabled": True},
    )
    policy = _page_policy(bytes(page.body))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page.body, headers={"Content-Security-Policy": policy})

    build = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = build()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            # What no route declares by its types: errors, and a body that is read from raw bytes.
            for model in (Problem, DirectPayload):
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas |= schema.pop("$defs", {})
                schemas[model.__name__] = schema
            for item in document["paths"].values():
                for operation in item.values():
                    if "requestBody" in operation:
                        operation["responses"] = {str(k): v for k, v in _BODY_PROBLEMS.items()} | operation["responses"]
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to change the document
