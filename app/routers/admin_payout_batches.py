"""Payouts that leave by a file for the bank, and what became of payouts by the word of finance."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.responses import Response

from app.dependencies import PageDep, SessionDep, SettingsDep, StaffIdempotencyDep, staff_with
from app.models import Payout, PayoutBatch, ProposalKind, StaffKey, StaffRole, StaffScope
from app.openapi import PROPOSED, problems
from app.schemas.common import Currency
from app.schemas.payout_batches import (
    BatchFileFormat,
    PayoutBatchClose,
    PayoutBatchDetail,
    PayoutBatchPage,
    PayoutBatchRead,
    PayoutBatchSettlement,
    PayoutSettlement,
)
from app.schemas.payouts import PayoutAdminDetail
from app.schemas.proposals import ProposalRead
from app.services import proposals
from app.services.payouts import batches, show

router = APIRouter(prefix="/v1/admin", tags=["admin"], responses=problems(401, 403))

Viewer = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.PAYOUTS_READ)]
Closer = Annotated[StaffKey, staff_with(StaffRole.FINANCE, StaffScope.PAYOUTS_SEND, on=PayoutBatch)]
Downloader = Annotated[
    StaffKey, staff_with(StaffRole.FINANCE, StaffScope.PAYOUTS_SEND, on=PayoutBatch, by="batch_id", records=True)
]
BatchSettler = Annotated[
    StaffKey, staff_with(StaffRole.FINANCE, StaffScope.PAYOUTS_SEND, on=PayoutBatch, by="batch_id")
]
PayoutSettler = Annotated[StaffKey, staff_with(StaffRole.FINANCE, StaffScope.PAYOUTS_SEND, on=Payout, by="payout_id")]

_MEDIA_TYPES = {
    BatchFileFormat.CSV: "text/csv; charset=utf-8; header=present",
    BatchFileFormat.PAIN001: "application/xml",
}
_FILES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file.",
        "content": {
            "text/csv": {"schema": {"type": "string"}},
            "application/xml": {"schema": {"type": "string"}},
        },
    }
}


@router.post(
    "/payout-batches",
    status_code=201,
    summary="Close a batch of payouts",
    response_model=PayoutBatchRead,
    responses=problems(409),
)
async def close_payout_batch(
    session: SessionDep,
    settings: SettingsDep,
    member: Closer,
    idempotency: StaffIdempotencyDep,
    body: PayoutBatchClose,
) -> Response:
    """Send all approved payouts of a currency, at most 5,000, and make the files for the bank.

    They are `sent` from then on, whatever becomes of the files, so that none can be in a second batch. A batch has a
    pain.001 where each of its payouts has an IBAN: ask for `kinds: ["iban"]` first, and for the rest after.
    """
    return await idempotency.run(
        lambda: batches.close_batch(session, settings, wanted=body, staff_key_id=member.id), PayoutBatchRead
    )


@router.get("/payout-batches", summary="Payout batches")
async def list_payout_batches(
    session: SessionDep,
    _: Viewer,
    page: PageDep,
    currency: Annotated[Currency | None, Query(description="Only in this currency.")] = None,
) -> PayoutBatchPage:
    """List batches, newest first."""
    return await batches.list_batches(session, limit=page.limit, cursor=page.cursor, currency=currency)


@router.get("/payout-batches/{batch_id}", summary="One payout batch", responses=problems(404))
async def get_payout_batch(session: SessionDep, _: Viewer, batch_id: UUID) -> PayoutBatchDetail:
    """Show a batch with its control sum, and counts and sums of its payouts by state.

    `GET /v1/admin/payouts?batch_id=...` lists the payouts.
    """
    return await batches.show_batch(session, batch_id=batch_id)


@router.get(
    "/payout-batches/{batch_id}/file",
    summary="Download a file of a payout batch",
    response_class=Response,
    responses={**_FILES, **problems(404, 409)},
)
async def download_payout_batch(
    session: SessionDep,
    settings: SettingsDep,
    _: Downloader,
    batch_id: UUID,
    form: Annotated[BatchFileFormat, Query(alias="format", description="`csv` there always is.")],
) -> Response:
    """Download what goes to the bank: the same bytes each time.

    `csv` has a line for each payout, amounts as decimals in the major unit, and phone numbers without their plus.
    `pain001` is ISO 20022 pain.001.001.09; its `EndToEndId`, and `end_to_end_id` in the CSV, is the payout's id without
    hyphens, which every route takes for an id.
    """
    name, content = await batches.open_file(session, settings, batch_id=batch_id, form=form)
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return Response(content, media_type=_MEDIA_TYPES[form], headers=headers)


@router.post(
    "/payout-batches/{batch_id}/settle",
    summary="Settle a payout batch",
    response_model=PayoutBatchDetail,
    responses={**PROPOSED, **problems(404)},
)
async def settle_payout_batch(
    session: SessionDep,
    settings: SettingsDep,
    member: BatchSettler,
    idempotency: StaffIdempotencyDep,
    batch_id: UUID,
    body: PayoutBatchSettlement,
) -> Response:
    """Say that the bank paid all of a batch but the failures, whose amounts are available to their customers again.

    What was settled before stays as it is, but for failures: one that was paid came back. So it may be said again.
    """

    async def operation() -> PayoutBatchDetail | ProposalRead:
        proposal = await proposals.act(
            session, settings, kind=ProposalKind.BATCH_SETTLEMENT, target_id=batch_id, member=member, wanted=body
        )
        return proposal or await batches.show_batch(session, batch_id=batch_id)

    return await idempotency.run(operation, PayoutBatchDetail, status=200)


@router.post(
    "/payouts/{payout_id}/settle",
    summary="Settle one payout",
    response_model=PayoutAdminDetail,
    responses={**PROPOSED, **problems(404, 409)},
)
async def settle_payout(
    session: SessionDep,
    settings: SettingsDep,
    member: PayoutSettler,
    idempotency: StaffIdempotencyDep,
    payout_id: UUID,
    body: PayoutSettlement,
) -> Response:
    """Say that a sent payout was paid or failed, or that a paid one came back; saying it twice changes nothing.

    A payout at the HTTP provider settles itself. It can be failed by hand only when it is certain never to be sent
    again, 25 hours after it was sent first.
    """

    async def operation() -> PayoutAdminDetail | ProposalRead:
        proposal = await proposals.act(
            session, settings, kind=ProposalKind.PAYOUT_SETTLEMENT, target_id=payout_id, member=member, wanted=body
        )
        return proposal or await show.show_to_staff(session, payout_id=payout_id)

    return await idempotency.run(operation, PayoutAdminDetail, status=200)
