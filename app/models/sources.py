"""Sources that report sales to us, and the versions of what they are."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Identity, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, one_of, primary_key_uuid


class SourceStatus(StrEnum):
    """A disabled source is answered as if it did not exist."""

    ACTIVE = "active"
    DISABLED = "disabled"


class Source(Base):
    """Who sends, under which address, with which secrets. What it is otherwise says its present version."""

    __tablename__ = "sources"
    __table_args__ = (one_of("status", SourceStatus),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    # The unguessable part of the webhook's address.
    source_key: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    # The preset it was made from, if any; its definition may have changed since.
    preset: Mapped[str | None]
    status: Mapped[SourceStatus] = mapped_column(TextEnum(SourceStatus), default=SourceStatus.ACTIVE)
    # Encrypted, newest first; all of them are accepted. None where the definition needs none.
    secrets_encrypted: Mapped[bytes | None]
    # The present version. Checked at the commit: a source and its first version need each other.
    version_id: Mapped[UUID] = mapped_column(
        ForeignKey("source_versions.id", deferrable=True, initially="DEFERRED", use_alter=True)
    )
    # That version's query parameter of a click-out URL that brings our click id back in the payload.
    subid_parameter: Mapped[str]
    created_at: Mapped[datetime] = created_at()


class SourceVersion(Base):
    """What a source is or was. Never changed: an edit adds the next one, and each event remembers its reader."""

    __tablename__ = "source_versions"
    __table_args__ = (UniqueConstraint("source_id", "number"), CheckConstraint("number >= 1", name="number"))

    id: Mapped[UUID] = primary_key_uuid()
    source_id: Mapped[int] = mapped_column(ForeignKey("sources.id"))
    number: Mapped[int]
    # Its shape is `schemas/source_definitions.py`.
    definition: Mapped[dict[str, Any]]
    # The staff key that made it; None: a command or a migration.
    created_by_id: Mapped[UUID | None] = mapped_column(ForeignKey("staff_keys.id"))
    created_at: Mapped[datetime] = created_at()
