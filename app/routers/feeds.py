"""Merchants' feeds for staff: where offers come from and how they are read."""

from typing import Annotated

from fastapi import APIRouter, Body, Path

from app.dependencies import Operator, SessionDep
from app.openapi import problems
from app.schemas.catalogue import MAX_MERCHANT_ID
from app.schemas.feeds import FeedRead, FeedWrite
from app.services.sync import feeds

router = APIRouter(prefix="/v1/admin/merchants", tags=["admin"], responses=problems(401, 403, 404))

MerchantIdPath = Annotated[int, Path(ge=1, le=MAX_MERCHANT_ID, examples=[42])]


@router.put("/{merchant_id}/feed", summary="Set a merchant's feed")
async def set_feed(
    session: SessionDep,
    _: Operator,
    merchant_id: MerchantIdPath,
    body: Annotated[
        FeedWrite,
        Body(
            openapi_examples={
                "shopify": {
                    "summary": "A product export, with its preset",
                    "value": {
                        "url": "https://shop.example/products_export.csv",
                        "mapping": {"preset": "shopify", "url_template": "https://shop.example/products/{Handle}"},
                    },
                },
                "direct-json": {
                    "summary": "JSON pages in our own form",
                    "value": {
                        "url": "https://feeds.shop.example/offers.json",
                        "mapping": {"preset": "direct-json"},
                        "interval_seconds": 3600,
                    },
                },
                "own": {
                    "summary": "Any other CSV",
                    "value": {
                        "url": "https://shop.example/feed.csv.gz",
                        "format": "csv",
                        "mapping": {
                            "delimiter": ";",
                            "fields": {"external_id": "sku", "title": "name", "price": "price", "url": "link"},
                        },
                    },
                },
            }
        ),
    ],
) -> FeedRead:
    """Set or replace the feed. A changed address or mapping is synced at once and in full."""
    feed = await feeds.set_feed(session, merchant_id=merchant_id, wanted=body)
    return FeedRead.model_validate(feed)


@router.get("/{merchant_id}/feed", summary="A merchant's feed")
async def get_feed(session: SessionDep, _: Operator, merchant_id: MerchantIdPath) -> FeedRead:
    """Show the feed with its complete mapping. Its address may hold a password, so this needs an operator."""
    return FeedRead.model_validate(await feeds.get_feed(session, merchant_id=merchant_id))
