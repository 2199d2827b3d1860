"""OAuth 2 for our own frontends: tokens (RFC 6749, password and refresh grants) and their revocation (RFC 7009)."""

from typing import Annotated

from fastapi import APIRouter, Form, Response, status

from app.dependencies import CallerDep, PasswordsDep, SettingsDep, SignInThrottleDep
from app.openapi import problems
from app.schemas.customers import RevocationRequest, TokenRequest, TokenResponse
from app.services import sign_in

router = APIRouter(prefix="/v1/auth", tags=["customers"])


@router.post(
    "/token",
    summary="Sign in, or refresh",
    responses=problems(400, 401, 413, 429),
)
async def issue_token(
    settings: SettingsDep,
    passwords: PasswordsDep,
    throttle: SignInThrottleDep,
    caller: CallerDep,
    form: Annotated[TokenRequest, Form()],
    response: Response,
) -> TokenResponse:
    """Exchange e-mail and password, or a refresh token, for an access token and a new refresh token.

    A wrong address or password is 401 `invalid_credentials`; a refresh token that is unknown, used, expired or revoked
    is 400 `invalid_grant`. Both also carry `error` and `error_description` for OAuth clients. A refresh token is good
    once: when a used one comes back, all that descend from the same sign-in are revoked.
    """
    response.headers["Cache-Control"] = "no-store"  # RFC 6749, section 5.1
    tokens = await sign_in.grant_tokens(settings, passwords, throttle, request=form, caller=caller)
    return TokenResponse.model_validate(tokens)


@router.post("/revoke", status_code=status.HTTP_204_NO_CONTENT, summary="Sign out", responses=problems(400, 413))
async def revoke_token(settings: SettingsDep, form: Annotated[RevocationRequest, Form()]) -> None:
    """Revoke all refresh tokens that descend from the same sign-in as this refresh or access token.

    An unknown token is 204 too. Access tokens that were issued before stay good until they expire.
    """
    await sign_in.revoke(settings, token=form.token.get_secret_value())
