"""A JSON object a line."""

from tests.sync.world import World, counts


async def test_lines_that_are_no_offers_are_rejected_and_the_others_kept(world: World) -> None:
    good = [f'{{"id": {n}, "title": "P", "price": "{n}.50", "url": "https://x.example/{n}"}}' for n in range(1, 21)]
    bad = ["{", "[1]", "7", "{} {}", '{"id": NaN}', "[" * 50_000, '{"id": ' + "1" * 5000 + "}"]
    lines = [*good, *bad]
    world.server.serve("\ufeff" + "\r\n".join([*lines, "", "   ", ""]))
    await world.set_feed(mapping={"preset": "direct-ndjson"})
    job = await world.sync()
    assert counts(job) == {"fetched": 27, "created": 20, "rejected": 7}
    reasons = [sample["reason"] for sample in job["rejected_samples"]]
    assert reasons[0].startswith("not readable as JSON: Expecting property name")
    assert reasons[1:3] == ["the item is not an object", "the item is not an object"]
    assert reasons[3:6] == [
        "not readable as JSON: Extra data: line 1 column 4 (char 3)",
        "not readable as JSON: NaN is not JSON",
        "not readable as JSON: nested too deep",
    ]
    assert reasons[6].startswith("not readable as JSON: Exceeds the limit")


async def test_numbers_are_exact_and_bytes_are_utf_8(world: World) -> None:
    lines = [
        b'{"id": 1, "title": "A", "price": 90071992547409.93, "url": "https://x.example/1"}',
        b'{"id": 2, "title": "Caf\xe9", "price": 1, "url": "https://x.example/2"}',
        *(b'{"id": %d, "title": "A", "price": 1, "url": "https://x.example/3"}' % n for n in range(3, 9)),
    ]
    world.server.serve(b"\n".join(lines) + b"\n")
    await world.set_feed(mapping={"preset": "direct-ndjson"})
    job = await world.sync()
    assert job["rejected_samples"] == [{"row": 2, "reason": "the line is not in UTF-8"}]
    assert (await world.live())["1"].price_minor == 9007199254740993
