"""Bodies that are dear to look at, from one address: others hardly wait, and memory comes back."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.bodies import SHAPES, by_chance
from tests.support.grpc_peers import SERVICES, grpc_port
from tests.support.processes import KEY, Gateway, running, simulated, until
from tests.support.raw_http import request

pytestmark = pytest.mark.alone

AT_ONCE = 4
SLOWER_S = 0.25
MORE_BYTES = 64 << 20
QUIET_S = 0.7
SMALL = json.dumps({"model": "sim-small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}).encode()
HEADERS = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
CALLS = {
    "messages": b"\x4a\x00",
    "roles": b"\x4a\x03\x0a\x01u",
    "stop": b"\x52\x00",
    "extra": b"\x72\x02\x0a\x00",
    "unknown": b"\xa0\x06\x01",
}


class Watch:
    """What honest callers wait for, and the most memory that is taken meanwhile."""

    def __init__(self, gateway: Gateway) -> None:
        self.base_bytes = self.most_bytes = gateway.resident_bytes
        self._gateway = gateway

    def p99_s(self, seconds: float, is_enough: Callable[[], bool] = lambda: True) -> float:
        """Ask again and again, for so long or until it is enough; the wait that one of a hundred is longer than."""
        connection = http.client.HTTPConnection("127.0.0.1", self._gateway.port, timeout=30)
        waits, until_s = [], time.monotonic() + seconds
        while (begun_s := time.monotonic()) < until_s or not is_enough():
            assert begun_s < until_s + 60, "the attack does not go on"
            connection.request("POST", "/v1/chat/completions", SMALL, HEADERS)
            answer = connection.getresponse()
            answer.read()
            waits.append(time.monotonic() - begun_s)
            assert answer.status == 200
            self.most_bytes = max(self.most_bytes, self._gateway.resident_bytes)
            time.sleep(0.002)
        connection.close()
        return sorted(waits)[len(waits) * 99 // 100]


@contextmanager
def attacked(attack: Callable[[int], None], at_once: int = AT_ONCE) -> Iterator[list[int]]:
    """Run an attack again and again meanwhile, with a number that counts; the numbers of those that are over."""
    over, numbers = threading.Event(), count()
    tried: list[int] = []
    failures: list[BaseException] = []

    def loop() -> None:
        while not over.is_set():
            number = next(numbers)
            try:
                attack(number)
            except OSError:
                pass  # refused while it was still being sent
            except BaseException as error:
                failures.append(error)
                return
            finally:
                tried.append(number)

    threads = [threading.Thread(target=loop) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    try:
        yield tried
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    assert not failures, failures


def sent(port: int, body: bytes) -> int:
    """Send a body; the status of its answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request(body))
        return int(connection.recv(4096).split(b" ")[1])


@contextmanager
def served(folder: Path, **more: Any) -> Iterator[Gateway]:
    with simulated(folder / "sim") as sim:
        backend = {"url": sim.url, "models": ["sim-small"]}
        config = {"backends": [backend], "health_check": {"enabled": False}, "firewall": {"max_images": 5}, **more}
        with running(folder / "gateway", config) as gateway:
            yield gateway


def measure(
    gateway: Gateway, attack: Callable[[int], None], seconds: float, size: int, report: Any, kinds: int = AT_ONCE
) -> None:
    """For so long, or until each kind was sent."""
    watch = Watch(gateway)
    base_s = watch.p99_s(QUIET_S)
    watch.base_bytes = gateway.resident_bytes
    with attacked(attack) as tried:
        under_s = watch.p99_s(seconds, lambda: len(tried) > kinds)
    grown = watch.most_bytes - watch.base_bytes
    report("p99_ms", round(under_s * 1000))
    report("grown_mib", grown >> 20)
    print(f"p99 {base_s * 1000:.1f} -> {under_s * 1000:.1f} ms, {grown >> 20} MiB more")
    assert under_s - base_s < SLOWER_S
    assert grown < 2 * size + MORE_BYTES
    until(lambda: gateway.resident_bytes - watch.base_bytes < MORE_BYTES, "memory comes back")


SIZES = [pytest.param(4 << 20, 2.0, id="4 MiB"), pytest.param(32 << 20, 30.0, id="32 MiB", marks=pytest.mark.proof)]


@pytest.mark.parametrize(("size", "seconds"), SIZES)
def test_bodies_of_all_shapes(tmp_path: Path, size: int, seconds: float, record_property: Any) -> None:
    bodies = list(SHAPES.values())
    with served(tmp_path, server={"max_body_size": size, "max_unfinished_bodies": 4 * size}) as gateway:

        def attack(number: int) -> None:
            shape, again = number % len(bodies), number // len(bodies)
            body = by_chance(number, size - 1000) if again % 4 == 3 else bodies[shape](size - 100)
            assert sent(gateway.port, body) in (400, 404)

        measure(gateway, attack, seconds, size, record_property, len(bodies))


@pytest.mark.proof
@pytest.mark.parametrize("shape", ["empty lists", "token ids", "nested", "images", "many hidden fields", "texts"])
def test_the_worst_shapes_one_by_one(tmp_path: Path, shape: str, record_property: Any) -> None:
    body = SHAPES[shape]((32 << 20) - 100)
    with served(tmp_path) as gateway:
        measure(gateway, lambda _: [sent(gateway.port, body)].clear(), 15.0, 32 << 20, record_property)


CALL_SIZES = [pytest.param(1 << 20, 2.0, id="1 MiB"), pytest.param(4 << 20, 30.0, id="4 MiB", marks=pytest.mark.proof)]


@pytest.mark.parametrize(("size", "seconds"), CALL_SIZES)
def test_calls_of_many_parts(tmp_path: Path, size: int, seconds: float, record_property: Any) -> None:
    with served(tmp_path, grpc={"listen": "127.0.0.1:0"}) as gateway, ExitStack() as stack:
        options = [("grpc.max_send_message_length", -1)]
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{grpc_port(gateway)}", options))
        ask = channel.unary_unary(f"/{SERVICES[0]}/ChatCompletion")
        messages = [unit * ((size - 100) // len(unit)) for unit in CALLS.values()]

        def attack(number: int) -> None:
            with pytest.raises(grpc.RpcError) as raised:
                ask(messages[number % len(messages)], metadata=[("authorization", f"Bearer {KEY}")], timeout=60)
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]

        measure(gateway, attack, seconds, 32 << 20, record_property, len(messages))
