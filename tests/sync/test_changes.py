"""What a sync does to a merchant's offers."""

from sqlalchemy import select, update

from app.db import transaction
from app.models import Merchant, Offer
from tests.factories import make_category, make_merchant, make_offer
from tests.feed_server import Reply, Request, document, offers
from tests.sync.world import World, counts


async def test_first_sync_creates_every_offer(world: World) -> None:
    world.server.serve(document(offers(50)))
    await world.set_feed()
    job = await world.sync()
    assert (job["status"], job["error"], counts(job)) == ("succeeded", None, {"fetched": 50, "created": 50})
    live = await world.live()
    assert len(live) == 50
    offer = live["sku-000007"]
    assert (offer.title, offer.price_minor, offer.currency) == ("Product number 7", 1007, "PKR")


async def test_changed_removed_and_returned_offers_are_counted_exactly(world: World) -> None:
    await world.set_feed(max_loss_basis_points=5000)
    world.server.serve(document(offers(100)))
    assert counts(await world.sync()) == {"fetched": 100, "created": 100}
    before = await world.live()

    # 10 changed, 20 gone, 5 new.
    world.server.serve(document(offers(10, price_minor=2000) + offers(70, start=11) + offers(5, start=101)))
    job = await world.sync()
    assert counts(job) == {"fetched": 85, "created": 5, "updated": 10, "unchanged": 70, "removed": 20}
    after = await world.live()
    assert len(after) == 85
    assert after["sku-000001"].id == before["sku-000001"].id
    assert after["sku-000001"].price_minor == 2001
    # Rows that did not change were not touched.
    assert after["sku-000050"].updated_at == before["sku-000050"].updated_at

    # The 20 come back, with the ids that clicks and orders know.
    world.server.serve(document(offers(105)))
    job = await world.sync()
    assert counts(job) == {"fetched": 105, "updated": 30, "unchanged": 75}
    assert (await world.live())["sku-000095"].id == before["sku-000095"].id
    assert await world.staged() == 0


async def test_the_same_content_is_not_parsed_again(world: World) -> None:
    world.server.serve(document(offers(30)))
    await world.set_feed()
    await world.sync()
    job = await world.sync()
    assert (job["status"], counts(job)) == ("succeeded", {"fetched": 30, "unchanged": 30})
    assert len(world.server.requests) == 2
    assert "if-none-match" not in world.server.requests[1].headers


async def test_not_modified_is_believed(world: World) -> None:
    def route(request: Request) -> Reply:
        if request.headers.get("if-none-match") == '"v1"':
            return Reply(status=304)
        return Reply(document(offers(30)), headers={"ETag": '"v1"', "Last-Modified": "Sun, 22 Nov 2026 10:00:00 GMT"})

    world.server.routes["/feed"] = route
    await world.set_feed()
    await world.sync()
    job = await world.sync()
    assert (job["status"], counts(job)) == ("succeeded", {"fetched": 30, "unchanged": 30})
    asked = world.server.requests[-1].headers
    assert (asked["if-none-match"], asked["if-modified-since"]) == ('"v1"', "Sun, 22 Nov 2026 10:00:00 GMT")

    # A definition that changed is read in full.
    await world.set_feed(mapping={"preset": "direct-json", "fields": {"brand": None}})
    job = await world.sync()
    assert counts(job) == {"fetched": 30, "updated": 30}
    assert "if-none-match" not in world.server.requests[-1].headers
    assert (await world.live())["sku-000001"].brand is None


async def test_saving_the_same_definition_keeps_what_is_known(world: World) -> None:
    world.server.serve(document(offers(3)))
    await world.set_feed()
    await world.sync()
    await world.set_feed(max_loss_basis_points=1000, interval_seconds=60)
    assert (await world.feed()).content_hash is not None
    assert counts(await world.sync()) == {"fetched": 3, "unchanged": 3}


async def test_last_row_of_an_id_counts(world: World) -> None:
    rows = [*offers(10), *offers(2, price_minor=5000)]
    world.server.serve(document(rows))
    await world.set_feed()
    job = await world.sync()
    assert counts(job) == {"fetched": 12, "created": 10, "rejected": 2}
    assert job["rejected_samples"] == [
        {"row": 1, "reason": "external_id 'sku-000001' comes again later; the last counts"},
        {"row": 2, "reason": "external_id 'sku-000002' comes again later; the last counts"},
    ]
    assert (await world.live())["sku-000001"].price_minor == 5001


