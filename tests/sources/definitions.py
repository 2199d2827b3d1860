"""Definitions for tests: a preset with other rules."""

from typing import Any

from app.schemas.source_definitions import SourceDefinition
from app.services.sources import get_preset


def definition_of(preset: str, **mapping: Any) -> SourceDefinition:
    """The preset's definition with other rules for some fields; None takes a rule away."""
    stored = get_preset(preset).definition.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    rules = {**stored["reading"]["mapping"], **mapping}
    stored["reading"]["mapping"] = {field: rule for field, rule in rules.items() if rule is not None}
    return SourceDefinition.model_validate(stored)
