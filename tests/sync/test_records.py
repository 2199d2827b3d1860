"""Files of records between a header and a trailer, in full and as deltas."""

from typing import Any

import pytest

from tests.sync.world import World, counts

HEADER = "HDR|1237|Shop|11/25/2026 00:02:32"
_COLUMNS = 38


def product(number: int, *, retail: str = "20.00", sale: str = "", action: str | None = None) -> str:
    """A product in Rakuten's columns; with an action one of a delta."""
    values = [""] * _COLUMNS
    values[0], values[1], values[2], values[3] = str(number), f'24" product {number}', f"SKU{number}", "Shoes"
    values[5], values[6] = f"https://click.example/{number}", f"https://cdn.example/{number}.jpg"
    values[9], values[12], values[13] = "Long text", sale, retail
    values[16], values[22], values[25] = "Brand", "in stock", "PKR"
    return "|".join([*values, *([] if action is None else [action])])


def file(*rows: str, count: int | None = None, header: str = HEADER) -> str:
    return "\r\n".join([header, *rows, f"TRL|{len(rows) if count is None else count}", ""])


async def load(world: World, content: str, **feed: Any) -> dict[str, Any]:
    world.server.serve(content)
    await world.set_feed(**{"mapping": {"preset": "rakuten"}, **feed})
    return await world.sync()


async def delta(world: World, *rows: str, **feed: Any) -> dict[str, Any]:
    return await load(world, file(*rows), mapping={"preset": "rakuten-delta"}, **feed)


async def test_a_full_file(world: World) -> None:
    job = await load(world, file(product(1), product(2, retail="1,299.00", sale="999.50"), product(3, sale="0.00")))
    assert (job["error"], counts(job)) == (None, {"fetched": 3, "created": 3})
    live = await world.live()
    assert {key: offer.price_minor for key, offer in live.items()} == {"1": 2000, "2": 99950, "3": 2000}
    # A quote is a character like any other here.
    assert live["1"].title == '24" product 1'


async def test_a_delta_changes_what_it_names_and_nothing_else(world: World) -> None:
    await load(world, file(*map(product, range(1, 11))))
    before = await world.live()
    rows = [
        product(2, retail="21.00", action="U"),
        product(3, action="D"),
        product(4, action="U"),
        product(11, action="I"),
        product(99, action="D"),
    ]
    job = await delta(world, *rows)
    # Deletions are no offers; the one that nobody knew did nothing.
    assert (job["error"], counts(job)) == (
        None, {"fetched": 3, "created": 1, "updated": 1, "unchanged": 1, "removed": 1},
    )  # fmt: skip
    after = await world.live()
    assert set(after) == {"1", "2", "4", "5", "6", "7", "8", "9", "10", "11"}
    assert after["2"].price_minor == 2100
    assert after["5"].updated_at == before["5"].updated_at
    # The same delta again, from another address: nothing is left to do.
    again = await delta(world, *rows, url=world.server.url("/feed?again"))
    assert counts(again) == {"fetched": 3, "unchanged": 3}


async def test_of_several_changes_of_an_offer_the_last_counts(world: World) -> None:
    await load(world, file(*map(product, range(1, 6))))
    job = await delta(
        world,
        product(1, retail="1.00", action="U"),
        product(2, action="D"),
        product(1, retail="2.00", action="U"),
        product(2, retail="3.00", action="I"),
        product(3, retail="4.00", action="U"),
        product(3, action="D"),
    )
    assert counts(job) == {"fetched": 2, "updated": 2, "removed": 1}
    assert {key: offer.price_minor for key, offer in (await world.live()).items()} == {
        "1": 200, "2": 300, "4": 2000, "5": 2000,
    }  # fmt: skip


async def test_a_delta_may_be_empty(world: World) -> None:
    await load(world, file(*map(product, range(1, 6))))
    job = await delta(world)
    assert (job["status"], counts(job)) == ("succeeded", {})
    assert len(await world.live()) == 5


