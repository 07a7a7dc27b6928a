"""Nonces that outlive their process: what was used before a restart cannot be used after it."""

import asyncio
import os
from pathlib import Path
from threading import Lock

from zuebee.auth.nonces import MemoryNonces
from zuebee.kit import clock

LIFE_S = 610.0
"""No nonce is remembered for longer: twice the window of a timestamp, and some seconds."""


class KeptNonces:
    """The nonces of one process, in memory and in two files that are written in turn.

    A file is begun anew when all that the other one holds is forgotten, so none grows beyond what comes in LIFE_S. The
    operating system has a nonce before its request is let in: that survives the process, however it ends. Raises
    OSError when made.
    """

    def __init__(self, path: Path) -> None:
        """`path`: of the files, but for `.0` and `.1` behind it."""
        self._memory = MemoryNonces()
        self._paths = [path.with_name(f"{path.name}.{number}") for number in (0, 1)]
        self._lock = Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        for each in self._paths:
            os.close(os.open(each, os.O_RDWR | os.O_CREAT, 0o600))
            self._read(each)
        newer, older = sorted((each.stat().st_mtime, each) for each in self._paths)[::-1]
        self._paths = [newer[1], older[1]]
        self._turn_at_s = clock.monotonic_s() + older[0] + LIFE_S - clock.wall_s()

    async def seen(self, client: str, nonce: str, ttl_s: float) -> bool:
        """See `Nonces.seen`."""
        if await self._memory.seen(client, nonce, ttl_s):
            return True
        line = f"{clock.wall_s() + ttl_s:.3f} {client} {nonce}\n".encode()
        await asyncio.to_thread(self._append, line)
        return False

    async def aclose(self) -> None:
        """There is nothing to let go of; what is remembered stays."""

    def _append(self, line: bytes) -> None:
        with self._lock:
            fresh = clock.monotonic_s() >= self._turn_at_s
            if fresh:
                self._paths.reverse()
                self._turn_at_s = clock.monotonic_s() + LIFE_S
            with self._paths[0].open("wb" if fresh else "ab", buffering=0) as file:
                before = file.tell()
                if file.write(line) != len(line):
                    file.truncate(before)  # half a line would spoil the next
                    raise OSError("the nonce could not be written")

    def _read(self, path: Path) -> None:
        """Remember what still counts. A last line that was cut off was of a request that nobody let in."""
        now_s = clock.wall_s()
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(path, len(whole))
        for line in whole.splitlines():
            try:
                ends_at_s, client, nonce = line.decode("ascii").split(" ")
                ttl_s = float(ends_at_s) - now_s
            except ValueError:
                raise OSError(f"{path}: not a file of nonces") from None
            if 0 < ttl_s <= LIFE_S:
                self._memory.note(client, nonce, ttl_s)
