"""What routes ask for by type: settings, session, queue, the current customer, a staff role, a page, idempotency."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from arq.connections import ArqRedis
from fastapi import Depends, Header, Path, Query, Request, Response, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer, OAuth2PasswordBearer
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import get_db, transaction
from app.db_watch import reading
from app.edge.rate_classes import SAFE_METHODS
from app.errors import ForbiddenError, UnauthorizedError
from app.middleware import ANSWER_HEADERS
from app.models import (
    Base,
    Customer,
    CustomerSession,
    CustomerStatus,
    MerchantKey,
    StaffKey,
    StaffRole,
    StaffScope,
)
from app.schemas.catalogue import MAX_MERCHANT_ID
from app.services import audit, merchant_keys, staff
from app.services.external_keys import ExternalKeys
from app.services.idempotency import KeyedRequest, answer_once, hash_request
from app.services.origin import Origin
from app.services.passwords import Passwords
from app.services.rate_limits import (
    READS_CUSTOMER,
    READS_STAFF,
    WRITES_CUSTOMER,
    WRITES_STAFF,
    Charge,
    Policy,
    RateLimiter,
    RequestClasses,
    address_caller,
)
from app.services.sign_in_throttle import SignInThrottle
from app.services.tokens import AccessToken, AccessTokens, InvalidAccessTokenError

logger = logging.getLogger(__name__)


class SignInRequiredError(UnauthorizedError):
    """The route needs a customer's access token."""

    code = "sign_in_required"
    title = "Sign-in required"


# All of these are coroutines, also those that wait for nothing: FastAPI runs a plain function in a thread, which costs
# more than most of our statements.


async def get_settings(request: Request) -> Settings:
    """Return the settings the application was built with."""
    settings: Settings = request.app.state.settings
    return settings


async def get_arq_pool(request: Request) -> ArqRedis:
    """Return the Redis client that enqueues jobs."""
    pool: ArqRedis = request.app.state.arq_pool
    return pool


async def get_passwords(request: Request) -> Passwords:
    """Return what hashes this process's passwords."""
    passwords: Passwords = request.app.state.passwords
    return passwords


async def get_access_tokens(request: Request) -> AccessTokens:
    """Return what issues and verifies this process's access tokens."""
    tokens: AccessTokens = request.app.state.access_tokens
    return tokens


async def get_external_keys(request: Request) -> ExternalKeys:
    """Return what remembers external providers' keys for this process."""
    keys: ExternalKeys = request.app.state.external_keys
    return keys


SettingsDep = Annotated[Settings, Depends(get_settings)]
# "function" scope: the transaction is committed before the answer is sent. With FastAPI's default the client
# would see 200 first, and still see it if the commit then failed.
SessionDep = Annotated[AsyncSession, Depends(get_db, scope="function")]


async def get_reading(session: SessionDep) -> AsyncIterator[AsyncSession]:
    """Provide a session on the replica while that is fit to be read, else the request's own."""
    async with reading(session) as chosen:
        yield chosen


# For what may be some seconds old, and is nobody's own.
ReadSessionDep = Annotated[AsyncSession, Depends(get_reading, scope="function")]
ArqPoolDep = Annotated[ArqRedis, Depends(get_arq_pool)]
PasswordsDep = Annotated[Passwords, Depends(get_passwords)]
ExternalKeysDep = Annotated[ExternalKeys, Depends(get_external_keys)]
AccessTokensDep = Annotated[AccessTokens, Depends(get_access_tokens)]


async def get_rate_limiter(request: Request) -> RateLimiter:
    """Return what counts this process's calls."""
    limiter: RateLimiter = request.app.state.rate_limiter
    return limiter


async def get_sign_in_throttle(request: Request) -> SignInThrottle:
    """Return what slows the guessing of passwords down."""
    throttle: SignInThrottle = request.app.state.sign_in_throttle
    return throttle


SignInThrottleDep = Annotated[SignInThrottle, Depends(get_sign_in_throttle)]
RateLimiterDep = Annotated[RateLimiter, Depends(get_rate_limiter)]


async def get_caller(request: Request) -> str:
    """Return what names the caller by the address that the server saw, for a rate limit."""
    return address_caller(request.client.host if request.client else None)


