"""The generic HTTP provider (PAYOUT_HTTP_URL): a payout is one resource, named by its idempotency key.

    POST {url}/payouts               Authorization: Bearer {token}    Idempotency-Key: payout-{id}
        {"amount_minor": 245000, "currency": "PKR", "reference": "payout-{id}",
         "account": {"kind": "iban", "holder": "...", "country": "PK", "iban": "..."}}
    GET  {url}/payouts/payout-{id}   Authorization: Bearer {token}

Both answer 200, 201 or 202 with `{"status": "pending" | "paid" | "failed", "reference": "...", "reason": "..."}`, where
`reference` is the provider's own name and `reason` why it failed. An `id`, when there is one, is `payout-{id}`.

An error is `{"error": {"code": "...", "message": "..."}}`. To a POST, 400, 402, 410 and 422 with that body refuse the
payout for good: nothing was and nothing will be paid under this key. To a GET, 404 with the code `not_found` says that
the provider does not have it. **Everything else says nothing**: a timeout, a broken connection, 5xx, 401, 409, 429, a
redirect, a body that is not as above, and an error whose code begins with `idempotency`, for that one speaks of an
earlier request.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import cache
from ssl import SSLContext
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

import httpx
from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints, ValidationError

from app.config import Settings
from app.services.payouts.providers import Answer, Instruction, Outcome, payout_key

_SUCCESS = frozenset({200, 201, 202})
_REFUSALS = frozenset({400, 402, 410, 422})
_MOST_BYTES = 65_536
_LONGEST_REASON = 300

_Model = TypeVar("_Model", bound=BaseModel)


def _printable(value: object) -> object:
    # Shown to staff and customers, and kept: no NUL, no line ends, no end.
    if isinstance(value, str):
        return " ".join("".join(one if one.isprintable() else " " for one in value).split())[:_LONGEST_REASON]
    return value


_Text = Annotated[str, BeforeValidator(_printable)]


class _Payout(BaseModel):
    model_config = ConfigDict(strict=True)

    status: Literal["pending", "paid", "failed"]
    reference: Annotated[_Text, StringConstraints(min_length=1)] | None = None
    reason: _Text | None = None
    id: str | None = None


class _Error(BaseModel):
    model_config = ConfigDict(strict=True)

    code: Annotated[_Text, StringConstraints(min_length=1)]
    message: _Text = ""


class _Refusal(BaseModel):
    model_config = ConfigDict(strict=True)

    error: _Error


class HttpProvider:
    """A `Provider` over HTTP."""

    def __init__(self, client: httpx.AsyncClient, *, timeout_seconds: float) -> None:
        self._client = client
        self._timeout_seconds = timeout_seconds

    async def pay(self, instruction: Instruction) -> Answer:
        """Post the payout under its key."""
        key = payout_key(instruction.payout_id)
        account = {name: value for name, value in asdict(instruction.account).items() if value is not None}
        content = {
            "amount_minor": instruction.amount_minor,
            "currency": instruction.currency,
            "reference": key,
            "account": account,
        }
        answer = await self._exchange("POST", "payouts", json=content, headers={"Idempotency-Key": key})
        if isinstance(answer, Answer):
            return answer
        status, body = answer
        refusal = _read(_Refusal, body) if status in _REFUSALS else None
        if refusal is not None and not refusal.error.code.startswith("idempotency"):
            return Answer(Outcome.FAILED, reason=_describe(refusal.error))
        return _judge(key, status, body)

    async def ask(self, payout_id: UUID) -> Answer:
        """Get the payout by its key."""
        key = payout_key(payout_id)
        answer = await self._exchange("GET", f"payouts/{key}")
        if isinstance(answer, Answer):
            return answer
        status, body = answer
        refusal = _read(_Refusal, body) if status == 404 else None
        if refusal is not None and refusal.error.code == "not_found":
            return Answer(Outcome.UNSEEN)
        return _judge(key, status, body)

    async def _exchange(self, method: str, path: str, **more: Any) -> tuple[int, bytes] | Answer:  # noqa: ANN401 - httpx's own
        """Return status and body, or UNKNOWN when there is no whole answer in time."""
        try:
            # Over all: a server that drips would never meet the limit of a single read.
            async with (
                asyncio.timeout(self._timeout_seconds),
                self._client.stream(method, path, **more) as response,
            ):
                body = b""
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > _MOST_BYTES:
                        return Answer(Outcome.UNKNOWN, reason=f"The provider answered more than {_MOST_BYTES} bytes.")
        except (TimeoutError, httpx.TimeoutException):
            return Answer(
                Outcome.UNKNOWN, reason=f"The provider did not answer within {self._timeout_seconds:g} seconds."
            )
        except httpx.HTTPError as error:
            return Answer(Outcome.UNKNOWN, reason=f"The connection to the provider failed ({type(error).__name__}).")
        return response.status_code, body


@asynccontextmanager
async def open_http_provider(settings: Settings) -> AsyncIterator[HttpProvider]:
    """Yield the provider of PAYOUT_HTTP_URL, which must be set, with connections of its own."""
    token = settings.payout_http_token.get_secret_value() if settings.payout_http_token else ""
    async with httpx.AsyncClient(
        base_url=f"{(settings.payout_http_url or '').rstrip('/')}/",
        # Without compression: a small body must not unpack to a large one.
        headers={"Authorization": f"Bearer {token}", "Accept": "application/json", "Accept-Encoding": "identity"},
        timeout=settings.payout_http_timeout_seconds,
        # A redirect would carry the account, and perhaps the token, to somebody nobody has named.
        follow_redirects=False,
        trust_env=False,
        verify=_tls(),
    ) as client:
        yield HttpProvider(client, timeout_seconds=settings.payout_http_timeout_seconds)


def _judge(key: str, status: int, body: bytes) -> Answer:
    if status not in _SUCCESS:
        return Answer(Outcome.UNKNOWN, reason=f"The provider answered {status}.")
    payout = _read(_Payout, body)
    if payout is None:
        return Answer(Outcome.UNKNOWN, reason=f"The provider answered {status} with a body that cannot be read.")
    if payout.id not in {None, key}:
        return Answer(Outcome.UNKNOWN, reason="The provider answered about another payout.")
    reason = payout.reason or "The provider gave no reason." if payout.status == "failed" else None
    return Answer(Outcome(payout.status), payout.reference, reason)


def _read(model: type[_Model], body: bytes) -> _Model | None:
    try:
        return model.model_validate_json(body)
    except ValidationError:
        return None


def _describe(error: _Error) -> str:
    return f"{error.message} ({error.code})" if error.message else error.code


@cache
def _tls() -> SSLContext:
    # Reading the certificate authorities takes longer than many an exchange.
    return httpx.create_ssl_context()
