"""A server without guards, for the control of the attacks: it does what is asked of it at once, and keeps it all."""

import asyncio
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.attacks import ROOT
from tests.support.processes import Process, until

MOST = 1000
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n" + b"y" * 60000
WORK_S = 0.001


class Naive(asyncio.Protocol):
    """Answers as many requests as come, whether or not anybody reads, and holds what it received."""

    count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.received = b""
        Naive.count += 1
        if Naive.count > MOST:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        Naive.count -= 1

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        while end:
            length = re.search(rb"(?i)content-length: (\d+)", head)
            size = int(length[1]) if length else 0
            if len(body) < size:
                return
            self.received = body[size:]
            until_s = time.perf_counter() + WORK_S
            while time.perf_counter() < until_s:
                pass
            self.transport.write(ANSWER)
            head, end, body = self.received.partition(b"\r\n\r\n")


class NaiveProcess(Process):
    """It as a process."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "naive.log"
        with self.log.open("wb") as sink:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "tests.support.naive_server"], cwd=ROOT, stdout=sink, stderr=sink
            )
        self.url = until(lambda: self._find(re.compile(r"ready at (\S+)")), "the naive server is ready")


@contextmanager
def naive() -> Iterator[NaiveProcess]:
    """A running one."""
    with tempfile.TemporaryDirectory() as folder:
        process = NaiveProcess(Path(folder))
        try:
            yield process
        finally:
            process.popen.kill()
            process.popen.wait()


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Naive, "127.0.0.1", 0)
    print(f"ready at http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
