"""Sessions and the public keys of their tokens, as the contract shows them."""

from typing import Literal, Self
from uuid import UUID

from pydantic import Field

from app.models import CustomerSession, SignInMethod
from app.schemas.common import ResponseModel, UtcTime


class SessionRead(ResponseModel):
    """One sign-in on one device."""

    id: UUID = Field(examples=["0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e"])
    current: bool = Field(examples=[True], description="Whether this request came from it.")
    method: SignInMethod = Field(examples=[SignInMethod.PASSWORD])
    device_label: str | None = Field(examples=["Ayesha's phone"], description="As the app named it at sign-in.")
    user_agent: str | None = Field(examples=["Cashback/3.2 (Android 16)"])
    created_at: UtcTime = Field(examples=["2026-01-31T12:00:00Z"])
    last_used_at: UtcTime = Field(
        examples=["2026-02-02T08:30:00Z"], description="When its tokens were last refreshed, or it began."
    )
    expires_at: UtcTime = Field(examples=["2026-03-04T08:30:00Z"], description="Unless it is refreshed before.")

    @classmethod
    def of(cls, row: CustomerSession, *, current_id: UUID) -> Self:
        """Show a session to a request that came with the session `current_id`."""
        shown = {name: getattr(row, name) for name in cls.model_fields if name != "current"}
        return cls(current=row.id == current_id, **shown)


class PublicKey(ResponseModel):
    """An Ed25519 key as a JWK (RFC 8037, section 2)."""

    kty: Literal["OKP"] = "OKP"
    crv: Literal["Ed25519"] = "Ed25519"
    alg: Literal["EdDSA"] = "EdDSA"
    use: Literal["sig"] = "sig"
    kid: str = Field(examples=["kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"], description="Its thumbprint, RFC 7638.")
    x: str = Field(examples=["11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"])


class PublicKeys(ResponseModel):
    """The keys that verify access tokens (RFC 7517, section 5)."""

    keys: list[PublicKey]
