"""The life of the process: start in order, report ready, reload, drain, stop in reverse."""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable

from zuebee.app.grpc import listen_grpc
from zuebee.app.loop import run_loop
from zuebee.app.waiting import store_fails, wait_for_store
from zuebee.app.wiring import CannotReload, Platform, listen
from zuebee.config import Settings
from zuebee.config.check import listen_address
from zuebee.config.file import ConfigError, Loaded
from zuebee.kit.tasks import Tasks
from zuebee.schema.version import SchemaError

_log = logging.getLogger("zuebee")

CUT_WAIT_S = 2.0
"""For the last words to those who are cut: who does not read them must not hold up the end."""

Load = Callable[[], Loaded]


class CannotStart(Exception):
    """A reason not to start, in one line."""


class Process:
    """Runs a platform until a signal ends it."""

    def __init__(self, settings: Settings, load: Load) -> None:
        self._platform = Platform(settings)
        self._load = load
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._tasks = Tasks()
        self._reloading = asyncio.Lock()

    async def run(self, on_ready: Callable[[str], None]) -> None:
        """Serve until SIGTERM or SIGINT, then drain. Raises CannotStart."""
        platform = self._platform
        address = listen_address(platform.settings)
        try:
            try:
                await platform.apply(platform.settings)
                port = await listen(platform.server, platform.settings)
                if platform.grpc_server is not None:
                    _log.info("gRPC on port %d", await listen_grpc(platform.grpc_server, platform.settings))
            except (OSError, ValueError) as error:
                raise CannotStart(str(error)) from None
            self._watch_signals()
            self._tasks.spawn(self._attend(), "attend")
            self._tasks.spawn(platform.books.run(), "books")
            self._tasks.spawn(platform.read_prices(), "prices")
            platform.reporting.start()
            _spare_the_hot_path()
            on_ready(_url(address.host, port, secure=platform.settings.server.tls is not None))
            await self._stop.wait()
            await self._drain()
        finally:
            await self._tasks.aclose()
            await asyncio.gather(*(server.close() for server in platform.servers))
            await platform.aclose()

    async def _attend(self) -> None:
        """Look after running requests: their holds, their leases, their keys."""
        interval_s = self._platform.settings.billing.heartbeat_s
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self._platform.pipeline.attend()
            except Exception:
                _log.exception("running requests could not be looked after")

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._tasks.spawn(self._reload(), "reload"))

    def _on_stop(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def _reload(self) -> None:
        """Read the configuration again; a bad one is refused whole and the old one stays."""
        async with self._reloading:
            try:
                loaded = self._load()
                await self._platform.apply(loaded.settings)
            except (ConfigError, CannotReload, OSError, ValueError) as error:
                self._platform.metrics.reloads.labels("refused").inc()
                _log.error("configuration not reloaded, the old one stays: %s", error)
                return
            self._platform.metrics.reloads.labels("ok").inc()
            for warning in loaded.warnings:
                _log.warning("%s", warning)
            _log.info("configuration reloaded")

    async def _drain(self) -> None:
        platform = self._platform
        shutdown = platform.settings.shutdown
        platform.draining = True
        for server in platform.servers:
            server.begin_drain()
        _log.info("stopping: %d requests running, %g s of grace", platform.running_count, shutdown.grace_s)
        try:
            async with asyncio.timeout(shutdown.grace_s):
                await self._hurry.wait()
        except TimeoutError:
            pass
        for server in platform.servers:
            server.stop_accepting()
        if not await self._wait_idle(shutdown.drain_s, self._hurry):
            _log.warning("stopping: %d requests are cut", platform.running_count)
            platform.pipeline.end_all()
            await self._wait_idle(CUT_WAIT_S, asyncio.Event())
        _log.info("stopped")

    async def _wait_idle(self, timeout_s: float, hurry: asyncio.Event) -> bool:
        """Wait until no listener has a request; False if `timeout_s` passed or `hurry` was set first."""
        servers = self._platform.servers
        return all(await asyncio.gather(*(server.wait_idle(timeout_s, hurry) for server in servers)))


def _spare_the_hot_path() -> None:
    """Leave out of each request what it does not need."""
    # What lives until the end need not be looked at by each collection, and requests make little that is cyclic.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    # The loop's hooks only serve generators that nobody closes; ours are consumed under `aclosing` (a house rule).
    sys.set_asyncgen_hooks(None, None)


def _url(host: str, port: int, *, secure: bool) -> str:
    shown = "127.0.0.1" if host in ("", "0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"{'https' if secure else 'http'}://{shown}:{port}"


def serve(loaded: Loaded, load: Load, on_ready: Callable[[str], None]) -> None:
    """Run a process with these settings until it is told to stop. Raises CannotStart."""

    async def main() -> None:
        process = await _made(loaded.settings, load)
        if process is not None:
            await process.run(on_ready)

    run_loop(main())


async def _made(settings: Settings, load: Load) -> Process | None:
    """A process, as soon as its store can be reached; None when it was told to stop before."""
    try:
        while await wait_for_store(settings):
            try:
                return Process(settings, load)
            except OSError:
                if not await store_fails(settings):  # else it is gone again
                    raise
    except (OSError, ValueError, SchemaError) as error:
        raise CannotStart(str(error)) from None
    return None
