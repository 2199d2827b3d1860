"""The grants of the token endpoint: password, refresh token, and the ID token of an external provider (RFC 8693)."""

from dataclasses import dataclass

from pydantic import SecretStr

from app.config import Settings
from app.schemas.customers import GrantType, TokenRequest
from app.services import external_sign_in, sign_in
from app.services.external_keys import ExternalKeys
from app.services.passwords import Passwords
from app.services.rate_limits import SIGN_IN_ADDRESS, Charge, RateLimiter
from app.services.sessions import Device
from app.services.sign_in_throttle import SignInThrottle
from app.services.tokens import AccessTokens


@dataclass(frozen=True, slots=True)
class Collaborators:
    """What granting needs of its process."""

    settings: Settings
    access_tokens: AccessTokens
    external_keys: ExternalKeys
    passwords: Passwords
    throttle: SignInThrottle
    limiter: RateLimiter


async def grant_tokens(
    by: Collaborators, *, request: TokenRequest, caller: str, user_agent: str | None
) -> sign_in.Tokens:
    """Answer a token request.

    Passwords are counted by the caller's address and by the account they are tried on, whether it exists or not.
    Refresh tokens are not: they cannot be guessed, and who asked first must not depend on a counter.

    Raises InvalidCredentialsError, InvalidGrantError, PasswordQueueFullError and RateLimitedError, and what
    `external_sign_in.exchange` raises.
    """
    device = Device(user_agent, request.device_label)
    match request:
        case TokenRequest(grant_type=GrantType.PASSWORD, username=str(email), password=SecretStr() as password):
            await by.throttle.admit(email=email, caller=caller)
            key = await by.access_tokens.signing_key()
            secret = password.get_secret_value()
            tokens = await sign_in.sign_in(by.settings, key, by.passwords, email=email, password=secret, device=device)
            await by.throttle.welcome(email=email, caller=caller)
            return tokens
        case TokenRequest(grant_type=GrantType.REFRESH_TOKEN, refresh_token=SecretStr() as token):
            key = await by.access_tokens.signing_key()
            return await sign_in.refresh(by.settings, key, refresh_token=token.get_secret_value(), device=device)
        case TokenRequest(grant_type=GrantType.TOKEN_EXCHANGE, subject_token=SecretStr() as id_token):
            await by.limiter.charge([Charge(SIGN_IN_ADDRESS, caller)])
            key, text = await by.access_tokens.signing_key(), id_token.get_secret_value()
            return await external_sign_in.exchange(by.settings, by.external_keys, key, id_token=text, device=device)
        case _:
            raise AssertionError("the schema let a request without its grant's members pass")
