"""Definitions that ship with the service, one readable file a network: `app/presets/sources/*.toml`.

A file has a title, a description for the operator, and a definition; nothing of it is code. What a network does not
document is said there.
"""

import tomllib
from functools import cache
from importlib.resources import files

from app.errors import NotFoundError
from app.schemas.sources import SourcePreset


class SourcePresetNotFoundError(NotFoundError):
    """No preset has this name."""

    code = "source_preset_not_found"
    title = "Source preset not found"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"There is no preset {name!r}; there are {', '.join(preset.name for preset in list_presets())}."
        )


@cache
def list_presets() -> tuple[SourcePreset, ...]:
    """Return all presets by name."""
    folder = files("app") / "presets" / "sources"
    found = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return tuple(
        SourcePreset.model_validate({"name": file.name.removesuffix(".toml"), **tomllib.loads(file.read_text("utf-8"))})
        for file in found
    )


def get_preset(name: str) -> SourcePreset:
    """Return a preset. Raises SourcePresetNotFoundError."""
    for preset in list_presets():
        if preset.name == name:
            return preset
    raise SourcePresetNotFoundError(name)
