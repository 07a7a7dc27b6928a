"""Reaching an origin: directly, through a proxy, with TLS; and being refused."""

import asyncio
import base64
import contextlib
import socket
from pathlib import Path

import pytest

from tests.support.certificates import authority_file, server_context
from tests.support.client_pool import answer_of, exchange, failure_of
from tests.support.scripted_server import Peer, Server, scripted, until
from zuebee.http.connect import MAX_PROXY_ANSWER_BYTES, Origin, bypasses_proxy
from zuebee.http.pool import HttpFailure, HttpPool

SECRET = base64.b64encode(b"me:p@ss:word").strip()


async def polite(peer: Peer) -> None:
    while await peer.request():
        await peer.answer()


def pool_of(origin: Origin) -> HttpPool:
    return HttpPool(origin, max_idle=1, max_connections=1)


@pytest.mark.parametrize(
    ("url", "host", "port", "authority", "secure"),
    [
        ("http://a.example", "a.example", 80, "a.example", False),
        ("https://a.example/base", "a.example", 443, "a.example", True),
        ("http://A.example:8000", "a.example", 8000, "a.example:8000", False),
        ("http://[::1]:8000", "::1", 8000, "[::1]:8000", False),
        ("https://[::1]", "::1", 443, "[::1]", True),
    ],
)
def test_a_url_names_an_origin(url: str, host: str, port: int, authority: str, secure: bool) -> None:
    origin = Origin(url, timeout_s=1)
    assert (origin.host, origin.port, origin.authority, origin.secure) == (host, port, authority, secure)
    assert (origin.request_prefix, origin.request_headers) == (b"", b"")


async def test_a_closed_port_is_a_failure_to_connect_and_nothing_was_sent() -> None:
    async with scripted(polite) as server:
        port = server.port
    pool = pool_of(Origin(f"http://127.0.0.1:{port}", timeout_s=5))
    failure = await failure_of(pool)
    assert (failure.kind, failure.sent, pool.in_use) == ("connect", False, 0)


async def test_a_name_that_does_not_resolve_is_a_failure_to_connect() -> None:
    pool = pool_of(Origin("http://nowhere.invalid:1", timeout_s=5))
    failure = await failure_of(pool)
    assert (failure.kind, failure.sent, pool.in_use) == ("connect", False, 0)


@pytest.mark.requirement("A049")
async def test_connecting_has_a_deadline_that_covers_the_handshake() -> None:
    async def silent(peer: Peer) -> None:
        await peer.gone()

    async with scripted(silent) as server:
        pool = pool_of(Origin(f"https://127.0.0.1:{server.port}", timeout_s=0.1))
        failure = await failure_of(pool)
        assert (failure.kind, failure.sent, pool.in_use) == ("connect_timeout", False, 0)
        await until(lambda: server.open == 0)


# --- TLS ---


async def test_an_authority_of_ones_own_is_trusted(tmp_path: Path) -> None:
    async with scripted(polite, server_context("127.0.0.1")) as server:
        pool = pool_of(Origin(f"https://127.0.0.1:{server.port}", timeout_s=5, ca_file=authority_file(tmp_path)))
        for _ in range(3):
            assert (await answer_of(pool)).body == b"ok"
        assert server.connections == 1
        pool.close()


@pytest.mark.parametrize(("names", "trusted"), [("127.0.0.2", True), ("other.example", True), ("127.0.0.1", False)])
async def test_a_wrong_name_or_an_unknown_authority_is_refused(names: str, trusted: bool, tmp_path: Path) -> None:
    async with scripted(polite, server_context(names)) as server:
        ca_file = authority_file(tmp_path) if trusted else None
        pool = pool_of(Origin(f"https://127.0.0.1:{server.port}", timeout_s=5, ca_file=ca_file))
        failure = await failure_of(pool)
        assert (failure.kind, failure.sent, pool.in_use) == ("connect", False, 0)
        assert "certificate" in failure.message.lower()
        assert server.requests == []


