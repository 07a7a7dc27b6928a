"""How commands speak to a running server: a socket in the file system, beside its store, for its own user only.

A message is one line of JSON each way. The server does what its own file says, never what a message brings along.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from zuebee.config.settings_billing import StoreSettings

MAX_LINE_BYTES = 1 << 20
MAX_PATH_BYTES = 100
"""Of the name of a socket; the systems allow 104 or 108."""

ASKED_WITHIN_S = 5.0
AT_ONCE = 8

_log = logging.getLogger("zuebee")


class Order(msgspec.Struct, frozen=True):
    """What a server is asked: to read its configuration again, or whether it could. `config`: which file is meant."""

    do: Literal["reload", "check"]
    config: str


class Report(msgspec.Struct, frozen=True):
    """What came of it. `restart`: settings that hold only after a restart. `refused`: why nothing was done."""

    config: str
    pid: int
    warnings: list[str] = []
    restart: list[str] = []
    refused: str = ""


class NobodyThere(Exception):
    """No server listens there."""


class NoAnswer(Exception):
    """The server did not answer, or not in time."""


def control_path(store: StoreSettings) -> str:
    """Where the server of this store listens: beside the file that only one server uses."""
    return f"{store.path if store.url is None else store.spool_path}.control"


class ControlDoor:
    """Takes orders, some at once, and answers each."""

    def __init__(self, obey: Callable[[Order], Awaitable[Report]]) -> None:
        self._obey = obey
        self._path = ""
        self._server: asyncio.Server | None = None
        self._asking = 0

    async def open(self, path: str) -> None:
        """Listen. Where that cannot be, a line in the log says so: signals do the same."""
        try:
            if len(os.fsencode(path)) > MAX_PATH_BYTES:
                raise OSError(f"the path is longer than {MAX_PATH_BYTES} bytes")
            listener = _listener(Path(path))
            self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=MAX_LINE_BYTES)
        except OSError as error:
            _log.warning("`zuebee reload` cannot reach this process, only SIGHUP can: %s: %s", path, error)
            return
        self._path = path

    async def aclose(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
            with suppress(OSError):
                os.unlink(self._path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._asking += 1
        try:
            if self._asking <= AT_ONCE:
                async with asyncio.timeout(ASKED_WITHIN_S):
                    line = await reader.readuntil(b"\n")
                report = await self._obey(msgspec.json.decode(line, type=Order))
                writer.write(msgspec.json.encode(report) + b"\n")
                async with asyncio.timeout(ASKED_WITHIN_S):
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, msgspec.MsgspecError):
            pass  # whoever asks so gets no answer
        finally:
            self._asking -= 1
            writer.close()


def _listener(path: Path) -> socket.socket:
    """A socket that nobody else may connect to, from its first moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_socket():
        path.unlink()  # of a process that was killed: the store, or the spool, is locked by this one
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def ask_server(path: str, order: Order, timeout_s: float) -> Report:
    """Give an order to the server that listens there. Raises NobodyThere or NoAnswer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            raise NobodyThere(path) from None
        except OSError as error:
            raise NoAnswer(f"{path}: {error.strerror or error}") from None
        try:
            connection.sendall(msgspec.json.encode(order) + b"\n")
            with connection.makefile("rb") as stream:
                line = stream.readline(MAX_LINE_BYTES)
            return msgspec.json.decode(line, type=Report)
        except TimeoutError:
            raise NoAnswer(f"the server did not answer within {timeout_s:g} s; its log says more") from None
        except (OSError, msgspec.MsgspecError):
            raise NoAnswer("the server gave no answer; its log says more") from None