CallerDep = Annotated[str, Depends(get_caller)]


class LimitByAddress:
    """A dependency that counts a request by the address it came from. Raises 429."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    async def __call__(self, request: Request, limiter: RateLimiterDep, caller: CallerDep) -> None:
        """Count it; the answer tells what is left."""
        await _charge(request, limiter, Charge(self.policy, caller))


async def _charge(request: Request, limiter: RateLimiter, charge: Charge) -> None:
    state = await limiter.charge([charge])
    if state is not None:
        # The middleware sends them: whatever answer the route makes itself would not carry a dependency's headers.
        request.scope.setdefault(ANSWER_HEADERS, {}).update(state.headers())


_customer_scheme = OAuth2PasswordBearer(
    "/v1/auth/token", refreshUrl="/v1/auth/token", scheme_name="customer", auto_error=False
)
_staff_bearer = HTTPBearer(scheme_name="staff", description="A staff key: `cbk_...`", auto_error=False)
_staff_header = APIKeyHeader(
    name="X-API-Key", scheme_name="staff-key", description="A staff key: `cbk_...`", auto_error=False
)


def _count_class(request: Request, reads: Policy, writes: Policy, caller: str) -> None:
    classes: RequestClasses = request.app.state.request_classes
    state = classes.charge(reads if request.method in SAFE_METHODS else writes, caller)
    if state is not None:
        request.scope.setdefault(ANSWER_HEADERS, {}).update(state.headers())


# Hot: each dependency of a dependency costs a request some 8 us, so this one has no more than it must.
async def get_access_token(request: Request, token: Annotated[str | None, Security(_customer_scheme)]) -> AccessToken:
    """Return what the access token of the request says, and count the request. Raises 401 without a valid one, 429."""
    if token is None:
        raise SignInRequiredError("Send a customer's access token as 'Authorization: Bearer ...'.")
    access_tokens: AccessTokens = request.app.state.access_tokens
    signed_in = await access_tokens.verify(token)
    _count_class(request, READS_CUSTOMER, WRITES_CUSTOMER, f"customer:{signed_in.customer_id}")
    return signed_in


SignedIn = Annotated[AccessToken, Depends(get_access_token)]


async def get_signed_in_id(signed_in: SignedIn) -> UUID:
    """Return whose access token came with the request, without asking the database. Raises 401 without a valid one.

    For services that hold no connection until they need one; they judge the account themselves.
    """
    return signed_in.customer_id


SignedInId = Annotated[UUID, Depends(get_signed_in_id)]


async def get_current_customer(session: SessionDep, signed_in: SignedIn, customer_id: SignedInId) -> Customer:
    """Return the customer whose access token came with the request.

    Raises 401 without a valid one, and from the moment on at which its session or the account has ended.
    """
    customer = await session.scalar(CustomerSession.owner(signed_in.session_id, customer_id))
    if customer is None or customer.status is CustomerStatus.CLOSED:
        raise InvalidAccessTokenError.ended()
    return customer


async def get_staff_key(
    request: Request,
    session: SessionDep,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_staff_bearer)],
    header: Annotated[str | None, Security(_staff_header)],
) -> StaffKey:
    """Return the staff key that came with the request, whatever it may do. Raises 401 without a valid one."""
    key = header or (bearer.credentials if bearer else None)
    if key is None:
        raise staff.InvalidStaffKeyError
    found = await staff.authenticate(session, key)
    _count_class(request, READS_STAFF, WRITES_STAFF, f"staff:{found.id}")
    return found


_merchant_bearer = HTTPBearer(scheme_name="merchant", description="A merchant's key: `cbm_...`", auto_error=False)
_merchant_header = APIKeyHeader(
    name="X-API-Key", scheme_name="merchant-key", description="A merchant's key: `cbm_...`", auto_error=False
)


async def get_merchant_key(
    request: Request,
    session: SessionDep,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_merchant_bearer)],
    header: Annotated[str | None, Security(_merchant_header)],
) -> MerchantKey:
    """Return the merchant's key that came with the request. Raises 401 without a valid one."""
    key = header or (bearer.credentials if bearer else None)
    if key is None:
        raise merchant_keys.InvalidMerchantKeyError
    row = await merchant_keys.authenticate(session, key)
    _count_class(request, READS_STAFF, WRITES_STAFF, f"merchant-key:{row.id}")
    return row


