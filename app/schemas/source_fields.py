"""Rules that find one of our fields in a payload: where it is, and how a text, an amount or a time is written.

A rule may mostly also be its shortest form: `"sale.total"` is `{"path": "sale.total"}`, `"as": "unix"` is
`"as": {"kind": "unix"}`; and several alternatives are a list of which the first that finds a value counts.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self, TypeAlias
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from app.expressions import MOST_CHARACTERS, Expression
from app.schemas.common import ExactText, SafeText
from app.schemas.source_authentication import DefinitionModel, by_kind

_MOST_ALTERNATIVES = 5
# The directives of strptime whose meaning does not depend on the machine.
_TIME_DIRECTIVES = frozenset("aAbBdmyYHIMSfpzj%")


def _alternatives(value: Any) -> Any:  # noqa: ANN401 - runs before the type is known
    rules = value if isinstance(value, list) else [value]
    return [{"path": rule} if isinstance(rule, str) else rule for rule in rules]


def _parsable(path: str) -> str:
    Expression(path)
    return path


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        raise ValueError(f"there is no time zone {name!r}; use a name like Europe/Berlin") from None
    return name


def _usable_time_format(text: str) -> str:
    if set(re.findall(r"%(.?)", text)) - _TIME_DIRECTIVES:
        raise ValueError(f"only these directives: {' '.join(sorted(f'%{one}' for one in _TIME_DIRECTIVES))}")
    try:
        datetime.strptime(datetime(2026, 11, 22, 10, 30, tzinfo=UTC).strftime(text), text)  # noqa: DTZ007 - a trial
    except (ValueError, re.error) as error:
        raise ValueError(f"no times can be read so: {error}") from None
    return text


Path = Annotated[
    ExactText,
    StringConstraints(min_length=1, max_length=MOST_CHARACTERS),
    AfterValidator(_parsable),
    Field(description="A JMESPath expression.", examples=["data.order.id"]),
]
Zone = Annotated[
    str, StringConstraints(max_length=60), AfterValidator(_known_zone), Field(examples=["UTC", "Europe/Berlin"])
]
TimeFormat = Annotated[
    ExactText,
    StringConstraints(min_length=2, max_length=60),
    AfterValidator(_usable_time_format),
    Field(examples=["%Y-%m-%d %H:%M:%S"]),
]
ShortText = Annotated[SafeText, StringConstraints(max_length=200)]


# --- Transforms of texts


class CaseTransform(DefinitionModel):
    """All letters large, or small."""

    kind: Literal["upper", "lower"]


class StripTransform(DefinitionModel):
    """Take characters off both ends. Spaces are always taken off."""

    kind: Literal["strip"]
    characters: ExactText = Field(" ", min_length=1, max_length=20, examples=["#"])


class SplitTransform(DefinitionModel):
    """Take one piece of a text, counted from 0, or from -1 at the end; no value where there is none."""

    kind: Literal["split"]
    separator: ExactText = Field(min_length=1, max_length=20, examples=["."])
    index: int = Field(ge=-20, le=20)


class DefaultTransform(DefinitionModel):
    """A value where the payload has none."""

    kind: Literal["default"]
    value: ShortText


class ConstantTransform(DefinitionModel):
    """A value whatever the payload has."""

    kind: Literal["constant"]
    value: ShortText


Transform: TypeAlias = Annotated[
    Annotated[
        CaseTransform | StripTransform | SplitTransform | DefaultTransform | ConstantTransform,
        Field(discriminator="kind"),
    ],
    BeforeValidator(
        by_kind,
        json_schema_input_type=Literal["upper", "lower", "strip"]
        | CaseTransform
        | StripTransform
        | SplitTransform
        | DefaultTransform
        | ConstantTransform,
    ),
]


class TextRule(DefinitionModel):
    """Where a text is: an identifier, a status, a currency. A number counts as the text it is written as."""

    path: Path | None = Field(None, description="None: the transforms make the value.")
    of: Literal["item", "delivery"] = Field(
        "item",
        description="What the path looks at: the reported event, or `{method, query, headers}` of the request,"
        " as far as the signature covers them.",
    )
    transforms: list[Transform] = Field([], max_length=10)
    required: bool = Field(default=False, description="A payload without it is rejected.")


# --- Amounts


class DecimalAmount(DefinitionModel):
    """An amount in the major unit, as text: `1299.00`, or `1.299,00` with `mark` and `grouping`."""

    kind: Literal["decimal"]
    mark: Literal[".", ","] = Field(".", description="What stands before the decimals.")
    grouping: Literal["", ",", ".", " ", "'"] = Field("", description="What parts the thousands.")
    numbers: bool = Field(
        default=False, description="Bare JSON numbers are in the major unit too; else they are refused as ambiguous."
    )
    rounding: Literal["exact", "half_even", "floor"] = Field(
        "exact", description="What becomes of more decimals than the currency has; `exact` refuses them."
    )

    @model_validator(mode="after")
    def _mark_is_no_grouping(self) -> Self:
        if self.mark == self.grouping:
            raise ValueError("mark and grouping are the same")
        return self


class MinorUnits(DefinitionModel):
    """An amount in whole minor units, as number or text: `1299` is 12.99."""

    kind: Literal["minor_units"]


AmountForm: TypeAlias = Annotated[
    Annotated[DecimalAmount | MinorUnits, Field(discriminator="kind")],
    BeforeValidator(by_kind, json_schema_input_type=Literal["decimal", "minor_units"] | DecimalAmount | MinorUnits),
]


class AmountRule(TextRule):
    """Where an amount is, and how it is written."""

    form: AmountForm = Field(DecimalAmount(kind="decimal"), alias="as")
    absolute: bool = Field(default=False, description="Drop the sign, where returns are reported below zero.")
    share_basis_points: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Take this share of it, rounded down: a commission that was agreed as a share of the sale.",
    )


# --- Times


class Iso8601Time(DefinitionModel):
    """RFC 3339 and its relatives: `2026-11-22T10:00:00Z`, `2026-11-22 10:00:00+05:00`."""

    kind: Literal["iso8601"]
    zone: Zone | None = Field(None, description="Of times that name none; without it they are refused.")


class UnixTime(DefinitionModel):
    """Seconds or milliseconds since 1970."""

    kind: Literal["unix", "unix_ms"]


class TextTime(DefinitionModel):
    """A time in a format of `strptime`; of several the first that fits counts. Names of months are English."""

    kind: Literal["text"]
    formats: list[TimeFormat] = Field(min_length=1, max_length=5)
    zone: Zone | None = Field(None, description="Needed unless the format has `%z`.")

    @model_validator(mode="after")
    def _zone_is_known(self) -> Self:
        if self.zone is None and any("%z" not in one for one in self.formats):
            raise ValueError("zone: needed, since a format has no %z")
        return self


TimeForm: TypeAlias = Annotated[
    Annotated[Iso8601Time | UnixTime | TextTime, Field(discriminator="kind")],
    BeforeValidator(
        by_kind, json_schema_input_type=Literal["iso8601", "unix", "unix_ms"] | Iso8601Time | UnixTime | TextTime
    ),
]


class TimeRule(TextRule):
    """Where a time is, and how it is written."""

    form: TimeForm = Field(Iso8601Time(kind="iso8601"), alias="as")


TextField: TypeAlias = Annotated[
    list[TextRule],
    BeforeValidator(_alternatives, json_schema_input_type=str | TextRule | list[str | TextRule]),
    Field(min_length=1, max_length=_MOST_ALTERNATIVES),
]
AmountField: TypeAlias = Annotated[
    list[AmountRule],
    BeforeValidator(_alternatives, json_schema_input_type=str | AmountRule | list[str | AmountRule]),
    Field(min_length=1, max_length=_MOST_ALTERNATIVES),
]
TimeField: TypeAlias = Annotated[
    list[TimeRule],
    BeforeValidator(_alternatives, json_schema_input_type=str | TimeRule | list[str | TimeRule]),
    Field(min_length=1, max_length=_MOST_ALTERNATIVES),
]
