"""A TCP proxy that can be slow, go silent, refuse, or cut a connection after a given number of bytes."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

UP, DOWN = "to the server", "to the client"


class TcpProxy:
    """Stands before one server. `bytes_passed` counts since the last `cut_after` or `pass_all`.

    `trips`: how often a client has spoken again after the server had.
    """

    def __init__(self, host: str, port: int, *, listen_on: int = 0) -> None:
        self.delay_s = 0.0
        self.silent = False
        self.bytes_passed = {UP: 0, DOWN: 0}
        self.trips = 0
        self._spoke_last = DOWN
        self._target = (host, port)
        self._refusing = False
        self._left = -1  # connections that are still taken; below 0: all
        self._cut: tuple[str, int] | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", listen_on))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, count: int, direction: str) -> None:
        """Cut the connection when so many more bytes have passed in a direction; the connections after it are whole."""
        with self._lock:
            self.bytes_passed = {UP: 0, DOWN: 0}
            self._cut = (direction, count)

    def pass_all(self) -> None:
        """Cut no more."""
        with self._lock:
            self.bytes_passed = {UP: 0, DOWN: 0}
            self._cut = None

    def refuse(self) -> None:
        """The server is gone: cut all connections and take no new ones."""
        self._refusing = True
        self.cut_all()

    def refuse_after(self, connections: int) -> None:
        """The server is gone after so many more connections."""
        self._left = connections

    def heal(self) -> None:
        """The server is back."""
        self._refusing = False
        self._left = -1
        self.silent = False

    def cut_all(self) -> None:
        """Cut what is open."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut_all()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                if self._refusing or self._left == 0:
                    client.close()
                    continue
                self._left -= 1
                server = socket.create_connection(self._target)
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._pairs.append((client, server))
                threading.Thread(target=self._pump, args=(client, server, UP), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, DOWN), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 20):
                if self.delay_s:
                    time.sleep(self.delay_s)
                while self.silent:
                    time.sleep(0.01)
                allowed = self._allowed(direction, len(data))
                sink.sendall(data[:allowed])
                if allowed < len(data):
                    break
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _allowed(self, direction: str, count: int) -> int:
        with self._lock:
            self.trips += direction == UP and self._spoke_last == DOWN
            self._spoke_last = direction
            passed = self.bytes_passed[direction]
            if self._cut is not None and self._cut[0] == direction and passed + count > self._cut[1]:
                count = max(0, self._cut[1] - passed)
                self._cut = None
                self.bytes_passed[direction] += count
                return count
            self.bytes_passed[direction] += count
            return count


@contextmanager
def proxy_before(url: str) -> Iterator[tuple[TcpProxy, str]]:
    """A proxy before the server of a URL, and the URL that leads through it."""
    parts = urlsplit(url)
    proxy = TcpProxy(parts.hostname or "127.0.0.1", parts.port or 5432)
    login = f"{parts.username}@" if parts.username else ""
    try:
        yield proxy, urlunsplit(parts._replace(netloc=f"{login}127.0.0.1:{proxy.port}"))
    finally:
        proxy.close()