MerchantKeyDep = Annotated[MerchantKey, Depends(get_merchant_key)]
StaffKeyDep = Annotated[StaffKey, Depends(get_staff_key)]


class StaffWithRole:
    """A dependency that lets in staff keys of a role or above and, where they are limited to scopes, of this scope.

    Whatever a route does that is no GET leaves a row in the audit log, also without a word about it here. `on` is the
    table that it changes and `by` the path parameter with the row's key; without `by` the route makes the row.
    `records` lets a GET leave one, too.
    """

    def __init__(
        self,
        role: StaffRole,
        scope: StaffScope | None = None,
        *,
        on: type[Base] | None = None,
        by: str | None = None,
        records: bool = False,
    ) -> None:
        self.role = role
        self.scope = scope
        self.on = on
        self.by = by
        self.records = records

    async def __call__(self, request: Request, session: SessionDep, key: StaffKeyDep) -> AsyncIterator[StaffKey]:
        """Provide the staff key, and record what is done with it. Raises 403 when it may not do this."""
        async with self.let_in(request, session, key):
            yield key

    @asynccontextmanager
    async def let_in(self, request: Request, session: AsyncSession, key: StaffKey) -> AsyncIterator[None]:
        """Let a key in and record what is done inside. Raises 403 when it may not do this."""
        action = request.scope["route"].name
        try:
            staff.require(key, self.role, self.scope)
        except ForbiddenError as error:
            who = {"staff_key_id": str(key.id), "member": key.name}
            logger.warning("staff refused", extra={**who, "action": action, "code": error.code})
            raise
        if request.method in {"GET", "HEAD"} and not self.records:
            yield
            return
        actor = audit.staff_actor(key, request.client.host if request.client else None)
        async with audit.recorded(session, actor=actor, action=action, target=self._target(request)):
            yield

    def _target(self, request: Request) -> audit.Target:
        if self.on is not None:
            value = None if self.by is None else str(request.path_params.get(self.by))
            return audit.Target(str(self.on.__tablename__), value, self.on)
        name, value = next(iter(request.path_params.items()), (None, None))
        return audit.Target(name and name.removesuffix("_id"), None if value is None else str(value))


def staff_with(
    role: StaffRole,
    scope: StaffScope,
    *,
    on: type[Base] | None = None,
    by: str | None = None,
    records: bool = False,
) -> Any:  # noqa: ANN401 - Depends' own type
    """Let in staff keys, as `Annotated[StaffKey, staff_with(...)]`; the record is written before the commit."""
    return Depends(StaffWithRole(role, scope, on=on, by=by, records=records), scope="function")


class StaffBeforehand(StaffWithRole):
    """The same, its transaction over when the handler begins: for one that waits for somebody else's server."""

    async def __call__(  # type: ignore[override]  # FastAPI calls each by its own parameters
        self,
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_staff_bearer)],
        header: Annotated[str | None, Security(_staff_header)],
    ) -> StaffKey:
        """Return the staff key, and record that it was let in. Raises 401 without a valid one, 403."""
        async with transaction() as session:
            key = await get_staff_key(request, session, bearer, header)
            async with self.let_in(request, session, key):
                return key


