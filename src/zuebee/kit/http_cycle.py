"""One request and its answer on a guarded connection: uvicorn's cycle with a cheaper way out.

The head of an answer is written together with the first part of its body: one system call instead of two. Headers
come from parsers that refuse line breaks or from the application itself; they are checked once, as a whole.
"""

import logging
from collections.abc import MutableMapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

_log = logging.getLogger("zuebee.http")


class Cycle(RequestResponseCycle):
    """Offers ASGI's `receive` and `send` to the application."""

    _head = b""
    _chunked = False

    def write_now(self, data: bytes) -> bool:
        """Send a part of a chunked body without waiting; False when the client should be waited for (`drain`)."""
        if not self.disconnected:
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return not self.flow.write_paused

    async def drain(self) -> None:
        """Wait until the client takes more, or is gone."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()

    async def run_asgi(self, app: Any) -> None:
        """Run the application; whatever it leaves undone ends the connection."""
        self.scope["zuebee.cycle"] = self  # type: ignore[typeddict-unknown-key]
        try:
            await app(self.scope, self.receive, self.send)
        except Exception:
            _log.exception("the application failed")
        finally:
            if not self.response_complete and not self.transport.is_closing():
                # An answer without its end must not look whole.
                self.transport.close()
            self.on_response = _nothing

    async def send(self, message: MutableMapping[str, Any]) -> None:  # type: ignore[override]
        """ASGI: `http.response.start`, then `http.response.body` until `more_body` is false."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self._start(message["status"], message["headers"])
            return
        body: bytes = message["body"]
        more_body = message["more_body"]
        if self.scope["method"] == "HEAD":
            data = self._head
        elif self._chunked:
            data = b"%b%x\r\n%b\r\n" % (self._head, len(body), body) if body else self._head
            if not more_body:
                data += b"0\r\n\r\n"
        else:
            data = self._head + body
        self._head = b""
        if data:
            self.transport.write(data)
        if not more_body:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()

    def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        parts = [STATUS_LINE[status]]
        framed = status in (204, 304)
        for name, value in self.default_headers:
            parts.append(b"%b: %b\r\n" % (name, value))
        for name, value in headers:
            parts.append(b"%b: %b\r\n" % (name, value))
            if name == b"content-length":
                framed = True
            elif name == b"connection" and value == b"close":
                self.keep_alive = False
        lines = len(parts)
        if not self.keep_alive:
            parts.append(b"connection: close\r\n")
            lines += 1
        if not framed:
            self._chunked = True
            parts.append(b"transfer-encoding: chunked\r\n")
            lines += 1
        parts.append(b"\r\n")
        head = b"".join(parts)
        if head.count(b"\n") != lines + 1 or head.count(b"\r") != lines + 1:
            raise ValueError("a line break in a header field of an answer")
        self._head = head


def _nothing() -> None:
    pass
