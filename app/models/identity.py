"""What a customer's identity rests on: sessions, one-time tokens, external identities, and keys that sign tokens."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BindParameter, ForeignKey, Index, Select, UniqueConstraint, func, select
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, one_of, primary_key_uuid
from app.models.customers import Customer


class SignInMethod(StrEnum):
    """What a session began with."""

    PASSWORD = "password"  # noqa: S105 - the method's name
    EXTERNAL = "external"


class CustomerSession(Base):
    """One sign-in on one device. Its id is the `sid` of its access tokens and the family of its refresh tokens."""

    __tablename__ = "customer_sessions"
    __table_args__ = (
        one_of("method", SignInMethod),
        Index(None, "customer_id", "id"),
        Index(None, "expires_at"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    customer_id: Mapped[UUID] = mapped_column(ForeignKey("customers.id"))
    method: Mapped[SignInMethod] = mapped_column(TextEnum(SignInMethod), default=SignInMethod.PASSWORD)
    # As the client sent them, shown to its customer only.
    device_label: Mapped[str | None]
    user_agent: Mapped[str | None]
    created_at: Mapped[datetime] = created_at()
    # When it was last refreshed: using an access token writes nothing.
    last_used_at: Mapped[datetime] = mapped_column(server_default=func.now())
    # When its newest refresh token expires.
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]

    @classmethod
    def owner(cls, session_id: UUID | BindParameter[UUID], customer_id: UUID | BindParameter[UUID]) -> Select[Customer]:
        """Select the customer of a session that has not ended: of whoever comes with an access token."""
        return (
            select(Customer)
            .join(cls, cls.customer_id == Customer.id)
            .where(Customer.id == customer_id, cls.id == session_id, cls.ended_at.is_(None))
        )


class OneTimePurpose(StrEnum):
    """What a one-time token is good for, and nothing else."""

    VERIFY_EMAIL = "verify_email"
    RESET_PASSWORD = "reset_password"  # noqa: S105 - the purpose's name
    VERIFY_PHONE = "verify_phone"
    STEP_UP = "step_up"
    # Of signing in with an external provider: what its ID token must repeat, and that token itself.
    NONCE = "nonce"
    ID_TOKEN = "id_token"  # noqa: S105 - the purpose's name


class OneTimeToken(Base):
    """A token or code that was handed out, kept as a hash, good once, for one purpose and one address."""

    __tablename__ = "one_time_tokens"
    __table_args__ = (
        one_of("purpose", OneTimePurpose),
        Index(None, "customer_id", "purpose"),
        Index(None, "expires_at"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    customer_id: Mapped[UUID | None] = mapped_column(ForeignKey("customers.id"))
    purpose: Mapped[OneTimePurpose] = mapped_column(TextEnum(OneTimePurpose))
    # The e-mail address or phone number that it was sent to, and that it therefore proves.
    address: Mapped[str | None]
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    # Wrong codes that were tried against it.
    tries: Mapped[int] = mapped_column(default=0, server_default="0")
    created_at: Mapped[datetime] = created_at()
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class ExternalIdentity(Base):
    """A customer as an external OpenID provider knows it: the pair of issuer and subject never changes hands."""

    __tablename__ = "external_identities"
    __table_args__ = (
        UniqueConstraint("issuer", "subject"),
        Index(None, "customer_id"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    customer_id: Mapped[UUID] = mapped_column(ForeignKey("customers.id"))
    issuer: Mapped[str]
    subject: Mapped[str]
    created_at: Mapped[datetime] = created_at()
    last_used_at: Mapped[datetime] = mapped_column(server_default=func.now())


class SigningKey(Base):
    """An Ed25519 key that signs access tokens from `signs_from` until a newer one does, and verifies them longer."""

    __tablename__ = "signing_keys"

    # The thumbprint of the public key (RFC 7638), as in the header of tokens and in the published set.
    kid: Mapped[str] = mapped_column(primary_key=True)
    private_encrypted: Mapped[bytes]
    signs_from: Mapped[datetime]
    # Set once a newer key exists: no token that this one signed is good any longer then.
    verifies_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = created_at()
