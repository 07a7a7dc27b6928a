"""PURE. Compressed answers, which nobody asked for (`accept-encoding: identity`), read as they come."""

import importlib
import sys
import zlib
from collections.abc import Iterator
from typing import Any, Final, Protocol

PIECE_BYTES: Final = 1 << 18
MAX_READ_BYTES: Final = 64 << 20
"""Of what one answer unpacks to, no more than this is looked at."""

READABLE: Final = (b"gzip", b"x-gzip", b"deflate", b"zstd")
SELDOM_READ: Final = (b"zstd",)
"""Codings that many clients cannot read: what comes in them is passed on without."""

MAX_WINDOW_LOG: Final = 23
"""Of zstd: windows of 8 MiB, the size that readers should support and writers should not exceed (RFC 8878, section
3.1.1.1.2).
"""

_GZIP_OR_ZLIB: Final = zlib.MAX_WBITS | 32
_BARE: Final = -zlib.MAX_WBITS


class _Inner(Protocol):
    """What unpacks one member of a file, or one frame."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class Unpacker:
    """Unpacks gzip, zlib, deflate without either's wrapping (RFC 9110, section 8.4.1.2), and zstd (RFC 8878).

    `broken`: it could not be read any further, or there was too much of it.
    """

    def __init__(self, coding: bytes) -> None:
        self.broken = False
        self._may_be_bare = coding == b"deflate"
        self._seen = b""
        self._read_bytes = 0
        self._is_zstd = coding == b"zstd"
        self._inner: _Inner = _Zstd() if self._is_zstd else zlib.decompressobj(_GZIP_OR_ZLIB)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What some more of the answer unpacks to, a piece of at most PIECE_BYTES at a time."""
        while data and not self.broken:
            if self._inner.eof:  # another member of a gzip file follows
                if self._is_zstd:
                    self._inner = _Zstd()
                elif data.startswith(b"\x1f\x8b"):
                    self._inner = zlib.decompressobj(_GZIP_OR_ZLIB)
                else:
                    return
            piece = self._unpack(data)
            self._read_bytes += len(piece)
            self.broken = self.broken or self._read_bytes > MAX_READ_BYTES
            if piece:
                yield piece
            data = self._inner.unused_data if self._inner.eof else self._inner.unconsumed_tail

    def _unpack(self, data: bytes) -> bytes:
        if self._may_be_bare:
            self._seen += data  # the two bytes that tell may come one by one
        try:
            piece = self._inner.decompress(data, PIECE_BYTES)
        except (zlib.error, BadZstd):
            if not self._may_be_bare:
                self.broken = True
                return b""
            self._inner = zlib.decompressobj(_BARE)
            self._may_be_bare = False
            return self._unpack(self._seen)
        if len(self._seen) > 1:
            self._may_be_bare = False
        return piece


class BadZstd(Exception):
    """It cannot be read, or not within bounds."""


class _Zstd:
    """One frame."""

    def __init__(self) -> None:
        # Of the standard library since Python 3.14; read when somebody sends it, which nobody was asked to do.
        self._zstd: Any = importlib.import_module(
            "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        )
        options = {self._zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG}
        self._frame = self._zstd.ZstdDecompressor(options=options)

    @property
    def eof(self) -> bool:
        return bool(self._frame.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._frame.unused_data)

    @property
    def unconsumed_tail(self) -> bytes:
        """What is left it holds itself: any data makes it go on."""
        return b"" if self._frame.needs_input else _GO_ON

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Raises BadZstd."""
        try:
            return bytes(self._frame.decompress(b"" if data is _GO_ON else data, max_length))
        except self._zstd.ZstdError as error:
            raise BadZstd from error


_GO_ON: Final = b"go on"
