"""
A small mapped file that all workers of one master share: leases, counters of the rate limits, requests in flight.

Every operation holds a thread lock and an exclusive `flock` for a few microseconds. The kernel drops the file lock of a
killed process, leases end by themselves, and counts of processes that are gone are dropped, so `kill -9` leaves
nothing behind that lasts. Truths that must outlive the machine belong in the database, not here.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import secrets
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
#: Three numbers of one counter; all zero when the name is new or its time was over.
State = tuple[float, float, float]

_MAGIC = b"aimw-shared-1\0\0\0"
_HEADER = struct.Struct("=16sq")  # magic, requests in flight
_IN_FLIGHT = struct.Struct("=q")
_IN_FLIGHT_OFFSET = 16
_WORKER = struct.Struct("=qq")  # process id, requests in flight
_WORKERS = 256
_WORKERS_OFFSET = 64
_SLOT = struct.Struct("=16sddddq")  # digest of the name, three numbers, end of life (Unix seconds), owner
_SLOT_SIZE = 64
_SLOTS = 8192
_SLOTS_OFFSET = _WORKERS_OFFSET + _WORKERS * _WORKER.size
_SIZE = _SLOTS_OFFSET + _SLOTS * _SLOT_SIZE
#: Slots in which a name may live; when all are taken, the one that ends first makes room.
_REACH = 16
#: A lease that ends later than its holder could have asked for was taken before the wall clock was set back.
_CLOCK_SLACK_S = 1.0


class SharedTable:
    """Thread-safe, fork-safe and safe between processes. Names may be of any length."""

    def __init__(self, path: Path | str) -> None:
        """Open the file, or make it (0600) with its folder."""
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = -1
        self._place = -1
        self._open()
        with self._locked():
            self._map = mmap.mmap(self._file, _SIZE)
            if self._map[: len(_MAGIC)] != _MAGIC:
                self._map[:] = bytes(_SIZE)
                self._map[: len(_MAGIC)] = _MAGIC

    def close(self) -> None:
        """Close the file. This worker's requests in flight stay counted until its process ends."""
        with self._lock:
            if self._file >= 0:
                self._map.close()
                os.close(self._file)
                self._file = -1

    # -- leases ----------------------------------------------------------------------------------------

    def try_lease(self, name: str, ttl_s: float, now_wall: float) -> bool:
        """Take the lease for `ttl_s` seconds; False when somebody else, or this worker, holds it."""
        digest = _digest("lease", name)
        with self._locked():
            offset, found = self._find(digest, now_wall)
            ends_at = self._slot(offset)[4] if found else 0.0
            if now_wall < ends_at <= now_wall + max(ttl_s, 60.0) + _CLOCK_SLACK_S:
                return False
            self._write(offset, digest, (0.0, 0.0, 0.0), now_wall + ttl_s)
            return True

    def release_lease(self, name: str) -> None:
        """Give the lease back; does nothing when another worker holds it by now."""
        digest = _digest("lease", name)
        with self._locked():
            offset, found = self._find(digest, 0.0)
            if found and self._slot(offset)[5] == self._owner:
                self._map[offset : offset + _SLOT.size] = bytes(_SLOT.size)

    # -- counters --------------------------------------------------------------------------------------

    def update(self, name: str, step: Callable[[State], tuple[State, T]], ttl_s: float, now_wall: float) -> T:
        """
        Change a counter in one step that no other worker can interrupt; returns what `step` returns beside the state.

        ttl_s -- the state is forgotten this long after its last change
        """
        digest = _digest("counter", name)
        with self._locked():
            offset, found = self._find(digest, now_wall)
            state = self._slot(offset)[1:4] if found else (0.0, 0.0, 0.0)
            state, result = step(state)
            self._write(offset, digest, state, now_wall + ttl_s)
            return result

    # -- requests in flight ------------------------------------------------------------------------------

    def enter(self, most: int) -> bool:
        """Count one more request in flight; False, and not counted, when there are `most` already in all workers."""
        with self._locked():
            total = self._in_flight()
            if total >= most:
                total = self._recount()
                if total >= most:
                    return False
            self._add(1, total)
            return True

    def leave(self) -> None:
        """Count one request less."""
        with self._locked():
            self._add(-1, self._in_flight())

    def in_flight(self) -> int:
        """Requests in flight in all living workers."""
        with self._locked():
            return self._recount()

    def _in_flight(self) -> int:
        return int(_IN_FLIGHT.unpack_from(self._map, _IN_FLIGHT_OFFSET)[0])

    def _add(self, step: int, total: int) -> None:
        offset = self._worker_offset()
        process_id, count = _WORKER.unpack_from(self._map, offset)
        _WORKER.pack_into(self._map, offset, process_id, max(0, count + step))
        _IN_FLIGHT.pack_into(self._map, _IN_FLIGHT_OFFSET, max(0, total + step))

    def _worker_offset(self) -> int:
        """Where this process counts; takes a free place at first use. The last place is for all that find none."""
        if self._place < 0:
            process_id = os.getpid()
            places = [_WORKERS_OFFSET + index * _WORKER.size for index in range(_WORKERS)]
            taken = [_WORKER.unpack_from(self._map, place)[0] for place in places]
            if process_id in taken:
                index = taken.index(process_id)
            else:
                index = taken.index(0) if 0 in taken else _WORKERS - 1
                _WORKER.pack_into(self._map, places[index], process_id, 0)
            self._place = places[index]
        return self._place

    def _recount(self) -> int:
        """Drop the places of processes that are gone, and add up the others."""
        total = 0
        for index in range(_WORKERS):
            offset = _WORKERS_OFFSET + index * _WORKER.size
            process_id, count = _WORKER.unpack_from(self._map, offset)
            if process_id and not _is_alive(process_id):
                _WORKER.pack_into(self._map, offset, 0, 0)
            else:
                total += count
        _IN_FLIGHT.pack_into(self._map, _IN_FLIGHT_OFFSET, total)
        return total

    # -- slots -----------------------------------------------------------------------------------------

    def _slot(self, offset: int) -> tuple[bytes, float, float, float, float, int]:
        digest, first, second, third, ends_at, owner = _SLOT.unpack_from(self._map, offset)
        return digest, first, second, third, ends_at, owner

    def _write(self, offset: int, digest: bytes, state: State, ends_at: float) -> None:
        _SLOT.pack_into(self._map, offset, digest, *state, ends_at, self._owner)

    def _find(self, digest: bytes, now_wall: float) -> tuple[int, bool]:
        """Offset of the name's slot, and whether it holds something still; else of the best slot to put it in."""
        start = int.from_bytes(digest[:4], "big")
        best, best_end = -1, float("inf")
        for step in range(_REACH):
            offset = _SLOTS_OFFSET + (start + step) % _SLOTS * _SLOT_SIZE
            slot = self._slot(offset)
            if slot[0] == digest:
                return offset, slot[4] > now_wall
            if slot[4] < best_end:
                best, best_end = offset, slot[4]
        return best, False

    # -- locking ---------------------------------------------------------------------------------------

    def _open(self) -> None:
        """(Re)open the file for this process: a lock on an inherited descriptor would be the parent's as well."""
        self._process_id = os.getpid()
        self._lock = threading.Lock()
        self._owner = secrets.randbits(62)
        self._place = -1
        if self._file >= 0:
            os.close(self._file)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._file).st_size != _SIZE:
            os.ftruncate(self._file, _SIZE)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if self._process_id != os.getpid():
            self._open()
        with self._lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)


def _digest(kind: str, name: str) -> bytes:
    return hashlib.blake2b(f"{kind}:{name}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
