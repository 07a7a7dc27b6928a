"""The event loop of a process, and how many files it may have open."""

import asyncio
import logging
import resource
import signal
from collections.abc import Coroutine
from typing import Any

import uvloop

_log = logging.getLogger("zuebee")

OTHER_FILES = 128
"""For the store, logs, Redis, listeners."""


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` to its end on an event loop of its own.

    A signal to stop that comes after that end changes nothing: the process leaves with the status it earned. A closed
    loop gives signals back to the system, which would kill the process (and a script would read "failed").
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_deaf_at_its_end(main))


async def _deaf_at_its_end(main: Coroutine[Any, Any, None]) -> None:
    try:
        await main
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})


def room_for_connections(wanted: int) -> int:
    """For how many client connections the process may have files, each with one to a backend.

    Without a file nothing works any more, neither the store nor a backend, so there is a bound before. It asks the
    system for what it needs where that may be raised.
    """
    needed = 2 * wanted + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    except (OSError, ValueError):
        raised = soft
    room = max(1, (raised - OTHER_FILES) // 2)
    if room < wanted:
        _log.warning("%d open files are allowed: room for %d client connections, not %d", raised, room, wanted)
    return min(room, wanted)
