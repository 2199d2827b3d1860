"""Staff keys for admins: make, list, rotate, revoke."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from app.dependencies import PageDep, SessionDep, staff_with
from app.models import StaffKey, StaffRole, StaffScope
from app.openapi import problems
from app.schemas.common import SafeText
from app.schemas.staff import StaffKeyCreate, StaffKeyMade, StaffKeyPage, StaffKeyRead, StaffKeyRotate
from app.services import staff

router = APIRouter(prefix="/v1/admin/staff-keys", tags=["admin"], responses=problems(401, 403))

Reader = Annotated[StaffKey, staff_with(StaffRole.ADMIN, StaffScope.STAFF_MANAGE)]
Creator = Annotated[StaffKey, staff_with(StaffRole.ADMIN, StaffScope.STAFF_MANAGE, on=StaffKey)]
Changer = Annotated[StaffKey, staff_with(StaffRole.ADMIN, StaffScope.STAFF_MANAGE, on=StaffKey, by="key_id")]


@router.post("", status_code=201, summary="Make a staff key")
async def create_staff_key(
    session: SessionDep, creator: Creator, response: Response, body: StaffKeyCreate
) -> StaffKeyMade:
    """Make a key, which is shown in this answer and never again. It may do no more than the key that makes it.

    Keys of one member count as one person, and so do a key and the one that made it, where two people must agree.
    """
    response.headers["Cache-Control"] = "no-store"
    return await staff.create_by(session, creator=creator, wanted=body)


@router.get("", summary="Staff keys")
async def list_staff_keys(
    session: SessionDep,
    _: Reader,
    page: PageDep,
    member: Annotated[SafeText | None, Query(max_length=200, description="Only of this member.")] = None,
    active: Annotated[
        bool | None, Query(description="true: neither revoked nor expired; false: only those that are.")
    ] = None,
) -> StaffKeyPage:
    """List keys, newest first, each with when it was used last."""
    return await staff.list_keys(session, limit=page.limit, cursor=page.cursor, member=member, active=active)


@router.post("/{key_id}/rotate", status_code=201, summary="Replace a staff key", responses=problems(404, 409))
async def rotate_staff_key(
    session: SessionDep, changer: Changer, response: Response, key_id: UUID, body: StaffKeyRotate | None = None
) -> StaffKeyMade:
    """Make a key like this one, which ends at once. The new one is shown in this answer and never again."""
    response.headers["Cache-Control"] = "no-store"
    return await staff.rotate(session, by=changer, key_id=key_id, wanted=body or StaffKeyRotate())


@router.post("/{key_id}/revoke", summary="Revoke a staff key", responses=problems(404, 409))
async def revoke_staff_key(session: SessionDep, _: Changer, key_id: UUID) -> StaffKeyRead:
    """End a key at once. The last one that may make keys is refused."""
    return await staff.revoke(session, key_id=key_id)
