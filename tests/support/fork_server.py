"""Starts `zuebee` commands as `python -m zuebee` would, without the imports, which are most of a start.

It imports all of ZueBee once, and then makes a copy of itself for each command: of what a scenario costs, most was the
same imports again. A command gets its own arguments, folder, environment and files, is the leader of nothing, ends by
`sys.exit` as always, and can be sent signals. `tests/scenarios/test_starting.py` and the two commands of the README
start Python itself.

It is itself run as `python -m tests.support.fork_server`, with a socket as its standard input; see `Forked` in
`tests.support.starts` for what is said on it.
"""

import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
import time
from typing import NoReturn

Order = tuple[dict[str, object], list[int]]

MAX_ORDER_BYTES = 1 << 20
FILES = 3


def preload() -> None:
    """Import all modules of ZueBee, and with them what they use."""
    import zuebee

    for found in pkgutil.walk_packages(zuebee.__path__, "zuebee."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)


def serve(orders: socket.socket) -> Order | None:
    """Make a process for each order. In such a process it returns the order; in the server None, once nobody asks."""
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    before = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    children: set[int] = set()
    with selectors.DefaultSelector() as selector:
        selector.register(orders, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is woken:
                    woken.recv(4096)
                    _tell_of_ended(orders, children)
                    continue
                order = _next_order(orders)
                if order is None:
                    for child in children:
                        os.kill(child, signal.SIGKILL)
                    return None
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(before)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for each in (selector, orders, woken, wake):
                        each.close()
                    return order
                children.add(pid)
                _say(orders, pid=pid)
                for file in order[1]:
                    os.close(file)


def _next_order(orders: socket.socket) -> Order | None:
    message, files, _, _ = socket.recv_fds(orders, MAX_ORDER_BYTES, FILES)
    return (json.loads(message), files) if message else None


def _tell_of_ended(orders: socket.socket, children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        children.remove(pid)
        _say(orders, ended=pid, status=os.waitstatus_to_exitcode(status))


def _say(orders: socket.socket, **message: int) -> None:
    orders.send(json.dumps(message).encode())


def become(order: Order) -> NoReturn:
    """Turn this process into the command that was ordered."""
    told, files = order
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(str(told["cwd"]))
    os.environ.clear()
    os.environ.update(told["env"])  # type: ignore[call-overload]
    time.tzset()
    # They stay open until the process ends, as those that Python opens.
    sys.stdin = open(0)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w")  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
    sys.path[0] = str(told["cwd"])
    sys.argv[:] = ["zuebee", *told["arguments"]]  # type: ignore[misc]
    runpy.run_module("zuebee", run_name="__main__", alter_sys=True)
    sys.exit(0)


if __name__ == "__main__":
    gc.disable()
    preload()
    gc.collect()
    gc.freeze()
    gc.enable()
    found = serve(socket.socket(fileno=os.dup(0)))
    if found is not None:
        become(found)
