"""Opening a connection to an origin: directly or through a forward proxy, in the clear or with TLS."""

import asyncio
import base64
import ipaddress
import socket
import ssl
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import SplitResult, unquote, urlsplit

P = TypeVar("P", bound="Connectable")

MAX_PROXY_ANSWER_BYTES = 16384
KEEP_ALIVE_S = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""A host that vanished without a word is noticed after a minute, however long its answer may take; and nothing on the
way forgets a connection on which a long answer is waited for."""


class Connectable(Protocol):
    """What asyncio takes for a protocol, whatever it inherits from."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...


class Connector(Protocol):
    """Opens connections to one origin."""

    async def connect(self, factory: Callable[[], P]) -> P:
        """A connected protocol. Raises OSError (TLS errors are OSErrors) or TimeoutError."""
        ...


class Origin:
    """Scheme, host and port of a URL, and how it is reached."""

    def __init__(self, url: str, *, timeout_s: float, ca_file: str | None = None, proxy_url: str | None = None) -> None:
        parts = urlsplit(url)
        self.secure = parts.scheme == "https"
        self.host = parts.hostname or ""
        self.port = port_of(parts)
        self.authority = _authority(parts)
        self._timeout_s = timeout_s
        self._tls = _tls_context(ca_file) if self.secure else None
        self._proxy = urlsplit(proxy_url) if proxy_url else None

    @property
    def request_prefix(self) -> bytes:
        """What precedes the path in a request line: the absolute form for an http proxy (RFC 9112, 3.2.2)."""
        return f"http://{self.authority}".encode() if self._proxy is not None and not self.secure else b""

    @property
    def request_headers(self) -> bytes:
        """Header lines that each request needs on the way to a proxy."""
        if self._proxy is None or self.secure:
            return b""
        return _proxy_authorization(self._proxy)

    async def connect(self, factory: Callable[[], P]) -> P:
        """Open a connection within the timeout; see `Connector.connect`."""
        async with asyncio.timeout(self._timeout_s):
            loop = asyncio.get_running_loop()
            made: Any = factory  # asyncio's types ask for its own base class, asyncio does not
            if self._proxy is None:
                transport, protocol = await loop.create_connection(made, self.host, self.port, ssl=self._tls)
                return _kept_alive(transport, cast(P, protocol))
            proxy_host, proxy_port = self._proxy.hostname or "", self._proxy.port or 80
            if self._tls is None:
                transport, protocol = await loop.create_connection(made, proxy_host, proxy_port)
                return _kept_alive(transport, cast(P, protocol))
            return await self._tunnel(loop, factory, proxy_host, proxy_port)

    async def _tunnel(
        self, loop: asyncio.AbstractEventLoop, factory: Callable[[], P], proxy_host: str, proxy_port: int
    ) -> P:
        assert self._proxy is not None
        assert self._tls is not None
        target = f"{self.host}:{self.port}".encode()
        if ":" in self.host:
            target = f"[{self.host}]:{self.port}".encode()
        transport, opening = await loop.create_connection(lambda: _Opening(loop), proxy_host, proxy_port)
        try:
            transport.write(
                b"CONNECT " + target + b" HTTP/1.1\r\nhost: " + target + b"\r\n"
                + _proxy_authorization(self._proxy) + b"\r\n"
            )  # fmt: skip
            await opening.established
            protocol = factory()
            spoken: Any = protocol  # see `connect`
            secured = await loop.start_tls(transport, spoken, self._tls, server_hostname=self.host)
            if secured is None:
                raise ConnectionError("the connection closed during the TLS handshake")
        except BaseException:
            transport.abort()
            raise
        protocol.connection_made(secured)
        return _kept_alive(transport, protocol)


class _Opening(asyncio.Protocol):
    """Waits for the proxy's answer to CONNECT (RFC 9110, section 9.3.6)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.established: asyncio.Future[None] = loop.create_future()
        self._answer = b""

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if self.established.done():
            return
        if b"\r\n\r\n" in self._answer:
            words = self._answer.split(b"\r\n", 1)[0].split(b" ")
            if len(words) > 1 and words[0].startswith(b"HTTP/1.") and words[1].startswith(b"2"):
                self.established.set_result(None)
            else:
                status = b" ".join(words[1:]).decode("latin-1")[:100]
                self.established.set_exception(ConnectionError(f"the proxy refused the tunnel: {status}"))
        elif len(self._answer) > MAX_PROXY_ANSWER_BYTES:
            self.established.set_exception(ConnectionError("the proxy's answer is too long"))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.established.done():
            self.established.set_exception(exc or ConnectionError("the proxy closed the connection"))


def _kept_alive(transport: asyncio.BaseTransport, protocol: P) -> P:
    """Let the kernel look after a silent connection (RFC 9293, section 3.8.4)."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEP_ALIVE_S.items():
            if (option := getattr(socket, name, None)) is not None:
                connection.setsockopt(socket.IPPROTO_TCP, option, value)
    return protocol


def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise OSError(f"{ca_file}: {error}") from None


def _authority(parts: SplitResult) -> str:
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    return f"{shown}:{parts.port}" if parts.port else shown


def _proxy_authorization(proxy: SplitResult) -> bytes:
    if proxy.username is None:
        return b""
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return b"proxy-authorization: Basic " + base64.b64encode(pair) + b"\r\n"


def bypasses_proxy(host: str, no_proxy: list[str], port: int | None = None) -> bool:
    """Whether `host` is to be reached directly: `*`, a host, a domain (`a.b`, `.a.b` or `*.a.b`, and all below it) or a
    CIDR range in the list. An entry with a port holds for that port only.
    """
    host = host.lower().strip("[]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    for entry in no_proxy:
        entry, port_of_entry = _split_port(entry.strip().lower())
        if port_of_entry and port_of_entry != port:
            continue
        entry = entry.removeprefix("*.").lstrip(".")
        if entry == "*" or host == entry or (entry and host.endswith("." + entry)):
            return True
        if address is not None and "/" in entry:
            try:
                if address in cast(ipaddress.IPv4Network, ipaddress.ip_network(entry, strict=False)):
                    return True
            except ValueError:
                continue
    return False


def _split_port(entry: str) -> tuple[str, int]:
    """An entry without its port, and that; 0: it has none. An IPv6 address with a port stands in brackets."""
    host, colon, port = entry.rpartition(":")
    if colon and port.isdecimal() and (":" not in host or host.endswith("]")):
        return host.strip("[]"), int(port)
    return entry.strip("[]"), 0


def port_of(parts: SplitResult) -> int:
    """The port of a URL, written or not."""
    return parts.port or (443 if parts.scheme == "https" else 80)
