"""Staff access: keys, who they are of, and what they may do."""

from app.services.staff.access import (
    InvalidStaffKeyError,
    StaffRoleRequiredError,
    StaffScopeRequiredError,
    authenticate,
    one_person,
    require,
    require_role,
)
from app.services.staff.keys import create_by, create_key, list_keys, revoke, rotate

__all__ = [
    "InvalidStaffKeyError",
    "StaffRoleRequiredError",
    "StaffScopeRequiredError",
    "authenticate",
    "create_by",
    "create_key",
    "list_keys",
    "one_person",
    "require",
    "require_role",
    "revoke",
    "rotate",
]
