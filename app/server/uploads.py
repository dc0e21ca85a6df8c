"""
What clients have sent of bodies that are not whole yet. Small ones wait in memory, large ones in unnamed temporary
files, and all of them together are bounded: thousands of half-sent uploads exhaust neither memory nor disk.

For the loop's own thread; only `Upload.open` gives something to another one.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import BinaryIO

KIB, MIB = 1024, 1024 * 1024
#: Up to here a body stays in its request and is not counted.
SMALL_BYTES = 16 * KIB
#: Beyond this a body goes to a file.
SPOOL_BYTES = MIB
#: In memory, all counted bodies together; then they go to files earlier.
MOST_MEMORY_BYTES = 64 * MIB
#: In files, all bodies together; then they are refused.
MOST_DISK_BYTES = 4 * 1024 * MIB


class UploadsFull(Exception):
    """Neither memory nor disk has room for what this client sends."""


class Uploads:
    """
    The room that one worker has for unfinished bodies.

    folder  -- where files go; None = the system's folder for temporary files
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.memory_bytes = 0
        self.disk_bytes = 0

    def has_memory(self, size: int) -> bool:
        return self.memory_bytes + size <= MOST_MEMORY_BYTES

    def has_disk(self, size: int) -> bool:
        return self.disk_bytes + size <= MOST_DISK_BYTES


class Upload:
    """One body, growing by `append`. Whoever holds it last calls `close`, which may be called again."""

    def __init__(self, room: Uploads) -> None:
        self._room = room
        self._memory = bytearray()
        self._file: BinaryIO | None = None
        self._in_file = 0
        self._counted = 0

    @property
    def in_file(self) -> bool:
        return self._file is not None

    def append(self, data: bytes | bytearray) -> None:
        """Raises UploadsFull."""
        size = len(data)
        if self._file is None and len(self._memory) + size <= SPOOL_BYTES and self._room.has_memory(size):
            self._memory += data
            self._counted += size
            self._room.memory_bytes += size
            return
        try:
            self._write(data)
        except OSError as error:
            raise UploadsFull from error

    def take(self, most: int) -> bytes:
        """The first `most` bytes. Raises UploadsFull where a file can't be read back."""
        if self._file is None:
            return bytes(memoryview(self._memory)[:most])
        try:
            self._file.seek(0)
            return self._file.read(most)
        except OSError as error:
            raise UploadsFull from error

    def open(self) -> BinaryIO:
        """To read from the start. Good until `close`."""
        if self._file is None:
            return io.BytesIO(self._memory)
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        room = self._room
        room.memory_bytes -= self._counted
        room.disk_bytes -= self._in_file
        self._counted = self._in_file = 0
        self._memory = bytearray()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, data: bytes | bytearray) -> None:
        held = self._memory
        if not self._room.has_disk(len(held) + len(data)):
            raise UploadsFull
        if self._file is None:
            # Unbuffered: what is written has reached the system, or there was no room for it. `close` closes it.
            self._file = tempfile.TemporaryFile(dir=self._room.folder, buffering=0)  # noqa: SIM115
            self._memory = bytearray()
            self._room.memory_bytes -= self._counted
            self._counted = 0
            self._append_to_file(held)
        self._append_to_file(data)

    def _append_to_file(self, data: bytes | bytearray) -> None:
        assert self._file is not None
        rest = memoryview(data)
        while rest:
            written = self._file.write(rest)
            rest = rest[written:]
            self._in_file += written
            self._room.disk_bytes += written


#: What a connection uses that was given no other.
EVERYBODY = Uploads()