class LimitByCustomer:
    """A dependency that counts a request by the customer who sent it. Raises 429."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    async def __call__(self, request: Request, limiter: RateLimiterDep, customer_id: SignedInId) -> None:
        """Count it; the answer tells what is left."""
        await _charge(request, limiter, Charge(self.policy, f"customer:{customer_id}"))


CurrentCustomer = Annotated[Customer, Depends(get_current_customer)]
# Without a scope they let in no key that is limited to scopes; `staff_with` says more.
Viewer = Annotated[StaffKey, Depends(StaffWithRole(StaffRole.VIEWER), scope="function")]
Operator = Annotated[StaffKey, Depends(StaffWithRole(StaffRole.OPERATOR), scope="function")]
Finance = Annotated[StaffKey, Depends(StaffWithRole(StaffRole.FINANCE), scope="function")]
Admin = Annotated[StaffKey, Depends(StaffWithRole(StaffRole.ADMIN), scope="function")]


class LimitByMerchant:
    """A dependency that counts a staff member's request by the merchant in its path. Raises 429."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    async def __call__(
        self,
        request: Request,
        limiter: RateLimiterDep,
        _: StaffKeyDep,
        merchant_id: Annotated[int, Path(ge=1, le=MAX_MERCHANT_ID, examples=[42])],
    ) -> None:
        """Count it; the answer tells what is left."""
        await _charge(request, limiter, Charge(self.policy, f"merchant:{merchant_id}"))


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page of a list is wanted."""

    limit: int
    cursor: str | None


async def get_page_request(
    limit: Annotated[int, Query(ge=1, le=100, description="Rows a page.")] = 20,
    cursor: Annotated[str | None, Query(max_length=512, description="`next_cursor` of the page before.")] = None,
) -> PageRequest:
    """Read `limit` and `cursor`."""
    return PageRequest(limit, cursor)


PageDep = Annotated[PageRequest, Depends(get_page_request)]


async def get_public_url(request: Request, settings: SettingsDep) -> str:
    """Return the base of URLs that we hand out, without a slash at its end."""
    return (settings.public_url or str(request.base_url)).rstrip("/")


PublicUrlDep = Annotated[str, Depends(get_public_url)]


async def get_origin(
    request: Request,
    device_id: Annotated[
        str | None,
        Header(
            alias="X-Device-ID",
            min_length=1,
            max_length=200,
            description="What the app calls this device. Only a keyed hash is kept: it tells apart who invites whom.",
            examples=["5b1f0c7e-9a3d-4c35-8f0e-2f9d4f1c6a77"],
        ),
    ] = None,
) -> Origin:
    """Return where a request comes from: behind a proxy that uvicorn trusts, the address which that one names."""
    return Origin(request.client and request.client.host, device_id)


OriginDep = Annotated[Origin, Depends(get_origin)]


class Idempotency:
    """Answers a POST once for its Idempotency-Key and repeats that answer after; without the header it just answers."""

    def __init__(self, session: AsyncSession, settings: Settings, request: KeyedRequest | None) -> None:
        self.session = session
        self.remember = timedelta(hours=settings.idempotency_key_hours)
        self.request = request

    async def run(
        self, operation: Callable[[], Awaitable[Any]], model: type[BaseModel], *, status: int = 201
    ) -> Response:
        """Answer with `model` of what the operation returns. Raises its errors, which are not remembered."""
        answer = await answer_once(
            self.session,
            request=self.request,
            operation=operation,
            model=model,
            status=status,
            remember=self.remember,
        )
        if answer.replayed:
            audit.skip(self.session)
        headers = {"Idempotency-Replayed": "true"} if answer.replayed else None
        return Response(answer.body, answer.status, headers, media_type="application/json")


IdempotencyKeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x20-\x7e]+$",
        description="Makes a repeat harmless: the same key and body give the first answer again.",
    ),
]


async def get_idempotency(
    request: Request,
    session: SessionDep,
    settings: SettingsDep,
    customer: CurrentCustomer,
    key: IdempotencyKeyHeader = None,
) -> Idempotency:
    """Read `Idempotency-Key` and what tells a repeat of this customer's request from another request."""
    return await _idempotency(request, session, settings, scope=str(customer.id), key=key)


async def get_staff_idempotency(
    request: Request,
    session: SessionDep,
    settings: SettingsDep,
    member: StaffKeyDep,
    key: IdempotencyKeyHeader = None,
) -> Idempotency:
    """Read `Idempotency-Key` of a staff request; the route's own dependency says which role it needs."""
    return await _idempotency(request, session, settings, scope=f"staff:{member.id}", key=key)


async def _idempotency(
    request: Request, session: AsyncSession, settings: Settings, *, scope: str, key: str | None
) -> Idempotency:
    if key is None:
        return Idempotency(session, settings, None)
    target = f"{request.url.path}?{request.url.query}"
    digest = hash_request(request.method, target, await request.body())
    return Idempotency(session, settings, KeyedRequest(scope, key, digest))


IdempotencyDep = Annotated[Idempotency, Depends(get_idempotency)]
StaffIdempotencyDep = Annotated[Idempotency, Depends(get_staff_idempotency)]
