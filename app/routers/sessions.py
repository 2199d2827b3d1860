"""A customer's sessions, and the keys by which others verify their access tokens."""

from uuid import UUID

from fastapi import APIRouter, Response

from app.dependencies import AccessTokensDep, CurrentCustomer, PageDep, SessionDep, SignedIn
from app.openapi import problems
from app.schemas.common import Page
from app.schemas.sessions import PublicKey, PublicKeys, SessionRead
from app.services import sessions

router = APIRouter(tags=["customers"])


@router.get("/.well-known/jwks.json", summary="Keys that verify access tokens")
async def get_public_keys(access_tokens: AccessTokensDep, response: Response) -> PublicKeys:
    """Return the public keys (RFC 7517). A new one is here ten minutes before it signs, so cache them for five."""
    response.headers["Cache-Control"] = "public, max-age=300"
    ring = await access_tokens.ring()
    return PublicKeys(keys=[PublicKey.model_validate(key.as_jwk()) for key in ring.keys])


@router.get("/v1/me/sessions", summary="Where I am signed in", responses=problems(401))
async def list_sessions(
    session: SessionDep, customer: CurrentCustomer, signed_in: SignedIn, page: PageDep
) -> Page[SessionRead]:
    """List the sessions that last, newest first."""
    return await sessions.list_sessions(
        session,
        customer_id=customer.id,
        current_id=signed_in.session_id,
        limit=page.limit,
        cursor=page.cursor,
    )


@router.delete(
    "/v1/me/sessions/{session_id}", status_code=204, summary="Sign out one device", responses=problems(401, 404)
)
async def end_session(session: SessionDep, customer: CurrentCustomer, session_id: UUID) -> None:
    """End a session: its tokens are refused from now on. It may be the current one."""
    await sessions.end_session(session, customer_id=customer.id, session_id=session_id)


@router.delete("/v1/me/sessions", status_code=204, summary="Sign out everywhere else", responses=problems(401))
async def end_other_sessions(session: SessionDep, customer: CurrentCustomer, signed_in: SignedIn) -> None:
    """End all sessions but the one of this request."""
    await sessions.end_other_sessions(session, customer_id=customer.id, current_id=signed_in.session_id)
