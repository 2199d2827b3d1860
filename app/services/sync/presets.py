"""Mappings that ship with the service (`app/presets/feeds`), and how a request's mapping becomes a complete one."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import ValidationError

from app.errors import FieldError, InvalidRequestError
from app.models import FeedFormat
from app.schemas.feed_mappings import (
    AnyMapping,
    CsvMapping,
    FeedPreset,
    JsonMapping,
    MappingWrite,
    NdjsonMapping,
    XmlMapping,
)


class InvalidFeedMappingError(InvalidRequestError):
    """The preset and the members given do not make a mapping."""

    code = "invalid_feed_mapping"
    title = "Invalid feed mapping"

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__("The mapping is not complete or does not fit the format; see errors.", errors=errors)


@dataclass(frozen=True, slots=True)
class Preset:
    """One file."""

    name: FeedPreset
    about: str
    format: FeedFormat
    mapping: dict[str, Any]


@cache
def load_preset(name: FeedPreset) -> Preset:
    """Return a preset."""
    text = (files("app") / "presets" / "feeds" / f"{name.value}.toml").read_text(encoding="utf-8")
    content = tomllib.loads(text)
    return Preset(name, content["about"], FeedFormat(content["format"]), content["mapping"])


def list_presets() -> list[Preset]:
    """Return all presets, by name."""
    return [load_preset(name) for name in sorted(FeedPreset)]


def resolve_mapping(written: MappingWrite, format_: FeedFormat | None) -> tuple[FeedFormat, AnyMapping]:
    """Return the format and the complete mapping. Raises InvalidFeedMappingError."""
    values: dict[str, Any] = {}
    if written.preset is not None:
        preset = load_preset(written.preset)
        if format_ not in {None, preset.format}:
            raise InvalidFeedMappingError(
                [_error("format", f"the preset {preset.name.value} is {preset.format.value}", "preset_format")]
            )
        format_, values = preset.format, preset.mapping
    if format_ is None:
        raise InvalidFeedMappingError([_error("format", "needed when there is no preset", "missing")])
    given = written.given()
    fields = {**values.get("fields", {}), **(given.pop("fields", None) or {})}
    try:
        return format_, mapping_model(format_).model_validate({**values, **given, "fields": fields})
    except ValidationError as error:
        raise InvalidFeedMappingError(
            [
                {"loc": ["body", "mapping", *item["loc"]], "msg": item["msg"], "type": item["type"]}
                for item in error.errors()
            ]
        ) from None


def mapping_model(format_: FeedFormat) -> type[CsvMapping | JsonMapping | NdjsonMapping | XmlMapping]:
    """Return the shape of a format's mapping."""
    match format_:
        case FeedFormat.CSV:
            return CsvMapping
        case FeedFormat.JSON:
            return JsonMapping
        case FeedFormat.NDJSON:
            return NdjsonMapping
        case FeedFormat.XML:
            return XmlMapping


def _error(member: str, message: str, kind: str) -> FieldError:
    return {"loc": ["body", member], "msg": message, "type": kind}
