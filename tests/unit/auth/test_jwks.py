import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.loopback import HANG, RESET, chunked, loopback, whole
from zuebee.auth import tokens
from zuebee.auth.tokens import JwksCache, KeysUnavailable, file_fetch, read_document, url_fetch
from zuebee.http.pool import HttpFailure
from zuebee.lib import clock


class Issuer:
    """Publishes keys (letters of a text), or fails."""

    def __init__(self, text: str | Exception = "ab") -> None:
        self.text = text
        self.asked = 0
        self.open = asyncio.Event()
        self.open.set()

    async def fetch(self) -> bytes:
        self.asked += 1
        await self.open.wait()
        if isinstance(self.text, Exception):
            raise self.text
        return self.text.encode()


def read(data: bytes) -> Sequence[str]:
    if not data:
        raise ValueError("no keys")
    return list(data.decode())


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(clock, "monotonic_s", lambda: self.now_s)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def cache(issuer: Issuer, cache_s: float = 300) -> JwksCache[str]:
    return JwksCache("portal", issuer.fetch, read, cache_s)


async def ask(keys: JwksCache[str], wanted: str) -> list[str]:
    return await keys.select(lambda key: key == wanted)


async def test_keys_are_fetched_once_and_kept(time: Clock) -> None:
    issuer = Issuer()
    keys = cache(issuer)
    for _ in range(3):
        assert await ask(keys, "a") == ["a"]
    time.now_s += 299
    await ask(keys, "a")
    assert issuer.asked == 1
    time.now_s += 2
    issuer.text = "b"
    assert await ask(keys, "a") == []
    assert issuer.asked == 2


async def test_an_unknown_key_is_looked_for_with_measure(time: Clock) -> None:
    issuer = Issuer("a")
    keys = cache(issuer)
    await ask(keys, "a")
    issuer.text = "abc"
    assert await ask(keys, "b") == [], "just fetched"
    time.now_s += 10
    assert await ask(keys, "b") == ["b"]
    for _ in range(1000):
        assert await ask(keys, "z") == []
        assert await ask(keys, "c") == ["c"]
        time.now_s += 0.1
    assert issuer.asked <= 2 + 10


async def test_many_who_ask_at_once_share_one_fetch(time: Clock) -> None:
    issuer = Issuer()
    issuer.open.clear()
    keys = cache(issuer)
    waiting = [asyncio.ensure_future(ask(keys, "a")) for _ in range(20)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    issuer.open.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert found[1:] == [["a"]] * 19
    assert isinstance(found[0], asyncio.CancelledError)
    assert issuer.asked == 1


async def test_who_asks_for_a_known_key_does_not_wait_for_those_who_do_not(time: Clock) -> None:
    issuer = Issuer()
    keys = cache(issuer)
    await ask(keys, "a")
    time.now_s += 10
    issuer.open.clear()
    unknown = asyncio.ensure_future(ask(keys, "z"))
    await asyncio.sleep(0)
    assert await ask(keys, "a") == ["a"]
    await keys.aclose()
    await asyncio.gather(unknown, return_exceptions=True)


@pytest.mark.parametrize("failure", [HttpFailure("connect", "no"), OSError("gone"), "", TimeoutError()])
async def test_old_keys_serve_for_an_hour(time: Clock, failure: Any) -> None:
    issuer = Issuer()
    keys = cache(issuer)
    await ask(keys, "a")
    issuer.text = failure
    for _ in range(38):
        time.now_s += 100
        assert await ask(keys, "a") == ["a"]
    assert 30 < issuer.asked < 40
    time.now_s += 101
    with pytest.raises(KeysUnavailable):
        await ask(keys, "a")
    issuer.text = "a"
    with pytest.raises(KeysUnavailable):
        await ask(keys, "a")
    time.now_s += 10
    assert await ask(keys, "a") == ["a"]


async def test_a_failure_is_logged_without_an_address(caplog: pytest.LogCaptureFixture, time: Clock) -> None:
    keys = cache(Issuer(HttpFailure("connect", "cannot connect to secret.example")))
    with pytest.raises(KeysUnavailable):
        await ask(keys, "a")
    assert "portal" in caplog.text
    assert "connect" in caplog.text
    assert "secret.example" not in caplog.text


# --- where documents come from ---


async def test_a_document_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(b"x" * tokens.MAX_DOCUMENT_BYTES)
    assert await file_fetch(str(path))() == path.read_bytes()
    path.write_bytes(b"x" * (tokens.MAX_DOCUMENT_BYTES + 1))
    with pytest.raises(ValueError, match="larger"):
        read_document(str(path))


@pytest.mark.parametrize(
    "script", [whole(b'{"keys":[]}'), chunked(b'{"ke', b'ys":[]}', content_type=b"application/json")]
)
async def test_a_document_from_a_url(script: list[Any]) -> None:
    async with loopback(script) as server:
        assert await url_fetch(server.url + "/.well-known/jwks.json?v=1")() == b'{"keys":[]}'
    head = server.requests[0][0]
    assert head.startswith(b"GET /.well-known/jwks.json?v=1 HTTP/1.1\r\n")
    assert b"authorization" not in head.lower()


@pytest.mark.parametrize(
    "script",
    [
        whole(b"{}", 301, extra=b"location: /elsewhere\r\n"),
        whole(b"{}", 404),
        whole(b"{}", 500),
        whole(b"x" * (tokens.MAX_DOCUMENT_BYTES + 1)),
        chunked(*[b"x" * 65536] * 17),
        [b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"],
        [RESET],
        [b"SSH-2.0\r\n"],
    ],
)
async def test_what_is_no_document(script: list[Any]) -> None:
    async with loopback(script) as server:
        with pytest.raises((ValueError, HttpFailure)):
            await url_fetch(server.url)()
    assert len(server.requests) <= 1, "a redirect is not followed"


async def test_a_slow_issuer_is_not_waited_for() -> None:
    async with loopback([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", HANG]) as server:
        with pytest.raises((TimeoutError, HttpFailure)):
            await url_fetch(server.url, timeout_s=0.05)()


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example/jwks", "http://10.0.0.1/", "ftp://issuer.example/", "file:///etc/passwd", "/jwks", "",
        "https://user:pass@issuer.example/", "https://issuer.example/#x", "https://issuer.example/a b",
        "https://issuer.example/\r\nx: y", "http://127.0.0.1.evil.example/", "http://localhost.evil.example/",
    ],
)  # fmt: skip
def test_only_safe_urls(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        url_fetch(url)
    for good in ("https://issuer.example/jwks", "http://localhost:1/", "http://127.0.0.1/", "http://[::1]:8/x"):
        url_fetch(good)
