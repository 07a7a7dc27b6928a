"""The life of the process: start in order, report ready, reload, drain, stop in reverse."""

import asyncio
import gc
import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from zuebee.app.control import ControlDoor, Order, Report, control_path
from zuebee.app.loop import run_loop
from zuebee.app.parts.listeners import listen, proxy_check, receive_limits, tls_context
from zuebee.app.wiring import CannotReload, Platform
from zuebee.config.load import ConfigError, Loaded
from zuebee.config.settings import Settings
from zuebee.config.validate import listen_address
from zuebee.edge.operator import WaitingRoom
from zuebee.http.server import HttpServer
from zuebee.lib import clock
from zuebee.lib.tasks import Tasks
from zuebee.schema.version import SchemaError, StoreUnreachable

# The start waits for PostgreSQL: after a black-out, and among containers, nobody knows who is up first.


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


_log = logging.getLogger("zuebee")

CUT_WAIT_S = 2.0
"""For the last words to those who are cut: who does not read them must not hold up the end."""

Load = Callable[[], Loaded]


class CannotStart(Exception):
    """A reason not to start, in one line."""


class Process:
    """Runs a platform until a signal ends it."""

    def __init__(self, settings: Settings, load: Load, config_path: str = "") -> None:
        self._platform = Platform(settings)
        self._config_path = str(Path(config_path).resolve()) if config_path else ""
        self._control = ControlDoor(self._obey)
        self._load = load
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._by_hand = False
        self._tasks = Tasks()
        self._reloading = asyncio.Lock()

    async def run(self, on_ready: Callable[[str], None]) -> None:
        """Serve until SIGTERM or SIGINT, then drain. Raises CannotStart."""
        platform = self._platform
        address = listen_address(platform.settings)
        try:
            try:
                await platform.apply(platform.settings)
                port = await platform.listeners.listen(platform.settings)
            except (OSError, ValueError) as error:
                raise CannotStart(str(error)) from None
            self._watch_signals()
            if self._config_path:
                await self._control.open(control_path(platform.settings.store))
            platform.begin(self._tasks)
            _spare_the_hot_path()
            on_ready(_url(address.host, port, secure=platform.settings.server.tls is not None))
            await self._stop.wait()
            await self._drain()
        finally:
            await self._control.aclose()
            await self._tasks.aclose()
            await platform.aclose()

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop, number)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._tasks.spawn(self._reload(), "reload"))

    def _on_stop(self, number: int) -> None:
        if self._stop.is_set():
            self._hurry.set()
        # Who stops it by hand has no balancer in front that must hear of it first.
        self._by_hand = number == signal.SIGINT and sys.stderr.isatty()
        self._stop.set()

    async def _reload(self) -> Report:
        """Read the configuration again; a bad one is refused whole and the old one stays."""
        async with self._reloading:
            try:
                self._platform.reopen_logs()
                loaded = self._load()
                await self._platform.apply(loaded.settings)
            except CannotReload as error:
                return self._not_reloaded(error, error.restart)
            except (ConfigError, OSError, ValueError) as error:
                return self._not_reloaded(error, [])
            self._platform.metrics.reloads.labels("ok").inc()
            for warning in loaded.warnings:
                _log.warning("%s", warning)
            _log.info("configuration reloaded")
            return Report(self._config_path, os.getpid(), list(loaded.warnings))

    def _not_reloaded(self, error: Exception, restart: list[str]) -> Report:
        self._platform.metrics.reloads.labels("refused").inc()
        _log.error("configuration not reloaded, the old one stays: %s", error)
        return Report(self._config_path, os.getpid(), restart=restart, refused=str(error))

    async def _obey(self, order: Order) -> Report:
        """What a command asks."""
        if not _same_file(order.config, self._config_path):
            refused = f"the server of this store runs with another file, {self._config_path}"
            return Report(self._config_path, os.getpid(), refused=refused)
        if order.do == "reload":
            return await self._reload()
        try:
            self._platform.check(self._load().settings)
        except CannotReload as error:
            return Report(self._config_path, os.getpid(), restart=error.restart, refused=str(error))
        except (ConfigError, OSError, ValueError) as error:
            return Report(self._config_path, os.getpid(), refused=str(error))
        return Report(self._config_path, os.getpid())

    async def _drain(self) -> None:
        platform = self._platform
        shutdown = platform.settings.shutdown
        platform.draining = True
        for server in platform.listeners.all:
            server.begin_drain()
        _log.info("stopping: %d requests running, %g s of grace", platform.listeners.running_count, shutdown.grace_s)
        try:
            async with asyncio.timeout(
                0 if self._by_hand and not platform.listeners.running_count else shutdown.grace_s
            ):
                await self._hurry.wait()
        except TimeoutError:
            pass
        for server in platform.listeners.all:
            server.stop_accepting()
        if not await self._wait_idle(shutdown.drain_s, self._hurry):
            _log.warning("stopping: %d requests are cut", platform.listeners.running_count)
            platform.pipeline.end_all()
            await self._wait_idle(CUT_WAIT_S, asyncio.Event())
        _log.info("stopped")

    async def _wait_idle(self, timeout_s: float, hurry: asyncio.Event) -> bool:
        """Wait until no listener has a request; False if `timeout_s` passed or `hurry` was set first."""
        servers = self._platform.listeners.all
        return all(await asyncio.gather(*(server.wait_idle(timeout_s, hurry) for server in servers)))


def _spare_the_hot_path() -> None:
    """Leave out of each request what it does not need."""
    # What lives until the end need not be looked at by each collection, and requests make little that is cyclic.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    # The loop's hooks only serve generators that nobody closes; ours are consumed under `aclosing` (a house rule).
    sys.set_asyncgen_hooks(None, None)


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return one == other


def _url(host: str, port: int, *, secure: bool) -> str:
    shown = "127.0.0.1" if host in ("", "0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"{'https' if secure else 'http'}://{shown}:{port}"


def serve(loaded: Loaded, load: Load, on_ready: Callable[[str], None], config_path: str = "") -> None:
    """Run a process with these settings until it is told to stop. Raises CannotStart.

    `load` reads them again, from the file at `config_path`; commands may ask for it (`zuebee reload`).
    """

    async def main() -> None:
        process = await _made(loaded.settings, load, config_path)
        if process is not None:
            await process.run(on_ready)

    run_loop(main())


async def _made(settings: Settings, load: Load, config_path: str) -> Process | None:
    """A process, as soon as its store can be reached; None when it was told to stop before."""
    try:
        while await wait_for_store(settings):
            try:
                return Process(settings, load, config_path)
            except OSError:
                if not await store_fails(settings):  # else it is gone again
                    raise
    except (OSError, ValueError, SchemaError) as error:
        raise CannotStart(str(error)) from None
    return None
