"""G7: how long a refusal takes does not tell how near a guess was.

100,000 timings for each pair of classes in `make proof`, and a fifth of them in `make test`, which is four times what
the control needs.
"""

import random
import secrets
from collections.abc import Callable
from copy import deepcopy as copy

import pytest

from tests.support.timing import leak
from zuebee.auth.nonces import MemoryNonces
from zuebee.auth.records import digest_of, same_digest
from zuebee.auth.signatures import BAD_SIGNATURE, SignatureSource, Signed, canonical, fits, sign
from zuebee.auth.sources.base import FileSource
from zuebee.config.settings_auth import SignatureClientSettings
from zuebee.contracts.admission import Caller, Principal
from zuebee.contracts.errors import Refusal
from zuebee.contracts.keys import Credential, KeyRecord
from zuebee.lib import clock

pytestmark = pytest.mark.alone

SAMPLES = 100_000
COUNTS = [pytest.param(SAMPLES // 5, id="short"), pytest.param(SAMPLES, id="long", marks=pytest.mark.proof)]
KEY = b"sk-" + secrets.token_hex(24).encode()
SECRET = secrets.token_hex(32)
TEXT = b"v1\nacme\nPOST\n/v1/chat/completions\n1800000000\nnonce-0123456789\n" + b"0" * 64
RIGHT = sign(SECRET, TEXT)


_chance = random.Random(11)


def spoiled(value: bytes, start: int, end: int) -> Callable[[int], bytes]:
    """Makes the value again and again with chance in the place of some of its bytes.

    Never the same twice: a fixed set of guesses has places of its own in caches and tables, which is no leak.
    """

    def make(_: int) -> bytes:
        found = bytearray(value)
        found[start:end] = _chance.randbytes(len(found)).hex().encode()[: end - start]
        return bytes(found)

    return make


def around(value: bytes, prefix: int = 0, suffix: int = 0) -> dict[str, Callable[[int], bytes]]:
    end = len(value) - suffix
    return {
        "nothing right": spoiled(value, prefix, end),
        "all but the last": spoiled(value, end - 4, end),
        "all but the first": spoiled(value, prefix, prefix + 4),
    }


KEYS = around(KEY, prefix=3)
SIGNATURES = around(RIGHT, suffix=1)


def known_key() -> Callable[[bytes], object]:
    """The comparison of a key, from its bytes to the answer, as the source of the file makes it."""
    source = FileSource([KeyRecord(digest_of(KEY), Principal("key_1"))])
    caller = Caller("POST", "/", {}, "10.0.0.1")

    def compare(key: bytes) -> object:
        try:
            source.find(Credential(caller, key, digest_of(key))).send(None)
        except StopIteration as found:
            return found.value
        raise AssertionError

    assert isinstance(compare(KEY), KeyRecord)
    return compare


@pytest.mark.parametrize("samples", COUNTS)
@pytest.mark.parametrize("near", ["all but the last", "all but the first"])
def test_a_key_that_is_nearly_right_takes_as_long(near: str, samples: int) -> None:
    found = leak(known_key(), (KEYS["nothing right"], KEYS[near]), samples)
    assert not found.seen, found


@pytest.mark.parametrize("samples", COUNTS)
@pytest.mark.parametrize("near", ["all but the last", "all but the first"])
def test_a_digest_that_is_nearly_right_takes_as_long(near: str, samples: int) -> None:
    right = digest_of(KEY)
    digests = around(right.encode())
    found = leak(lambda one: same_digest(right, one.decode()), (digests["nothing right"], digests[near]), samples)
    assert not found.seen, found


@pytest.mark.requirement("A058")
@pytest.mark.parametrize("samples", COUNTS)
@pytest.mark.parametrize("near", ["all but the last", "all but the first"])
def test_a_signature_that_is_nearly_right_takes_as_long(near: str, samples: int) -> None:
    found = leak(lambda one: fits([SECRET], TEXT, [one]), (SIGNATURES["nothing right"], SIGNATURES[near]), samples)
    assert not found.seen, found


def naive(right: bytes, guess: bytes) -> bool:
    """A comparison that stops at the first difference, byte by byte."""
    return len(right) == len(guess) and all(one == other for one, other in zip(right, guess, strict=True))


def test_a_comparison_that_stops_early_is_seen() -> None:
    """The control: the same figures tell it at once, with a twentieth of the samples."""
    near = "all but the last"
    assert leak(lambda one: naive(KEY, one), (KEYS["nothing right"], KEYS[near]), SAMPLES // 20).seen
    signatures = (SIGNATURES["nothing right"], SIGNATURES[near])
    assert leak(lambda one: naive(RIGHT, one), signatures, SAMPLES // 20).seen


def signed_ask(client: str, secret: str) -> Credential:
    signed = Signed(client, "1800000000", secrets.token_hex(16), "0" * 64, ())
    path = b"/v1/chat/completions"
    fields = {
        b"x-client-id": client.encode(),
        b"x-timestamp": signed.timestamp.encode(),
        b"x-nonce": signed.nonce.encode(),
        b"x-content-sha256": signed.body_sha256.encode(),
        b"x-signature": b"v1=" + sign(secret, canonical("POST", path, b"", signed)),
    }
    return Credential(Caller("POST", path.decode(), fields, "10.0.0.1", raw_path=path), None, "")


class Hasty(SignatureSource):
    """Does not take the trouble for who is unknown."""

    async def find(self, presented: Credential) -> KeyRecord | Refusal | None:
        if presented.caller.fields[b"x-client-id"].decode() not in self._clients:
            return BAD_SIGNATURE
        return await super().find(presented)


@pytest.mark.requirement("A058")
@pytest.mark.parametrize("kind", [SignatureSource, Hasty])
def test_a_client_that_does_not_exist_takes_as_long(
    kind: type[SignatureSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hundred clients with one secret or two, and names of the same length that nobody has.

    A lookup that finds something takes some nanoseconds more than one that does not, whatever one does: so this is
    held to three hundredths of the whole, which no network shows. The control, a source that is hasty, is seen.
    """
    monkeypatch.setattr(clock, "wall_s", lambda: 1_800_000_000.0)
    names = [f"client-{secrets.token_hex(4)}" for _ in range(200)]
    clients = [
        SignatureClientSettings(client_id=name, secrets=[secrets.token_hex(32) for _ in range(1 + index % 2)])
        for index, name in enumerate(names)
    ]
    source = kind("partners", clients, MemoryNonces())
    asks = [signed_ask(name, "wrong") for name in names]
    strangers = [signed_ask(f"client-{secrets.token_hex(4)}", "wrong") for _ in names]

    def find(presented: Credential) -> object:
        try:
            source.find(presented).send(None)
        except StopIteration as found:
            return found.value
        raise AssertionError

    assert find(asks[0]) is find(strangers[0]) is BAD_SIGNATURE
    found = leak(
        find, (lambda index: copy(asks[index % 200]), lambda index: copy(strangers[index % 200])), SAMPLES // 4
    )
    alike = abs(found.one_ns - found.other_ns) < 0.03 * found.one_ns
    assert alike is (kind is SignatureSource), found
