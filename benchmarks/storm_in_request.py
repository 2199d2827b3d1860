"""What the storm avoids: a catalogue whose sync is done in the request. Not part of the service.

GET /offers/{merchant} is one list; POST /sync/{merchant} fetches the feed, checks it, upserts it, and then answers.
`python -m benchmarks.storm_in_request PORT DATABASE_URL FEED_URL`
"""

import sys
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from app.ids import new_id
from app.models import Offer


class Price(BaseModel):
    """A price in minor units."""

    amount_minor: int
    currency: str


class Item(BaseModel):
    """One offer of the feed."""

    id: str
    title: str
    url: str
    price: Price


def make_app(database_url: str, feed_url: str) -> FastAPI:
    """Build it on SQLAlchemy's pool as it comes: five connections and ten more."""
    app = FastAPI()
    sessions = async_sessionmaker(create_async_engine(database_url))

    @app.get("/offers/{merchant_id}")
    async def list_offers(merchant_id: int) -> list[dict[str, Any]]:
        async with sessions() as session:
            statement = select(Offer).where(Offer.merchant_id == merchant_id).order_by(Offer.id.desc()).limit(20)
            return [
                {"id": str(offer.id), "title": offer.title, "price_minor": offer.price_minor}
                for offer in await session.scalars(statement)
            ]

    @app.post("/sync/{merchant_id}")
    async def sync(merchant_id: int) -> dict[str, int]:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            items = [Item.model_validate(item) for item in (await client.get(feed_url)).json()["items"]]
        async with sessions() as session, session.begin():
            for start in range(0, len(items), 1000):
                rows = [_row(merchant_id, item) for item in items[start : start + 1000]]
                statement = insert(Offer).values(rows)
                changed = {name: statement.excluded[name] for name in ("title", "url", "price_minor")}
                await session.execute(
                    statement.on_conflict_do_update(index_elements=["merchant_id", "external_id"], set_=changed)
                )
        return {"offers": len(items)}

    return app


def _row(merchant_id: int, item: Item) -> dict[str, Any]:
    return {
        "id": new_id(),
        "merchant_id": merchant_id,
        "external_id": item.id,
        "title": item.title,
        "url": item.url,
        "currency": item.price.currency,
        "price_minor": item.price.amount_minor,
        "price_max_minor": item.price.amount_minor,
        "content_hash": b"",
    }


if __name__ == "__main__":
    application = make_app(sys.argv[2], sys.argv[3])
    uvicorn.run(application, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
