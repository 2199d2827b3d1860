"""OAuth 2 for our own frontends: tokens (RFC 6749, password and refresh grants) and their revocation (RFC 7009)."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Header, Response, status

from app.dependencies import (
    AccessTokensDep,
    CallerDep,
    ExternalKeysDep,
    LimitByAddress,
    PasswordsDep,
    RateLimiterDep,
    SessionDep,
    SettingsDep,
    SignInThrottleDep,
)
from app.openapi import problems
from app.schemas.customers import GrantType, Nonce, RevocationRequest, TokenRequest, TokenResponse
from app.services import external_sign_in, sign_in, token_grants
from app.services.rate_limits import NONCE

router = APIRouter(prefix="/v1/auth", tags=["customers"])

ISSUED_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - the type's name
UserAgentHeader = Annotated[str | None, Header(alias="User-Agent", include_in_schema=False)]


async def get_collaborators(
    settings: SettingsDep,
    access_tokens: AccessTokensDep,
    external_keys: ExternalKeysDep,
    passwords: PasswordsDep,
    throttle: SignInThrottleDep,
    limiter: RateLimiterDep,
) -> token_grants.Collaborators:
    """Put together what granting tokens needs."""
    return token_grants.Collaborators(settings, access_tokens, external_keys, passwords, throttle, limiter)


@router.post(
    "/token",
    summary="Sign in, or refresh",
    response_model_exclude_none=True,
    responses=problems(400, 401, 409, 413, 429),
)
async def issue_token(
    collaborators: Annotated[token_grants.Collaborators, Depends(get_collaborators)],
    caller: CallerDep,
    form: Annotated[TokenRequest, Form()],
    response: Response,
    user_agent: UserAgentHeader = None,
) -> TokenResponse:
    """Exchange e-mail and password, or a refresh token, for an access token and a new refresh token.

    A wrong address or password is 401 `invalid_credentials`; a refresh token that is unknown, used, expired or revoked
    is 400 `invalid_grant`. Both also carry `error` and `error_description` for OAuth clients. A refresh token is good
    once: when a used one comes back, all that descend from the same sign-in are revoked. For some seconds after its use
    (`REFRESH_GRACE_SECONDS`) it is answered with the same new refresh token instead: clients refresh twice at once.
    An external provider's ID token is exchanged as RFC 8693 has it, with the `nonce` of `POST /v1/auth/nonces` in it.
    """
    response.headers["Cache-Control"] = "no-store"  # RFC 6749, section 5.1
    tokens = await token_grants.grant_tokens(collaborators, request=form, caller=caller, user_agent=user_agent)
    answer = TokenResponse.model_validate(tokens)
    exchanged = form.grant_type is GrantType.TOKEN_EXCHANGE
    return answer.model_copy(update={"issued_token_type": ISSUED_TOKEN_TYPE}) if exchanged else answer


@router.post(
    "/nonces",
    status_code=status.HTTP_201_CREATED,
    summary="Begin to sign in with an external provider",
    responses=problems(429),
    dependencies=[Depends(LimitByAddress(NONCE))],
)
async def create_nonce(session: SessionDep) -> Nonce:
    """Make a nonce for the request to the provider. Its ID token is then exchanged at `POST /v1/auth/token`."""
    nonce = await external_sign_in.new_nonce(session)
    return Nonce(nonce=nonce, expires_in=int(external_sign_in.NONCE_LASTS.total_seconds()))


@router.post("/revoke", status_code=status.HTTP_204_NO_CONTENT, summary="Sign out", responses=problems(400, 413))
async def revoke_token(access_tokens: AccessTokensDep, form: Annotated[RevocationRequest, Form()]) -> None:
    """End the session of this refresh or access token, with all tokens of it. An unknown token is 204 too."""
    await sign_in.revoke(access_tokens, token=form.token.get_secret_value())