async def test_a_server_without_tls_is_not_spoken_to(tmp_path: Path) -> None:
    async def plain(peer: Peer) -> None:
        await peer.reader.read(1)
        await peer.say(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    async with scripted(plain) as server:
        pool = pool_of(Origin(f"https://127.0.0.1:{server.port}", timeout_s=5))
        assert (await failure_of(pool)).kind == "connect"
        assert pool.in_use == 0


# --- proxies ---


async def test_a_plain_request_goes_to_the_proxy_in_absolute_form() -> None:
    async with scripted(polite) as proxy:
        origin = Origin("http://a.example:81", timeout_s=5, proxy_url=f"http://me:p%40ss%3Aword@127.0.0.1:{proxy.port}")
        assert origin.request_prefix == b"http://a.example:81"
        assert origin.request_headers == b"proxy-authorization: Basic " + SECRET + b"\r\n"
        pool = pool_of(origin)
        head = b"GET " + origin.request_prefix + b"/x HTTP/1.1\r\nhost: a.example:81\r\n" + origin.request_headers
        assert (await answer_of(pool, head + b"\r\n")).body == b"ok"
        assert proxy.requests[0].startswith(b"GET http://a.example:81/x HTTP/1.1\r\n")
        pool.close()


async def tunnel(peer: Peer, target: Server) -> None:
    """A forward proxy that leads wherever it is asked to `target`."""
    head = await peer.request()
    if b"Basic " + SECRET not in head:
        await peer.answer(b"who are you", b"407 Proxy Authentication Required")
        return
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    await peer.say(b"HTTP/1.1 200 Connection", b" established\r\nvia: test\r\n\r", b"\n")

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, RuntimeError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()

    await asyncio.gather(copy(peer.reader, writer), copy(reader, peer.writer))


async def test_a_secure_request_goes_through_a_tunnel_that_sees_neither_path_nor_body(tmp_path: Path) -> None:
    async with (
        scripted(polite, server_context("127.0.0.1")) as server,
        scripted(lambda peer: tunnel(peer, server)) as proxy,
    ):
        proxy_url = f"http://me:p%40ss%3Aword@127.0.0.1:{proxy.port}"
        origin = Origin(
            f"https://127.0.0.1:{server.port}", timeout_s=5, ca_file=authority_file(tmp_path), proxy_url=proxy_url
        )
        # Inside the tunnel the request looks as without a proxy, and the proxy's password is not in it.
        assert (origin.request_prefix, origin.request_headers) == (b"", b"")
        pool = pool_of(origin)
        for _ in range(3):
            assert (await answer_of(pool)).body == b"ok"
        assert (server.connections, len(server.requests)) == (1, 3)
        assert [request.split(b"\r\n")[0] for request in proxy.requests] == [
            b"CONNECT 127.0.0.1:%d HTTP/1.1" % server.port
        ]
        pool.close()


async def test_the_name_is_checked_through_the_tunnel_too(tmp_path: Path) -> None:
    async with (
        scripted(polite, server_context("other.example")) as server,
        scripted(lambda peer: tunnel(peer, server)) as proxy,
    ):
        proxy_url = f"http://me:p%40ss%3Aword@127.0.0.1:{proxy.port}"
        origin = Origin(
            f"https://127.0.0.1:{server.port}", timeout_s=5, ca_file=authority_file(tmp_path), proxy_url=proxy_url
        )
        pool = pool_of(origin)
        failure = await failure_of(pool)
        assert (failure.kind, failure.sent, pool.in_use) == ("connect", False, 0)
        assert server.requests == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n",
            "407 Proxy Authentication Required",
        ),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "502 Bad Gateway"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "refused the tunnel"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * MAX_PROXY_ANSWER_BYTES, "too long"),
        (b"HTTP/1.1 200", "closed"),
        (b"", "closed"),
    ],
)
async def test_a_tunnel_that_is_refused_is_a_failure_to_connect(answer: bytes, reason: str) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.request()
        await peer.say(answer)

    async with scripted(refuse) as proxy:
        origin = Origin("https://a.example", timeout_s=5, proxy_url=f"http://127.0.0.1:{proxy.port}")
        pool = pool_of(origin)
        failure = await failure_of(pool)
        assert (failure.kind, failure.sent, pool.in_use) == ("connect", False, 0)
        assert reason in failure.message
        assert proxy.requests[0].startswith(b"CONNECT a.example:443 HTTP/1.1\r\nhost: a.example:443\r\n")


