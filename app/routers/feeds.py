"""Merchants' feeds for staff: where offers come from and how they are read."""

from typing import Annotated

from fastapi import APIRouter, Body, Path

from app.dependencies import SessionDep, SettingsDep, staff_with
from app.models import Feed, StaffKey, StaffRole, StaffScope
from app.openapi import problems
from app.schemas.catalogue import MAX_MERCHANT_ID
from app.schemas.feeds import FeedPresetList, FeedRead, FeedTrial, FeedTry, FeedWrite
from app.services.sync import dry_run, feeds
from app.services.sync.presets import list_presets

router = APIRouter(prefix="/v1/admin", tags=["admin"], responses=problems(401, 403))

Viewer = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.FEEDS_READ)]
Reader = Annotated[StaffKey, staff_with(StaffRole.OPERATOR, StaffScope.FEEDS_READ)]
Setter = Annotated[StaffKey, staff_with(StaffRole.OPERATOR, StaffScope.FEEDS_WRITE, on=Feed, by="merchant_id")]

MerchantIdPath = Annotated[int, Path(ge=1, le=MAX_MERCHANT_ID, examples=[42])]


@router.get("/feed-presets", summary="Mappings that ship with the service")
async def list_feed_presets(_: Viewer) -> FeedPresetList:
    """List the presets with their mappings, each of which `mapping.preset` names."""
    return FeedPresetList.model_validate({"items": list_presets()})


@router.put("/merchants/{merchant_id}/feed", summary="Set a merchant's feed", responses=problems(404))
async def set_feed(
    session: SessionDep,
    settings: SettingsDep,
    _: Setter,
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
                "google-merchant": {
                    "summary": "A Google Merchant feed behind a password",
                    "value": {
                        "url": "https://shop.example/google.xml",
                        "credentials": {"kind": "basic", "username": "cashback", "password": "correct horse"},
                        "mapping": {"preset": "google-merchant"},
                    },
                },
                "cj": {
                    "summary": "XML pages of a network with a bearer token and 25 calls a minute",
                    "value": {
                        "url": "https://network.example/v2/product-search?advertiser-ids=42&records-per-page=500",
                        "credentials": {"kind": "bearer", "token": "not-a-real-token"},
                        "calls_a_minute": 25,
                        "mapping": {"preset": "cj"},
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
    feed = await feeds.set_feed(session, settings=settings, merchant_id=merchant_id, wanted=body)
    return FeedRead.model_validate(feed)


@router.get("/merchants/{merchant_id}/feed", summary="A merchant's feed", responses=problems(404))
async def get_feed(session: SessionDep, _: Reader, merchant_id: MerchantIdPath) -> FeedRead:
    """Show the feed with its complete mapping. Of its credentials only the kind is shown."""
    return FeedRead.model_validate(await feeds.get_feed(session, merchant_id=merchant_id))


@router.post("/merchants/{merchant_id}/feed/dry-run", summary="Try a sample of a feed", responses=problems(404))
async def try_feed(session: SessionDep, _: Setter, merchant_id: MerchantIdPath, body: FeedTry) -> FeedTrial:
    """Show what a sync would make of a pasted sample, and why rows would be rejected. Nothing is stored or fetched."""
    return await dry_run.try_feed(session, merchant_id=merchant_id, wanted=body)
