"""A gateway and its model server at work in a network namespace without a way out: `unshare --net` runs this.

The last line that it prints is JSON: `statuses` of the requests; `left` counts packets that had no route and
`asked_names` datagrams that were sent meanwhile; `control` is what the first counts when something does leave.
"""

import asyncio
import fcntl
import json
import signal
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.processes import running, simulated
from tests.support.raw_http import ask, chat, eventually, head, request

SIOCSIFFLAGS = 0x8914
IFF_UP = 1


def raise_loopback() -> None:
    """Bring up the loopback interface, which a new namespace has, but not in use."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def counter(protocol: str, name: str) -> int:
    """One of the kernel's counters of this namespace."""
    lines = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines()]
    names, values = (line for line in lines if line[0] == f"{protocol}:")
    return int(values[names.index(name)])


async def work(folder: Path) -> list[int]:
    """Every kind of request, a reload and a stop; the statuses of the answers."""
    with simulated(folder / "sim") as sim:
        config: dict[str, Any] = {"backends": [{"url": sim.url, "type": "vllm"}]}
        with running(folder / "gateway", config) as gateway:
            await eventually(lambda: gateway.get("/health")[0] == 200, "it is ready")
            embedding = json.dumps({"model": "sim-small", "input": "Hello!"}).encode()
            answers = [
                await ask(gateway.port, request(chat())),
                await ask(gateway.port, request(chat(stream=False))),
                await ask(gateway.port, request(embedding, path="/v1/embeddings")),
                await ask(gateway.port, head("/v1/models", "GET")),
                await ask(gateway.port, head("/metrics", "GET")),
            ]
            gateway.send_signal(signal.SIGHUP)
            await eventually(lambda: "configuration reloaded" in gateway.output, "it is reloaded")
            answers.append(await ask(gateway.port, request(chat())))
    return [answer.status for answer in answers]


def main() -> None:
    """Run, and print what was seen."""
    raise_loopback()
    statuses = asyncio.run(work(Path(sys.argv[1])))
    left, asked_names = counter("Ip", "OutNoRoutes"), counter("Udp", "OutDatagrams")
    with suppress(OSError):
        socket.create_connection(("192.0.2.1", 80), timeout=1).close()
    control = counter("Ip", "OutNoRoutes") - left
    print(json.dumps({"statuses": statuses, "left": left, "asked_names": asked_names, "control": control}))


if __name__ == "__main__":
    main()
