"""The start waits for PostgreSQL: after a black-out, and among containers, nobody knows who is up first."""

import asyncio
import logging
import random
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from zuebee.app.wiring import listen, proxy_check, receive_limits, tls_context
from zuebee.config import Settings
from zuebee.edge.waiting_room import WaitingRoom
from zuebee.kit import clock
from zuebee.kit.http_server import HttpServer

_log = logging.getLogger("zuebee")

CONNECT_TIMEOUT_S = 5
WAIT_S = (0.25, 5.0)
SAY_AGAIN_S = 60.0


def store_fails(settings: Settings) -> "asyncio.Future[str]":
    """Why the store cannot be reached just now; empty when it can. Raises StoreRefused when waiting would not help."""
    url = settings.store.url

    def ask() -> str:
        if url is None:
            return ""
        from zuebee.schema.reach import reach  # its driver takes 0.15 s to import, which SQLite can do without
        from zuebee.schema.version import StoreUnreachable

        try:
            reach(url, CONNECT_TIMEOUT_S)
        except StoreUnreachable as error:
            return str(error)
        return ""

    return _in_thread(ask)


async def wait_for_store(settings: Settings) -> bool:
    """Wait until the store can be reached, and answer meanwhile that we are not ready. False: told to stop.

    Raises StoreRefused when waiting does not help, and OSError when the address cannot be listened on.
    """
    reason = await store_fails(settings) if settings.store.url is not None else ""
    if not reason:
        return True
    room = WaitingRoom(_public(reason), len(settings.backends))
    server = HttpServer(
        room,
        limits=receive_limits(settings.server),
        keep_alive_s=settings.server.keep_alive_s,
        render_error=room.refuse_unread,
        tls=tls_context(settings.server.tls),
        is_proxy=proxy_check(settings.server),
    )
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()

    def on_stop() -> None:
        if not stop.done():
            stop.set_result(None)

    handlers: dict[signal.Signals, Callable[[], None]] = {
        signal.SIGTERM: on_stop,
        signal.SIGINT: on_stop,
        signal.SIGHUP: lambda: _log.warning("configuration not read again: still waiting for PostgreSQL"),
    }
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        await listen(server, settings)
        return await _wait(settings, room, reason, stop)
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
        await server.close()


async def _wait(settings: Settings, room: WaitingRoom, reason: str, stop: "asyncio.Future[None]") -> bool:
    from zuebee.schema.reach import place

    begun_s = said_at_s = clock.monotonic_s()
    said, wait_s = "", WAIT_S[0]
    while reason:
        room.reason = _public(reason)
        if reason != said or clock.monotonic_s() - said_at_s >= SAY_AGAIN_S:
            said, said_at_s = reason, clock.monotonic_s()
            _log.warning("waiting for PostgreSQL at %s: %s", place(settings.store.url or ""), reason)
        await asyncio.wait({stop}, timeout=wait_s * random.uniform(0.5, 1.0))
        wait_s = min(2 * wait_s, WAIT_S[1])
        asked = store_fails(settings)
        either: set[asyncio.Future[Any]] = {stop, asked}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            _log.info("stopped, while waiting for PostgreSQL")
            return False
        reason = asked.result()
    _log.info("PostgreSQL answers, after %.1f s", clock.monotonic_s() - begun_s)
    return True


def _public(reason: str) -> str:
    """What anybody may know."""
    return f"waiting for PostgreSQL: {reason.partition(' (')[0]}"


def _in_thread(ask: Callable[[], str]) -> "asyncio.Future[str]":
    """In a thread that nobody waits for at the end: connecting cannot be called off."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def run() -> None:
        try:
            said, failure = ask(), None
        except Exception as error:
            said, failure = "", error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, said, failure)

    def settle(said: str, failure: Exception | None) -> None:
        if answer.cancelled():
            return
        if failure is None:
            answer.set_result(said)
        else:
            answer.set_exception(failure)

    threading.Thread(target=run, name="reach", daemon=True).start()
    return answer
