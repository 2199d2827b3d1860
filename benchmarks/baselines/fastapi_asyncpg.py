"""FastAPI and asyncpg's pool, PostgreSQL builds the JSON; no middleware, no sign-in, no log."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
from fastapi import FastAPI, Request, Response

_OFFERS = """
    SELECT json_build_object('items', coalesce(json_agg(page), '[]'))::text FROM (
        SELECT id, merchant_id, title, description, brand, url, image_url,
            json_build_object('amount_minor', price_minor, 'currency', currency) AS price,
            json_build_object('amount_minor', price_max_minor, 'currency', currency) AS price_max, available
        FROM offers WHERE merchant_id = $1 AND removed_at IS NULL ORDER BY id DESC LIMIT 20
    ) AS page
"""
_WALLET = """
    SELECT json_build_object('balances', coalesce(json_agg(page), '[]'))::text FROM (
        SELECT currency, pending_minor, available_minor, in_payout_minor, paid_minor, debt_minor
        FROM wallets WHERE customer_id = $1 ORDER BY currency
    ) AS page
"""


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=10, max_size=10) as app.state.pool:
        yield


app = FastAPI(lifespan=_lifespan)


@app.get("/offers/{merchant_id}")
async def offers(request: Request, merchant_id: int) -> Response:
    """Return 20 offers."""
    return Response(await request.app.state.pool.fetchval(_OFFERS, merchant_id), media_type="application/json")


@app.get("/wallet/{customer_id}")
async def wallet(request: Request, customer_id: UUID) -> Response:
    """Return balances."""
    return Response(await request.app.state.pool.fetchval(_WALLET, customer_id), media_type="application/json")
