"""Mappings that ship with the service, and how a request's mapping becomes a complete one."""

from typing import Any

from pydantic import ValidationError

from app.errors import FieldError, InvalidRequestError
from app.models import FeedFormat
from app.schemas.feeds import CsvMapping, FeedPreset, JsonMapping, MappingWrite

_PRESETS: dict[FeedPreset, tuple[FeedFormat, dict[str, Any]]] = {
    # The product export of a large shop platform: one row a variant, further rows for further images.
    FeedPreset.SHOPIFY: (
        FeedFormat.CSV,
        {
            "group_by": "Handle",
            "url_template": "/products/{Handle}",
            "fields": {
                "external_id": "Handle",
                "title": "Title",
                "description": "Body (HTML)",
                "brand": "Vendor",
                "category": "Type",
                "image_url": "Image Src",
                "price": "Variant Price",
                "available": "Published",
            },
        },
    ),
    # What we ask of a merchant who writes a feed for us; the members are those of our own offers.
    FeedPreset.DIRECT_JSON: (
        FeedFormat.JSON,
        {
            "items_path": "items",
            "paging": {"kind": "next_url", "path": "next"},
            "fields": {
                "external_id": "id",
                "title": "title",
                "description": "description",
                "brand": "brand",
                "category": "category",
                "url": "url",
                "image_url": "image_url",
                "price": "price",
                "price_max": "price_max",
                "currency": "currency",
                "available": "available",
            },
        },
    ),
}


class InvalidFeedMappingError(InvalidRequestError):
    """The preset and the members given do not make a mapping."""

    code = "invalid_feed_mapping"
    title = "Invalid feed mapping"

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__("The mapping is not complete or does not fit the format; see errors.", errors=errors)


def resolve_mapping(written: MappingWrite, format_: FeedFormat | None) -> tuple[FeedFormat, CsvMapping | JsonMapping]:
    """Return the format and the complete mapping. Raises InvalidFeedMappingError."""
    values: dict[str, Any] = {}
    if written.preset is not None:
        preset_format, values = _PRESETS[written.preset]
        if format_ not in {None, preset_format}:
            raise InvalidFeedMappingError(
                [_error("format", f"the preset {written.preset.value} is {preset_format.value}", "preset_format")]
            )
        format_ = preset_format
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


def mapping_model(format_: FeedFormat) -> type[CsvMapping | JsonMapping]:
    """Return the shape of a format's mapping."""
    match format_:
        case FeedFormat.CSV:
            return CsvMapping
        case FeedFormat.JSON:
            return JsonMapping


def _error(member: str, message: str, kind: str) -> FieldError:
    return {"loc": ["body", member], "msg": message, "type": kind}
