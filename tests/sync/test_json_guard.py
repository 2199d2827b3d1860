"""What protects the JSON parser judges exactly, wherever the pieces are cut."""

import io

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.services.sync.errors import UnreadableFeedError
from app.services.sync.readers.json_guard import MAX_DEPTH, GuardedJson

texts = st.text(alphabet='[]{}"\\ab,:\n', max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=30,
)


class Raw(io.RawIOBase):
    """Bytes as a raw file."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # io's Buffer, once in typing
        return self._content.readinto(buffer)


def read_all(content: bytes, size: int) -> bytes:
    guarded = GuardedJson(Raw(content), limit_items=False)
    return b"".join(iter(lambda: guarded.read(size), b""))


@given(values, st.integers(3, 9))
@settings(max_examples=200)
def test_real_json_passes_however_it_is_cut(value: object, size: int) -> None:
    content = orjson.dumps(value)
    assert read_all(content, size) == content


@given(values, st.integers(3, 9))
@settings(max_examples=100)
def test_depth_is_counted_exactly_around_any_texts(value: object, size: int) -> None:
    padding = orjson.dumps(value)
    deep = b"[" + padding + b"," + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"]"
    assert read_all(deep, size) == deep
    with pytest.raises(UnreadableFeedError, match="nests deeper"):
        read_all(b"[" + deep + b"]", size)


@pytest.mark.parametrize("content", [b'"' + b"x" * 2_200_000, b"[" + b"1" * 2_200_000, b'["' + b'\\"' * 2_200_000])
def test_one_long_token_is_refused(content: bytes) -> None:
    with pytest.raises(UnreadableFeedError, match="longer than"):
        read_all(content, 65_536)
