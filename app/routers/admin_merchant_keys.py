"""Keys with which merchants read what concerns them, made by staff."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Response

from app.dependencies import PageDep, SessionDep, staff_with
from app.models import MerchantKey, StaffKey, StaffRole, StaffScope
from app.openapi import problems
from app.schemas.catalogue import MerchantId
from app.schemas.merchant_keys import MerchantKeyCreate, MerchantKeyMade, MerchantKeyPage, MerchantKeyRead
from app.services import merchant_keys

router = APIRouter(prefix="/v1/admin/merchants/{merchant_id}/keys", tags=["admin"], responses=problems(401, 403, 404))

Reader = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.MERCHANTS_KEYS)]
Creator = Annotated[StaffKey, staff_with(StaffRole.ADMIN, StaffScope.MERCHANTS_KEYS, on=MerchantKey)]
Changer = Annotated[StaffKey, staff_with(StaffRole.ADMIN, StaffScope.MERCHANTS_KEYS, on=MerchantKey, by="key_id")]


@router.post("", status_code=201, summary="Make a merchant's key")
async def create_merchant_key(
    session: SessionDep, member: Creator, response: Response, merchant_id: MerchantId, body: MerchantKeyCreate
) -> MerchantKeyMade:
    """Make a key that reads `/v1/merchant` and nothing else. It is shown in this answer and never again."""
    response.headers["Cache-Control"] = "no-store"
    return await merchant_keys.create_key(session, merchant_id=merchant_id, wanted=body, member_id=member.id)


@router.get("", summary="A merchant's keys")
async def list_merchant_keys(session: SessionDep, _: Reader, merchant_id: MerchantId, page: PageDep) -> MerchantKeyPage:
    """List keys, newest first, each with when it was used last."""
    return await merchant_keys.list_keys(session, merchant_id=merchant_id, limit=page.limit, cursor=page.cursor)


@router.post("/{key_id}/revoke", summary="Revoke a merchant's key")
async def revoke_merchant_key(
    session: SessionDep, _: Changer, merchant_id: MerchantId, key_id: UUID
) -> MerchantKeyRead:
    """End a key at once."""
    return await merchant_keys.revoke(session, merchant_id=merchant_id, key_id=key_id)
