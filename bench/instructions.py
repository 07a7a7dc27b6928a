"""Instructions per request, counted with callgrind: the same figure each time, whatever else the machine does.

Run with `python -m bench.instructions [NAME=TREE ...]` from the top of the repository; README.md says what it means.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import machine, peers, trees
from bench.client import chat_body, chat_request
from bench.services import Running, Service, Unusable, running

CONNECTIONS = 8
WARM_UP = 400
REQUESTS = 2000
STREAMS = 100
_COUNTED = re.compile(r"Collected : (\d+)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Count and print. Return 1 if a program is missing or a request failed."""
    parser = argparse.ArgumentParser(prog="bench.instructions", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("trees", nargs="*", metavar="NAME=TREE", help="folders with a `zuebee`; default: this one")
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    chosen = dict(each.split("=", 1) for each in options.trees) or {"zuebee": str(trees.chosen())}
    found: dict[str, dict[str, float]] = {}
    try:
        for name, tree in chosen.items():
            found[name] = {
                "request": _count(Path(tree), stream=False, count=options.requests),
                "stream": _count(Path(tree), stream=True, count=options.streams),
            }
            print(_line(name, found[name], next(iter(found.values()))), flush=True)
    except (Unusable, ConnectionError) as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))
    return 0


def _line(name: str, counts: dict[str, float], first: dict[str, float]) -> str:
    shown = (f"{kind} {count:>11,.0f} ({count / first[kind] - 1:+.1%})" for kind, count in counts.items())
    return f"{name:<12} {'   '.join(shown)}   instructions"


def _count(tree: Path, *, stream: bool, count: int) -> float:
    """The instructions of one request: those of many, divided. What is done once is done before."""
    request = chat_request(chat_body(stream=stream, pause_ms=0))
    cores = machine.share_cores()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        directory = Path(folder)
        with running(peers.upstream(directory), cores.load, directory) as upstream:
            service = _under_callgrind(peers.zuebee_of(tree, directory, upstream.port), directory)
            with running(service, cores.proxy, directory) as gateway, _Crowd(gateway.port) as crowd:
                warm_up = CONNECTIONS if stream else WARM_UP
                _control(gateway, "-i", "on")
                crowd.ask(request, warm_up, lenient=True)  # all code is translated anew, and too slow meanwhile
                _control(gateway, "-z")
                crowd.ask(request, count)
                _control(gateway, "-i", "off")
            log = (directory / f"{service.name}.log").read_text(errors="replace")
    counted = _COUNTED.findall(log)
    if not counted:
        raise Unusable(f"callgrind counted nothing:\n{log[-500:]}")
    return sum(map(int, counted)) / count


def _under_callgrind(service: Service, directory: Path) -> Service:
    tool = [
        peers.find("valgrind"), "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={directory}/out.%p",
    ]  # fmt: skip
    environment = {**service.environment, "PYTHONHASHSEED": "0"}
    return Service(service.name, [*tool, *service.command], service.port, service.ready_path, environment, 180.0)


def _control(gateway: Running, *what: str) -> None:
    order = ["callgrind_control", *what, str(gateway.pid)]
    done = subprocess.run(order, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        raise Unusable(f"callgrind_control: {done.stdout[-300:]}{done.stderr[-300:]}")


class _Crowd:
    """A few connections that all ask at once, again and again, so that each round finds the same work."""

    def __init__(self, port: int) -> None:
        self._sockets = [socket.create_connection(("127.0.0.1", port), timeout=120) for _ in range(CONNECTIONS)]

    def __enter__(self) -> "_Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()

    def ask(self, request: bytes, count: int, *, lenient: bool = False) -> None:
        """So many requests. Raises ConnectionError, also when one is refused, unless `lenient`."""
        for _ in range(count // CONNECTIONS):
            for each in self._sockets:
                each.sendall(request)
            for each in self._sockets:
                if not _read(each) and not lenient:
                    raise ConnectionError("a request was refused")


def _read(sock: socket.socket) -> bool:
    """Read an answer; whether it is a good one."""
    received = bytearray()
    while not _is_whole(received):
        data = sock.recv(65536)
        if not data:
            raise ConnectionError(f"closed after {bytes(received[-200:])!r}")
        received += data
    return received.startswith(b"HTTP/1.1 200")


def _is_whole(received: bytearray) -> bool:
    head, end, body = bytes(received).partition(b"\r\n\r\n")
    if not end:
        return False
    if b"transfer-encoding: chunked" in head:
        return body.endswith(b"0\r\n\r\n")
    return len(body) >= int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])


if __name__ == "__main__":
    sys.exit(main())
