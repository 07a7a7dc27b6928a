import gzip
import zlib
from collections.abc import Callable

import pytest
from backports import zstd

from zuebee.models.unpacking import MAX_READ_BYTES, PIECE_BYTES, Unpacker

TEXT = b"some text, " * 1000


def bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


WAYS = [(gzip.compress, b"gzip"), (zlib.compress, b"deflate"), (bare, b"deflate"), (zstd.compress, b"zstd")]


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize(("pack", "coding"), WAYS)
def test_it_is_unpacked_as_it_comes(pack: Callable[[bytes], bytes], coding: bytes, size: int) -> None:
    packed = pack(TEXT)
    unpacker = Unpacker(coding)
    parts = [packed[at : at + size] for at in range(0, len(packed), size)]
    assert b"".join(piece for part in parts for piece in unpacker.pieces(part)) == TEXT
    assert not unpacker.broken


def test_members_of_a_file_follow_one_another_and_what_is_behind_is_left() -> None:
    unpacker = Unpacker(b"gzip")
    assert b"".join(unpacker.pieces(gzip.compress(b"a") + gzip.compress(b"b") + b"\0\0\0")) == b"ab"
    unpacker = Unpacker(b"zstd")
    assert b"".join(unpacker.pieces(zstd.compress(b"a") + zstd.compress(b"b"))) == b"ab"
    assert not unpacker.broken


def test_what_cannot_be_unpacked_is_broken() -> None:
    for coding in (b"gzip", b"deflate", b"zstd"):
        unpacker = Unpacker(coding)
        assert b"".join(unpacker.pieces(b"\xff\xff nonsense")) == b""
        assert unpacker.broken


@pytest.mark.slow
@pytest.mark.parametrize(("pack", "coding"), [WAYS[0], WAYS[3]])
def test_a_bomb_is_never_held_and_not_read_to_its_end(pack: Callable[[bytes], bytes], coding: bytes) -> None:
    unpacker = Unpacker(coding)
    sizes = [len(piece) for piece in unpacker.pieces(pack(bytes(2 * MAX_READ_BYTES)))]
    assert max(sizes) <= PIECE_BYTES
    assert MAX_READ_BYTES < sum(sizes) <= MAX_READ_BYTES + PIECE_BYTES
    assert unpacker.broken


def test_a_window_that_would_take_too_much_memory_is_refused() -> None:
    options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    packer = zstd.ZstdCompressor(options=options)
    packed = packer.compress(bytes(1 << 16)) + packer.flush()
    unpacker = Unpacker(b"zstd")
    assert b"".join(unpacker.pieces(packed)) == b""
    assert unpacker.broken
