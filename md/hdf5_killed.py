"""An HDF5 file that was not closed, read as if it had been.

HDF5 reads such a file as a single writer's reader (SWMR): a block of metadata whose checksum is wrong is read again, 100 times,
and the pause doubles every time, so that a block torn by a kill is waited for for ever. Here the file is shown to HDF5 with the
mark of its writer taken off; a torn block is then an error at once. Layout: HDF5 File Format Specification 3.0, II.A.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

SUPERBLOCK = 48
"""Bytes of versions 2 and 3 with 8-byte addresses: flags in byte 11, length of the file in 28 to 35, checksum in the last 4."""


class KilledFile(io.RawIOBase):
    """Read-only bytes of `path`: not marked as open, `size` bytes as it says it has. Beyond its end there are zeros."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb")  # noqa: SIM115
        self._head = unmarked(self._file.read(SUPERBLOCK))
        self.size = max(length(self._head), self._file.seek(0, os.SEEK_END))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        n = max(0, min(len(buffer), self.size - self._at))
        self._file.seek(self._at)
        text = self._file.read(n)
        head = self._head[self._at : self._at + n]
        buffer[:n] = head + text[len(head) :] + bytes(n - max(len(text), len(head)))
        self._at += n
        return n

    def close(self) -> None:
        self._file.close()
        super().close()


def marked(head: bytes) -> bool:
    """Whether a file that begins with these bytes was not closed."""
    return len(head) >= SUPERBLOCK and head[8] >= 2 and head[11] != 0


def length(head: bytes) -> int:
    """What the file says it is long, bytes."""
    return int.from_bytes(head[28:36], "little")


def unmarked(head: bytes) -> bytes:
    """The superblock of a file that was closed."""
    head = head[:11] + b"\0" + head[12 : SUPERBLOCK - 4]
    return head + lookup3(head).to_bytes(4, "little")


def lookup3(key: bytes) -> int:
    """Bob Jenkins' hash `lookup3` (public domain, 2006) with initial value 0: HDF5's checksum of metadata."""
    mask = 0xFFFFFFFF
    a = b = c = (0xDEADBEEF + len(key)) & mask

    def turn(x: int, k: int) -> int:
        return (x << k | x >> (32 - k)) & mask

    words = [int.from_bytes(key[k : k + 4], "little") for k in range(0, -(-len(key) // 12) * 12, 4)]
    for k in range(0, len(words), 3):
        a, b, c = a + words[k] & mask, b + words[k + 1] & mask, c + words[k + 2] & mask
        if k + 3 < len(words):
            for r in (4, 6, 8, 16, 19, 4):  # a, b, c take each other's place after every line
                a = (a - c & mask) ^ turn(c, r)
                c = c + b & mask
                a, b, c = b, c, a
    for r in (14, 11, 25, 16, 4, 14, 24):
        c = (c ^ b) - turn(b, r) & mask
        a, b, c = b, c, a
    return b  # the last of the lines above made it
