"""Zip archives: the one file in them, or the one that is named, and nothing that is not right."""

import zipfile
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.services.sync.errors import FeedError
from app.services.sync.unzip import Unzip
from tests.feed_server import offers
from tests.memory import MIB, peak_growth
from tests.sync.shapes import NDJSON
from tests.sync.world import World, counts


def archive(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", method) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return packed.getvalue()


def unzip(content: bytes, *, member: str | None = None, piece: int = 1000) -> bytes:
    pieces: list[bytes] = []
    with Unzip(pieces.append, member=member, max_bytes=MIB) as unzipping:
        for start in range(0, len(content), piece):
            unzipping.write(content[start : start + piece])
        unzipping.finish()
    return b"".join(pieces)


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_what_is_no_archive_passes_through(piece: int) -> None:
    for content in (b"", b"P", b"PK", b"id,title\n1,A\n" * 100):
        assert unzip(content, piece=piece) == content


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_the_only_file_is_taken(method: int) -> None:
    content = bytes(range(256)) * 2000
    assert unzip(archive({"feed.csv": content}, method), piece=1) == content
    assert unzip(archive({"folder/": b"", "__MACOSX/._feed": b"x", "folder/feed.csv": content}, method)) == content


def test_of_several_files_the_named_one_is_taken() -> None:
    packed = archive({"a.csv": b"1", "b.csv": b"2"})
    assert unzip(packed, member="b.csv") == b"2"
    with pytest.raises(FeedError, match=r"has not one file; name it as `member`. It holds 'a.csv', 'b.csv'\."):
        unzip(packed)
    with pytest.raises(FeedError, match=r"has no file 'c.csv'. It holds 'a.csv', 'b.csv'\."):
        unzip(packed, member="c.csv")
    with pytest.raises(FeedError, match="has not one file"):
        unzip(archive({}))


def test_what_would_take_memory_or_a_password_is_refused() -> None:
    with pytest.raises(FeedError, match="compressed in another way than deflate"):
        unzip(archive({"a.csv": b"x" * 1000}, zipfile.ZIP_LZMA))
    with pytest.raises(FeedError, match="too many files"):
        unzip(archive({str(number): b"" for number in range(8000)}))
    with pytest.raises(FeedError, match="archive is larger than 1048576 bytes"):
        unzip(archive({"a.csv": bytes(2 * MIB)}, zipfile.ZIP_STORED))
    packed = bytearray(archive({"a.csv": b"x" * 1000}))
    packed[6] |= 1
    packed[packed.rindex(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(FeedError, match="needs a password"):
        unzip(bytes(packed))


def test_a_damaged_archive_is_refused() -> None:
    packed = archive({"a.csv": bytes(range(256)) * 100})
    for cut in (10, 100, len(packed) - 1):
        with pytest.raises(FeedError, match="damaged or cut short"):
            unzip(packed[:cut])
    stored = bytearray(archive({"a.csv": b"hello world" * 10}, zipfile.ZIP_STORED))
    stored[60] ^= 1
    with pytest.raises(FeedError, match="Bad CRC-32"):
        unzip(bytes(stored))


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=5))
@settings(max_examples=500)
def test_any_damage_is_a_feeds_error_and_never_another(changes: list[tuple[int, int]]) -> None:
    packed = bytearray(archive({"a.csv": b"id,title\n" * 30}))
    for place, value in changes:
        packed[place % len(packed)] = value
    try:
        content = unzip(bytes(packed))
    except FeedError as error:
        assert "zip archive" in str(error)  # noqa: PT017 - most examples are refused, some are read
    else:
        # Nothing that matters was hit, or it is no archive any more.
        assert content in {b"id,title\n" * 30, bytes(packed)}


async def test_a_zip_bomb_is_refused_with_memory_flat(world: World) -> None:
    """A gigabyte from a megabyte."""
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file, file.open("feed", "w", force_zip64=True) as member:
        for _ in range(1024):
            member.write(bytes(MIB))
    world.server.serve(packed.getvalue())
    await world.set_feed(mapping={"preset": "direct-ndjson"}, max_bytes=300 * MIB)
    with peak_growth() as growth:
        job = await world.sync()
    assert job["status"] == "failed"
    # Whichever limit is met first.
    assert "A line is longer than" in job["error"] or "larger than 314572800 bytes" in job["error"]
    assert growth.at_most(100 * MIB), growth


async def test_a_named_member_is_synced(world: World) -> None:
    world.server.serve(archive({"readme.txt": b"hello", "data/offers.ndjson": NDJSON.encode(offers(50))}))
    await world.set_feed(**NDJSON.feed(member="data/offers.ndjson"))
    assert counts(await world.sync()) == {"fetched": 50, "created": 50}
    assert counts(await world.sync()) == {"fetched": 50, "unchanged": 50}
