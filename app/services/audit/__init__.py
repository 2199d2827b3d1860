"""The audit log of what staff do."""

from app.services.audit.read import export_csv, list_entries
from app.services.audit.record import Actor, Target, command_actor, recorded, recorded_command, skip, staff_actor

__all__ = [
    "Actor",
    "Target",
    "command_actor",
    "export_csv",
    "list_entries",
    "recorded",
    "recorded_command",
    "skip",
    "staff_actor",
]
