"""The pattern as it is usually printed: three `BaseHTTPMiddleware`, a session a request from a pool that pings, ORM
entities, `response_model`, and a signed-in user who is loaded for each request."""

import json
import logging
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any

import jwt
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.security import OAuth2PasswordBearer
from pydantic import BaseModel, ConfigDict
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from starlette.middleware.base import BaseHTTPMiddleware

from app.models import Customer, Offer, Wallet
from benchmarks.baselines import PRINTED_SECRET

logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
logger = logging.getLogger("requests")
engine = create_async_engine(
    os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://"),
    pool_size=10,
    max_overflow=10,
    pool_pre_ping=True,
)
sessions = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()


async def add_request_id(request: Request, call_next: Any) -> Any:  # noqa: ANN401 - Starlette's own
    """Give the request an id."""
    request.state.request_id = str(uuid.uuid4())  # noqa: TID251 - as it is printed
    response = await call_next(request)
    response.headers["X-Request-ID"] = request.state.request_id
    return response


async def add_timing(request: Request, call_next: Any) -> Any:  # noqa: ANN401 - see above
    """Measure the request."""
    started = time.perf_counter()
    response = await call_next(request)
    response.headers["X-Process-Time"] = f"{time.perf_counter() - started:.6f}"
    return response


async def log_request(request: Request, call_next: Any) -> Any:  # noqa: ANN401 - see above
    """Log the request as JSON."""
    response = await call_next(request)
    logger.info(json.dumps({"method": request.method, "path": request.url.path, "status": response.status_code}))
    return response


for _step in (log_request, add_timing, add_request_id):
    app.add_middleware(BaseHTTPMiddleware, dispatch=_step)


class OfferOut(BaseModel):
    """An offer."""

    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    merchant_id: int
    title: str
    description: str
    brand: str | None
    url: str
    image_url: str | None
    currency: str
    price_minor: int
    price_max_minor: int
    available: bool


class BalanceOut(BaseModel):
    """A balance."""

    model_config = ConfigDict(from_attributes=True)

    currency: str
    pending_minor: int
    available_minor: int
    in_payout_minor: int
    paid_minor: int
    debt_minor: int


async def get_session() -> AsyncIterator[AsyncSession]:
    """Provide a session, and commit."""
    async with sessions() as session:
        yield session
        await session.commit()


Session = Annotated[AsyncSession, Depends(get_session)]
_bearer = OAuth2PasswordBearer("token")


async def get_customer(session: Session, token: Annotated[str, Depends(_bearer)]) -> Customer:
    """Return who is signed in."""
    claims = jwt.decode(token, PRINTED_SECRET, algorithms=["HS256"])
    customer = await session.get(Customer, uuid.UUID(claims["sub"]))
    if customer is None:
        raise HTTPException(401)
    return customer


@app.get("/offers/{merchant_id}", response_model=list[OfferOut])
async def offers(session: Session, merchant_id: int) -> Any:  # noqa: ANN401 - response_model says it
    """Return 20 offers."""
    statement = select(Offer).where(Offer.merchant_id == merchant_id, Offer.removed_at.is_(None))
    return (await session.scalars(statement.order_by(Offer.id.desc()).limit(20))).all()


@app.get("/wallet", response_model=list[BalanceOut])
async def wallet(session: Session, customer: Annotated[Customer, Depends(get_customer)]) -> Any:  # noqa: ANN401 - see above
    """Return balances."""
    return (await session.scalars(select(Wallet).where(Wallet.customer_id == customer.id))).all()
