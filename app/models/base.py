"""What all models share: naming convention, column types, and statuses kept as text with a CHECK.

Text with CHECK instead of PostgreSQL enums: a new status is one migration without a lock that rewrites, and no
connection has to look the type up.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    TypeDecorator,
    Uuid,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.ids import new_id

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """The declarative base: timezone-aware times, text strings, JSONB mappings."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text(),
        int: Integer(),
        bytes: LargeBinary(),
        datetime: DateTime(timezone=True),
        UUID: Uuid(),
        dict[str, Any]: JSONB(none_as_null=True),
        list[dict[str, Any]]: JSONB(none_as_null=True),
    }


class TextEnum(TypeDecorator[StrEnum]):
    """A StrEnum kept as text. Give the table `one_of(...)` too, so that the database refuses other values."""

    impl = Text
    cache_ok = True

    def __init__(self, enum: type[StrEnum]) -> None:
        super().__init__()
        self.enum = enum

    def process_bind_param(self, value: StrEnum | str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - signature
        """Accept the enum or its value; refuse any other text."""
        return None if value is None else self.enum(value).value

    def process_result_value(self, value: str | None, dialect: Dialect) -> StrEnum | None:  # noqa: ARG002 - signature
        """Return the enum member."""
        return None if value is None else self.enum(value)


def one_of(column: str, enum: type[StrEnum]) -> CheckConstraint:
    """Let the database refuse a text that is no member of the enum."""
    values = ", ".join(f"'{member.value}'" for member in enum)
    return CheckConstraint(f"{column} IN ({values})", name=column)


def currency_check(column: str = "currency") -> CheckConstraint:
    """Let the database refuse what does not look like an ISO 4217 code."""
    return CheckConstraint(f"{column} ~ '^[A-Z]{{3}}$'", name=column)


def primary_key_uuid() -> Mapped[UUID]:
    """Declare a UUIDv7 primary key, made by the application."""
    return mapped_column(primary_key=True, default=new_id)


def created_at() -> Mapped[datetime]:
    """Declare the time of insertion, by the database's clock."""
    return mapped_column(server_default=func.now())


def updated_at() -> Mapped[datetime]:
    """Declare the time of the last change made through the ORM."""
    return mapped_column(server_default=func.now(), onupdate=func.now())


def minor(*, nullable: bool = False, default: int | None = None) -> Any:  # noqa: ANN401 - mapped_column's own typing
    """Declare an amount in minor units as BIGINT."""
    server_default = None if default is None else str(default)
    return mapped_column(BigInteger, nullable=nullable, default=default, server_default=server_default)


JsonObject = Mapping[str, Any]