async def test_category_is_the_feeds_or_else_the_merchants(world: World) -> None:
    async with transaction() as session:
        shoes = await make_category(session, slug="shoes")
        own = await make_category(session)
        await session.execute(update(Merchant).where(Merchant.id == world.merchant.id).values(category_id=own.id))
    rows = offers(4)
    rows[0]["category"], rows[1]["category"], rows[2]["category"] = "Shoes", "unheard of", None
    world.server.serve(document(rows))
    await world.set_feed()
    await world.sync()
    live = await world.live()
    assert [live[f"sku-00000{number}"].category_id for number in (1, 2, 3, 4)] == [shoes.id, own.id, own.id, shoes.id]


async def test_other_merchants_offers_are_left_alone(world: World) -> None:
    async with transaction() as session:
        other = await make_merchant(session)
        await make_offer(session, other, external_id="sku-000001", title="Theirs")
    world.server.serve(document(offers(2)))
    await world.set_feed()
    assert counts(await world.sync()) == {"fetched": 2, "created": 2}
    async with transaction() as session:
        theirs = await session.scalars(select(Offer).where(Offer.merchant_id == other.id))
        assert [(offer.title, offer.removed_at) for offer in theirs] == [("Theirs", None)]


async def test_losing_more_than_the_limit_changes_nothing(world: World) -> None:
    world.server.serve(document(offers(100)))
    await world.set_feed(max_loss_basis_points=3000)
    await world.sync()

    world.server.serve(document(offers(69, price_minor=9000)))
    job = await world.sync()
    assert (job["status"], counts(job)) == ("failed", {"fetched": 69})
    assert job["error"] == (
        "31 of 100 live offers are not in the feed, more than the feed's limit of 30 % allows; they were kept."
        " If it is right, raise the feed's max_loss_basis_points for one sync."
    )
    live = await world.live()
    assert len(live) == 100
    assert live["sku-000001"].price_minor == 1001
    assert await world.staged() == 0

    # 30 of 100 is the limit, not more than it. And the failed version was not remembered as known.
    world.server.serve(document(offers(70)))
    assert counts(await world.sync()) == {"fetched": 70, "unchanged": 70, "removed": 30}


async def test_an_empty_feed_never_empties_the_shop(world: World) -> None:
    world.server.serve(document(offers(3)))
    await world.set_feed(max_loss_basis_points=10_000)
    await world.sync()
    world.server.serve(document([]))
    job = await world.sync()
    assert job["status"] == "failed"
    assert job["error"].startswith("The feed has no offers, 3 are live; they were kept.")
    assert len(await world.live()) == 3


async def test_an_empty_first_feed_is_no_failure(world: World) -> None:
    world.server.serve(document([]))
    await world.set_feed()
    job = await world.sync()
    assert (job["status"], counts(job)) == ("succeeded", {})


async def test_too_many_bad_rows_change_nothing(world: World) -> None:
    rows = offers(10)
    for row in rows[:4]:
        row["price"] = "cheap"
    world.server.serve(document(rows))
    await world.set_feed()
    job = await world.sync()
    assert (job["status"], counts(job)) == ("failed", {"fetched": 10, "rejected": 4})
    assert job["error"] == (
        "4 of 10 rows were rejected, more than the feed's limit of 30 % allows; the offers were kept."
        " The first, row 1: price 'cheap' is not an amount."
    )
    assert len(job["rejected_samples"]) == 4
    assert await world.live() == {}


async def test_a_few_bad_rows_are_counted_and_the_rest_is_taken(world: World) -> None:
    rows = offers(20)
    rows[2]["price"] = {"amount_minor": 12.5, "currency": "PKR"}
    rows[3]["price"] = {"amount_minor": -1, "currency": "PKR"}
    rows[4]["title"] = "  "
    rows[5]["url"] = "javascript:alert(1)"
    world.server.serve(document(rows))
    await world.set_feed()
    job = await world.sync()
    assert (job["status"], counts(job)) == ("succeeded", {"fetched": 20, "created": 16, "rejected": 4})
    assert job["rejected_samples"] == [
        {"row": 3, "reason": "amount_minor 12.5 is not a whole number"},
        {"row": 4, "reason": "price -1 is below zero or too large"},
        {"row": 5, "reason": "title is empty"},
        {"row": 6, "reason": "url 'javascript:alert(1)' is not an http or https address"},
    ]


async def test_what_the_merchant_decides_is_applied_to_an_unchanged_feed(world: World) -> None:
    world.server.serve(document(offers(3)), ETag='"v1"')
    await world.set_feed()
    await world.sync()
    async with transaction() as session:
        category = await make_category(session)
        await session.execute(update(Merchant).where(Merchant.id == world.merchant.id).values(category_id=category.id))
    assert counts(await world.sync()) == {"fetched": 3, "updated": 3}
    assert "if-none-match" not in world.server.requests[-1].headers
    assert {offer.category_id for offer in (await world.live()).values()} == {category.id}
    assert counts(await world.sync()) == {"fetched": 3, "unchanged": 3}