async def test_a_proxy_that_says_nothing_runs_into_the_deadline() -> None:
    async def silent(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with scripted(silent) as proxy:
        pool = pool_of(Origin("https://[::1]:444", timeout_s=0.1, proxy_url=f"http://127.0.0.1:{proxy.port}"))
        assert (await failure_of(pool)).kind == "connect_timeout"
        assert proxy.requests[0].startswith(b"CONNECT [::1]:444 HTTP/1.1\r\n")
        await until(lambda: proxy.open == 0)


async def test_a_cancelled_tunnel_is_closed() -> None:
    async def silent(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with scripted(silent) as proxy:
        pool = pool_of(Origin("https://a.example", timeout_s=5, proxy_url=f"http://127.0.0.1:{proxy.port}"))
        task: asyncio.Future[object] = asyncio.ensure_future(exchange(pool))
        await until(lambda: len(proxy.requests) == 1)
        task.cancel()
        assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
        await until(lambda: proxy.open == 0)
        assert pool.in_use == 0


async def test_a_server_that_leaves_right_after_the_handshake_is_told_from_one_that_cannot_be_reached(
    tmp_path: Path,
) -> None:
    async def leave(peer: Peer) -> None:
        return

    async with scripted(leave, server_context("127.0.0.1")) as server:
        pool = pool_of(Origin(f"https://127.0.0.1:{server.port}", timeout_s=5, ca_file=authority_file(tmp_path)))
        failure = await failure_of(pool)
        assert isinstance(failure, HttpFailure)
        assert (failure.kind in ("reset", "connect"), pool.in_use) == (True, 0)


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("a.example", "", False),
        ("localhost", "", True),
        ("127.0.0.1", "", True),
        ("127.8.8.8", "", True),
        ("::1", "", True),
        ("[::1]", "", True),
        ("a.example", "*", True),
        ("a.example", "a.example", True),
        ("A.Example", "a.EXAMPLE", True),
        ("x.a.example", "a.example", True),
        ("x.a.example", ".a.example", True),
        ("a.example", ".a.example", True),
        ("xa.example", "a.example", False),
        ("a.example", "x.a.example", False),
        ("a.example", "b.example, a.example", True),
        ("a.example", "b.example,c.example", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3/32", True),
        ("10.1.2.3", "10.1.2", False),
        ("fd00::5", "fd00::/8", True),
        ("fe80::5", "fd00::/8", False),
        ("fd00::5", "10.0.0.0/8", False),
        ("10.1.2.3", "nonsense/8, 10.0.0.0/8", True),
        ("a.example", "10.0.0.0/8", False),
        ("a.example", ",", False),
        ("", "a.example", False),
    ],
)
def test_who_is_reached_without_the_proxy(host: str, no_proxy: str, direct: bool) -> None:
    assert bypasses_proxy(host, no_proxy.split(",")) is direct


@pytest.mark.parametrize(
    ("host", "port", "no_proxy", "direct"),
    [
        ("a.example", 8080, "a.example:8080", True),
        ("x.a.example", 8080, ".a.example:8080", True),
        ("a.example", 80, "a.example:8080", False),
        ("a.example", None, "a.example:8080", False),
        ("10.1.2.3", 80, "10.1.2.3:80", True),
        ("10.1.2.3", 81, "10.1.2.3:80", False),
        ("fd00::5", 80, "[fd00::5]:80", True),
        ("fd00::5", 81, "[fd00::5]:80", False),
        ("fd00::5", 81, "[fd00::5]", True),
        ("fd00::5", 81, "fd00::5", True),
        ("x.a.example", 80, "*.a.example", True),
        ("x.y.a.example", 80, "*.a.example:80", True),
        ("xa.example", 80, "*.a.example", False),
        ("b.example", 80, "*.a.example", False),
        ("b.example", 80, "*:80", True),
        ("b.example", 81, "*:80", False),
    ],
)
def test_ports_and_stars(host: str, port: int | None, no_proxy: str, direct: bool) -> None:
    assert bypasses_proxy(host, no_proxy.split(","), port) is direct


async def test_a_host_that_vanishes_is_noticed_however_long_an_answer_may_take() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    made: list[asyncio.BaseTransport] = []

    class Seen(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with listener:
        await Origin(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", timeout_s=5).connect(Seen)
        connection = made[0].get_extra_info("socket")
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        made[0].close()
