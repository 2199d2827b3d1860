"""OAuth 2 for our own frontends: tokens (RFC 6749, password and refresh grants) and their revocation (RFC 7009)."""

from typing import Annotated

from fastapi import APIRouter, Form, Header, Response, status

from app.dependencies import AccessTokensDep, CallerDep, PasswordsDep, SettingsDep, SignInThrottleDep
from app.openapi import problems
from app.schemas.customers import RevocationRequest, TokenRequest, TokenResponse
from app.services import sign_in

router = APIRouter(prefix="/v1/auth", tags=["customers"])

UserAgentHeader = Annotated[str | None, Header(alias="User-Agent", include_in_schema=False)]


@router.post(
    "/token",
    summary="Sign in, or refresh",
    responses=problems(400, 401, 413, 429),
)
async def issue_token(
    settings: SettingsDep,
    access_tokens: AccessTokensDep,
    passwords: PasswordsDep,
    throttle: SignInThrottleDep,
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
    """
    response.headers["Cache-Control"] = "no-store"  # RFC 6749, section 5.1
    tokens = await sign_in.grant_tokens(
        settings, access_tokens, passwords, throttle, request=form, caller=caller, user_agent=user_agent
    )
    return TokenResponse.model_validate(tokens)


@router.post("/revoke", status_code=status.HTTP_204_NO_CONTENT, summary="Sign out", responses=problems(400, 413))
async def revoke_token(access_tokens: AccessTokensDep, form: Annotated[RevocationRequest, Form()]) -> None:
    """End the session of this refresh or access token, with all tokens of it. An unknown token is 204 too."""
    await sign_in.revoke(access_tokens, token=form.token.get_secret_value())
