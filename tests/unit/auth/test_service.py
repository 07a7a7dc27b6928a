from typing import Any

import pytest

from zuebee.auth.credentials import KeyRecord, digest_of, parse_networks
from zuebee.auth.service import UNAVAILABLE, KeyAuthenticator, OpenDoor
from zuebee.contracts.admission import ANONYMOUS, Caller, Principal
from zuebee.contracts.errors import ADDRESS_REFUSED, KEY_DISABLED, NO_KEY, UNKNOWN_KEY


class Source:
    """Knows one key, or fails."""

    def __init__(self, name: str, key: bytes = b"k", failure: Exception | None = None, **fields: Any) -> None:
        self.name = name
        self.asked: list[str] = []
        self._failure = failure
        self._record = KeyRecord(digest_of(key), Principal("key_" + name, name, name), **fields)

    async def find(self, digest: str) -> KeyRecord | None:
        self.asked.append(digest)
        if self._failure is not None:
            raise self._failure
        return self._record if digest == self._record.digest else None


def caller(key: bytes | None = b"k", address: str = "10.0.0.1") -> Caller:
    fields = {} if key is None else {b"authorization": b"Bearer " + key}
    return Caller("POST", "/v1/chat/completions", fields, address)


async def outcome(mode: str, *sources: Source, key: bytes | None = b"k") -> object:
    found = await KeyAuthenticator(sources, ["Authorization", "X-API-Key"], mode).identify(caller(key))
    return found.name if isinstance(found, Principal) else found


async def test_without_a_key_no_source_is_asked() -> None:
    source = Source("a")
    assert await outcome("first_match", source, key=None) == NO_KEY
    assert source.asked == []


async def test_an_unknown_key_is_refused() -> None:
    assert await outcome("first_match", Source("a"), key=b"other") == UNKNOWN_KEY
    assert await outcome("all", Source("a"), key=b"other") == UNKNOWN_KEY
    assert await outcome("first_match") == UNKNOWN_KEY


async def test_a_source_never_sees_the_key() -> None:
    source = Source("a")
    await outcome("first_match", source)
    assert source.asked == [digest_of(b"k")]


@pytest.mark.requirement("A071", "A072")
async def test_first_match_the_first_that_knows_the_key_decides() -> None:
    a, b = Source("a"), Source("b")
    assert await outcome("first_match", a, b) == "a"
    assert b.asked == []
    assert await outcome("first_match", Source("b"), Source("a")) == "b"
    assert await outcome("first_match", Source("x", key=b"other"), Source("b")) == "b"
    assert await outcome("first_match", Source("a", active=False), Source("b")) == KEY_DISABLED


@pytest.mark.requirement("A073")
async def test_all_each_that_knows_the_key_must_agree() -> None:
    assert await outcome("all", Source("a"), Source("b")) == "a"
    assert await outcome("all", Source("a"), Source("b", active=False)) == KEY_DISABLED
    assert await outcome("all", Source("x", key=b"other"), Source("b")) == "b"


@pytest.mark.parametrize("mode", ["first_match", "all"])
async def test_a_source_that_fails_opens_no_door(mode: str) -> None:
    failing = Source("a", failure=OSError("db.internal:5432 refused"))
    assert await outcome(mode, failing, Source("b")) == UNAVAILABLE
    assert "db.internal" not in UNAVAILABLE.message


@pytest.mark.requirement("A254")
async def test_the_callers_address_is_judged() -> None:
    guarded = Source("a", denied=parse_networks(["10.0.0.0/8"]))
    assert await outcome("first_match", guarded) == ADDRESS_REFUSED


@pytest.mark.requirement("A248")
async def test_an_open_door_knows_everybody_as_the_same() -> None:
    assert await OpenDoor().identify(caller(None)) == ANONYMOUS
    assert await OpenDoor().identify(caller(b"any")) == ANONYMOUS
