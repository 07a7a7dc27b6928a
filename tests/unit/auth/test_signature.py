import base64
import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zuebee.auth.signatures import MAX_SIGNATURES, Signed, canonical, fits, in_window, is_signed, read_fields, sign

SECRET = "0123456789abcdef0123456789abcdef"
FIELDS = {
    b"x-client-id": b"acme",
    b"x-timestamp": b"1800000000",
    b"x-nonce": b"f1c5a2b4e6d80917",
    b"x-content-sha256": hashlib.sha256(b"{}").hexdigest().encode(),
    b"x-signature": b"v1=abc=",
}
SIGNED = Signed("acme", "1800000000", "f1c5a2b4e6d80917", hashlib.sha256(b"{}").hexdigest(), (b"abc=",))


def test_the_parts_of_a_signature() -> None:
    assert read_fields(FIELDS) == SIGNED
    assert read_fields({**FIELDS, b"x-signature": b"v1=abc=, v1=def, v2=ghi"}) == SIGNED._replace(
        signatures=(b"abc=", b"def")
    )
    assert is_signed(FIELDS)
    assert is_signed({b"x-signature": b""})
    assert is_signed({b"x-client-id": b""})
    assert not is_signed({b"authorization": b"Bearer x", b"x-timestamp": b"1"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("client-id", b""), ("client-id", b"a b"), ("client-id", b"\xc3\xa9"), ("client-id", b"a" * 129),
        ("timestamp", b""), ("timestamp", b"-1"), ("timestamp", b"+1"), ("timestamp", b"1.5"), ("timestamp", b"1e9"),
        ("timestamp", b"now"), ("timestamp", b"1" * 12), ("timestamp", b"0x10"), ("timestamp", b"\xd9\xa1"),
        ("nonce", b""), ("nonce", b"short"), ("nonce", b"n" * 129), ("nonce", b"f1c5a2b4 e6d80917"),
        ("nonce", b"\0" * 20),
        ("content-sha256", b""), ("content-sha256", b"a" * 63), ("content-sha256", b"g" * 64),
        ("signature", b""), ("signature", b"abc="), ("signature", b"v2=abc="), ("signature", b","),
        ("signature", b"V1=abc"), ("signature", b",".join([b"v1=x"] * (MAX_SIGNATURES + 1))),
        ("signature", b"v1=" + b"x" * 1024),
    ],
)  # fmt: skip
def test_parts_that_cannot_be(name: str, value: bytes) -> None:
    assert read_fields({**FIELDS, b"x-" + name.encode(): value}) is None
    assert read_fields({key: text for key, text in FIELDS.items() if key != b"x-" + name.encode()}) is None


def test_the_canonical_string() -> None:
    text = canonical("POST", b"/v1/chat/completions", b"a=%20b&a=1", SIGNED)
    assert text.split(b"\n") == [
        b"v1",
        b"acme",
        b"POST",
        b"/v1/chat/completions?a=%20b&a=1",
        b"1800000000",
        b"f1c5a2b4e6d80917",
        hashlib.sha256(b"{}").hexdigest().encode(),
    ]
    assert canonical("GET", b"/v1/models", b"", SIGNED).split(b"\n")[3] == b"/v1/models"


parts = st.tuples(
    st.sampled_from(["GET", "POST"]),
    st.text("/abc%2F", min_size=1, max_size=4).map(str.encode),
    st.text("a=&?", max_size=3).map(str.encode),
    st.builds(
        Signed, *[st.text(letters, min_size=1, max_size=3) for letters in ("ac?/", "12", "n1", "ab")], st.just(())
    ),
)


@given(parts, parts)
def test_two_requests_have_two_strings(one: Any, other: Any) -> None:
    """But for where a query begins, which the request line tells in the same way."""

    def line(request: Any) -> Any:
        method, path, query, signed = request
        return method, path + b"?" + query if query else path, signed

    assert (canonical(*one) == canonical(*other)) == (line(one) == line(other))


def test_the_signature_is_the_known_one() -> None:
    """RFC 4231, test case 2; and HMAC by its definition (RFC 2104)."""
    known = bytes.fromhex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
    assert base64.b64decode(sign("Jefe", b"what do ya want for nothing?")) == known
    padded = SECRET.encode().ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded) + b"text").digest()
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded) + inner).digest()
    assert base64.b64decode(sign(SECRET, b"text")) == outer


def test_one_right_signature_is_enough() -> None:
    right, wrong = sign(SECRET, b"t"), sign(SECRET, b"u")
    assert fits([SECRET], b"t", [right])
    assert fits(["other" * 8, SECRET], b"t", [wrong, right])
    assert not fits([SECRET], b"t", [wrong])
    assert not fits([SECRET], b"t", [right[:-1], right + b"=", right.lower(), right.rstrip(b"="), b""])
    assert not fits([SECRET], b"t", [])
    assert not fits([], b"t", [right])


def test_all_are_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: (compared.append(b), real(a, b))[1])
    right = sign(SECRET, b"t")
    for signatures in ([right, b"x"], [b"x", right], [b"x", b"x"]):
        compared.clear()
        fits([SECRET, "other" * 8], b"t", signatures)
        assert len(compared) == 4


@pytest.mark.requirement("A058")
@pytest.mark.parametrize(
    ("skew_s", "accepted"),
    [(0, True), (-299, True), (299, True), (300, True), (-300, True), (-301, False), (301, False), (86400, False)],
)
def test_the_window(skew_s: int, accepted: bool) -> None:
    assert in_window(str(1_800_000_000 + skew_s), 1_800_000_000.0) is accepted
