"""Kills a process that writes to a ledger, again and again, and looks at what is left."""

import asyncio
import os
import random
import select
import signal
import sqlite3
import time
from pathlib import Path

from tests.support.empty_stores import empty_store
from tests.support.ledger_child import recover, work
from zuebee.ledger.audit import reading, verify

START_TIMEOUT_S = 30.0


class Kills:
    """What was said and what was found, over all kills of one file."""

    def __init__(self, path: Path, *, mode: str = "", seed: int = 1) -> None:
        self.path = path
        self.kills = 0
        self.acknowledged: set[str] = set()
        self.tried: set[str] = set()
        self.stored: set[str] = set()
        self._mode = mode
        self._chance = random.Random(seed)
        empty_store(path)

    @property
    def lost(self) -> set[str]:
        return self.acknowledged - self.stored

    @property
    def ghosts(self) -> set[str]:
        return self.stored - self.tried

    def kill(self) -> None:
        """Start the writer, let it work for 2 to 30 ms, kill it, read what it said."""
        self.kills += 1
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(ours)
                work(str(self.path), self.kills * 1_000_000, self._mode, theirs)
            finally:
                os._exit(1)
        os.close(theirs)
        with open(ours, "rb") as pipe:
            assert select.select([pipe], [], [], START_TIMEOUT_S)[0], "the writer says nothing"
            time.sleep(self._chance.uniform(0.002, 0.03))
            os.kill(child, signal.SIGKILL)
            said = pipe.read().decode()
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the writer ended by itself"
        for line in said.split("\n")[:-1]:  # what follows the last line break was cut off by the kill
            word, _, name = line.partition(" ")
            (self.tried if word == "try" else self.acknowledged).add(name)

    def look(self) -> None:
        """Read what is stored, as the next start would find it; what only a journal has is brought in by one."""
        if self._mode in ("journal", "deaf"):
            asyncio.run(recover(str(self.path), self._mode))
        connection = sqlite3.connect(self.path)
        rows = connection.execute("SELECT kind, hold FROM ledger_entries WHERE kind IN ('reserve', 'post', 'void')")
        self.stored = {f"{'r' if kind == 'reserve' else 's'}{hold}" for kind, hold in rows}
        connection.close()

    def check(self) -> None:
        """Nothing acknowledged is lost, nothing is there that nobody asked for, and the ledger is right."""
        self.look()
        assert not self.lost, f"acknowledged, and lost: {sorted(self.lost)[:5]}"
        assert not self.ghosts, f"nobody asked for: {sorted(self.ghosts)[:5]}"
        with reading(str(self.path)) as connection:
            found = next(iter(verify(connection)), None)
        assert found is None, found