async def test_a_delta_that_deletes_too_much_changes_nothing(world: World) -> None:
    await load(world, file(*map(product, range(1, 11))))
    job = await delta(world, *(product(number, action="D") for number in range(1, 5)))
    assert job["error"] == (
        "4 of 10 live offers are deleted by the feed, more than the feed's limit of 30 % allows; they were kept."
        " If it is right, raise the feed's max_loss_basis_points for one sync."
    )
    assert len(await world.live()) == 10


async def test_an_action_that_is_not_known_rejects_its_row(world: World) -> None:
    rows = [product(number, action="I") for number in range(1, 10)]
    job = await delta(world, *rows, product(10, action="X"), product(11, action=""))
    assert counts(job) == {"fetched": 11, "created": 9, "rejected": 2}
    assert [sample["reason"] for sample in job["rejected_samples"]] == [
        "the action 'x' is not known",
        "the action '' is not known",
    ]


async def test_deltas_in_json_with_words_of_their_own(world: World) -> None:
    await world.set_feed(
        mapping={"preset": "direct-ndjson", "delta": {"field": "op", "delete": ["Gone"], "upsert": ["SET"]}}
    )
    lines = [
        f'{{"op": "set", "id": {n}, "title": "A", "price": 5, "url": "https://x.example/{n}"}}' for n in (1, 2, 3, 4)
    ]
    world.server.serve("\n".join([*lines, '{"op": "gone", "id": 4}', ""]))
    job = await world.sync()
    assert counts(job) == {"fetched": 3, "created": 3}
    assert set(await world.live()) == {"1", "2", "3"}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (file(product(1), count=2), "The trailer says 2 rows, the file has 1: it is not whole."),
        (file(product(1), product(2), count=1), "The trailer says 1 rows, the file has 2: it is not whole."),
        (file(product(1), header="<html>"), "The file does not begin with a HDR record."),
        ("", "The file does not begin with a HDR record."),
        (f"{HEADER}\n{product(1)}\n", "The file has no TRL record at its end: it is cut short."),
        (f"{HEADER}\n{product(1)}\nTRL|\n", "The trailer has no number of rows at place 1."),
        (f"{HEADER}\n{product(1)}\nTRL\n", "The trailer has no number of rows at place 1."),
        (f"{HEADER}\nTRL|0\n{product(1)}\n", "The file goes on behind its trailer."),
        (f"{HEADER}\n{product(1)[:60]}", "The file ends in the middle of a row: it is cut short."),
    ],
    ids=["fewer", "more", "no header", "empty", "no trailer", "no number", "short", "behind", "cut"],
)
async def test_a_file_whose_frame_is_not_right_changes_nothing(world: World, content: str, error: str) -> None:
    job = await load(world, content)
    assert (job["status"], job["error"]) == ("failed", error)
    assert await world.live() == {}


async def test_bad_rows_count_for_the_trailer(world: World) -> None:
    job = await load(world, file(*map(product, range(1, 8)), "8|short", product(9, retail="")))
    assert counts(job) == {"fetched": 9, "created": 7, "rejected": 2}
    assert job["rejected_samples"][0] == {"row": 8, "reason": "the row has 2 values, the header 38"}


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"preset": "rakuten-delta", "group_by": "product_id"}, "a delta cannot have variants"),
        ({"preset": "rakuten", "delimiter": None}, "columns and header_record need a delimiter"),
        ({"preset": "rakuten", "paging": {"kind": "next_url"}}, "next_url and cursor are read from pages"),
        ({"preset": "rakuten", "paging": {"kind": "page", "total": "x"}}, "paging.total and paging.pages"),
        ({"preset": "shopify", "trailer_count": 0}, "greater than or equal to 1"),
    ],
)
async def test_mappings_that_cannot_work_are_refused(world: World, mapping: dict[str, Any], said: str) -> None:
    body = {"url": world.server.url(), "mapping": mapping}
    answer = await world.client.put(f"/v1/admin/merchants/{world.merchant.id}/feed", json=body, headers=world.operator)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_feed_mapping")
    assert said in answer.json()["errors"][0]["msg"]
