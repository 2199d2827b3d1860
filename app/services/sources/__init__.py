"""Sources of sales as data: presets, definitions and their versions, secrets."""

from app.services.sources.manage import (
    SourceNotFoundError,
    SourceUnsignedError,
    add_source,
    change_source,
    create_source,
    define_source,
    find_source,
    get_source,
    list_sources,
    list_versions,
    retire_old_secrets,
    rotate_secret,
)
from app.services.sources.presets import get_preset, list_presets
from app.services.sources.secrets import new_signing_secret

__all__ = [
    "SourceNotFoundError",
    "SourceUnsignedError",
    "add_source",
    "change_source",
    "create_source",
    "define_source",
    "find_source",
    "get_preset",
    "get_source",
    "list_presets",
    "list_sources",
    "list_versions",
    "new_signing_secret",
    "retire_old_secrets",
    "rotate_secret",
]
