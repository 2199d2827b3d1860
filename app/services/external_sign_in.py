"""Signing in with an ID token of an external OpenID provider (OpenID Connect Core 1.0, section 3.1.3.7).

Whoever the provider names by (issuer, subject) is that customer for ever. An e-mail address leads to a customer only
when the provider says it is verified and ours is verified too: with less, whoever registers a stranger's address, here
or there, would get into the stranger's account. An ID token and its nonce are good once.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Provider, Settings
from app.db import transaction
from app.errors import ConflictError, UnauthorizedError
from app.models import Customer, CustomerStatus, ExternalIdentity, OneTimePurpose, OneTimeToken, SignInMethod
from app.schemas.customers import Email
from app.services import one_time
from app.services.customers import new_referral_code
from app.services.external_keys import ExternalKeys
from app.services.sessions import Device
from app.services.sign_in import Tokens, begin, oauth_error
from app.services.signing_keys import Key

NONCE_LASTS = timedelta(minutes=10)
_MOST_CHARACTERS = 8_192
_CLOCK_SKEW_SECONDS = 30
_EMAIL: TypeAdapter[str] = TypeAdapter(Email)


class InvalidIdTokenError(UnauthorizedError):
    """An ID token that is not of a provider we trust, not for us, expired, or was used before."""

    code = "invalid_id_token"
    title = "Invalid ID token"

    def __init__(self, reason: str) -> None:
        super().__init__(f"The ID token is not accepted: {reason}.")
        self.members = oauth_error("invalid_grant", self.detail)


class ExternalLinkRefusedError(ConflictError):
    """There is an account with this address, and nothing proves that it is the same person's."""

    code = "external_link_refused"
    title = "Account exists"

    def __init__(self) -> None:
        super().__init__(
            "An account with this e-mail address never confirmed it: reset its password, then sign in again."
        )
        self.members = oauth_error("invalid_grant", self.detail)


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a verified ID token speaks of."""

    issuer: str
    subject: str
    email: str | None
    nonce: str | None
    expires_at: datetime


async def new_nonce(session: AsyncSession) -> str:
    """Return a nonce for the client to send to its provider; the ID token must repeat it, or its SHA-256 in hex."""
    return await one_time.issue(session, customer_id=None, purpose=OneTimePurpose.NONCE, lasts=NONCE_LASTS)


async def exchange(settings: Settings, keys: ExternalKeys, key: Key, *, id_token: str, device: Device) -> Tokens:
    """Begin a session for whom an ID token speaks of, who is registered when new.

    Opens its transaction itself, once the token is verified: that may ask the provider. Raises InvalidIdTokenError,
    ExternalLinkRefusedError and ProviderUnavailableError.
    """
    provider, identity = await verify_id_token(settings, keys, id_token)
    async with transaction() as session:
        await _use_up(session, provider, identity, id_token)
        customer_id = await _find_or_register(session, identity)
        customer = await session.get_one(Customer, customer_id, with_for_update={"key_share": True})
        if customer.status is CustomerStatus.CLOSED:
            raise InvalidIdTokenError("its account is closed")
        return await begin(session, settings, key, customer_id=customer.id, device=device, method=SignInMethod.EXTERNAL)


async def verify_id_token(settings: Settings, keys: ExternalKeys, id_token: str) -> tuple[Provider, Identity]:
    """Return who says it, and what an ID token says. Raises InvalidIdTokenError and ProviderUnavailableError."""
    try:
        if len(id_token) > _MOST_CHARACTERS:
            raise InvalidIdTokenError("it is too long")
        kid = jwt.get_unverified_header(id_token).get("kid")
        # Only to choose among the providers of our settings; all is verified with that one's keys below.
        named = jwt.decode(id_token, options={"verify_signature": False}).get("iss")
        provider = next((one for one in settings.identity_providers if one.issuer == named), None)
        if provider is None or not isinstance(kid, str):
            raise InvalidIdTokenError("its issuer or its key is unknown")
        public = await keys.find(provider, kid)
        if public is None or public.algorithm_name not in provider.algorithms:
            raise InvalidIdTokenError("its key is unknown")
        said = jwt.decode(
            id_token,
            public.key,
            algorithms=[public.algorithm_name],
            audience=provider.audiences,
            issuer=provider.issuer,
            leeway=_CLOCK_SKEW_SECONDS,
            options={"require": ["exp", "iat", "sub", "aud", "iss"]},
        )
        return provider, _identity(provider, said)
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
        reason = "it has expired" if isinstance(error, jwt.ExpiredSignatureError) else "it is not valid for us"
        raise InvalidIdTokenError(reason) from None


def _identity(provider: Provider, said: dict[str, Any]) -> Identity:
    # Several audiences: `azp` says whom it was issued to (section 3.1.3.7, points 4 and 5).
    if said.get("azp", provider.audiences[0]) not in provider.audiences:
        raise InvalidIdTokenError("it was issued to somebody else")
    nonce, subject = said.get("nonce"), said["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= 255 or "\x00" in subject:
        raise InvalidIdTokenError("it names nobody")
    email = None
    # Apple and Cognito write it as text.
    if said.get("email_verified") in {True, "true"}:
        try:
            email = _EMAIL.validate_python(said.get("email"))
        except ValidationError:
            email = None
    expires_at = datetime.fromtimestamp(float(said["exp"]), UTC) + timedelta(seconds=_CLOCK_SKEW_SECONDS)
    return Identity(provider.issuer, subject, email, nonce if isinstance(nonce, str) else None, expires_at)


async def _use_up(session: AsyncSession, provider: Provider, identity: Identity, id_token: str) -> None:
    """Take the token and its nonce, each once. Raises InvalidIdTokenError."""
    if provider.requires_nonce or identity.nonce is not None:
        digests = [one_time.digest(identity.nonce or "")]
        if len(identity.nonce or "") == 64:
            with suppress(ValueError):  # clients of Apple's send the nonce hashed to the provider
                digests.append(bytes.fromhex(identity.nonce or ""))
        now = datetime.now(UTC)
        used = await session.scalar(
            update(OneTimeToken)
            .where(
                or_(*(OneTimeToken.token_hash == digest for digest in digests)),
                OneTimeToken.purpose == OneTimePurpose.NONCE,
                OneTimeToken.used_at.is_(None),
                OneTimeToken.expires_at > now,
            )
            .values(used_at=now)
            .returning(OneTimeToken.id)
        )
        if used is None and provider.requires_nonce:
            raise InvalidIdTokenError("its nonce is not one of ours, or was used before")
    # Of the signed part: an ECDSA signature can be written in a second way.
    signed = hashlib.sha256(id_token.rpartition(".")[0].encode()).digest()
    first = await session.scalar(
        insert(OneTimeToken)
        .values(
            purpose=OneTimePurpose.ID_TOKEN,
            token_hash=signed,
            expires_at=identity.expires_at,
            used_at=datetime.now(UTC),
        )
        .on_conflict_do_nothing()
        .returning(OneTimeToken.id)
    )
    if first is None:
        raise InvalidIdTokenError("it was used before")


async def _find_or_register(session: AsyncSession, identity: Identity) -> UUID:
    linked: UUID | None = await session.scalar(
        update(ExternalIdentity)
        .where(ExternalIdentity.issuer == identity.issuer, ExternalIdentity.subject == identity.subject)
        .values(last_used_at=datetime.now(UTC))
        .returning(ExternalIdentity.customer_id)
    )
    if linked is not None:
        return linked
    if identity.email is None:
        raise InvalidIdTokenError("its provider has not verified an e-mail address")
    # One statement that cannot fail: two may come with one address at once.
    await session.execute(
        insert(Customer)
        .values(email=identity.email, email_verified_at=datetime.now(UTC), referral_code=new_referral_code())
        .on_conflict_do_nothing()
    )
    customer = await session.scalar(
        select(Customer)
        .where(Customer.email == identity.email)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    if customer is None or not customer.email_verified:
        raise ExternalLinkRefusedError
    await session.execute(
        insert(ExternalIdentity)
        .values(customer_id=customer.id, issuer=identity.issuer, subject=identity.subject)
        .on_conflict_do_nothing()
    )
    return customer.id
