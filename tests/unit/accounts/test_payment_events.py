import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zuebee.accounts.payments import EventVerifier, PaymentEvent, read_event, sign
from zuebee.contracts.errors import Refusal

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OLD = "aB3$kfi29fkQpz71mmN0xLw4"
BODY = b'{"id":"pay_1","account":"organization:acme/USD/never","unit":"USD","amount":5}'
NOW_S = 1_800_000_000.0


def fields(signature: str, event_id: bytes = b"evt_1", at: bytes = b"1800000000") -> dict[bytes, bytes]:
    return {b"webhook-id": event_id, b"webhook-timestamp": at, b"webhook-signature": signature.encode()}


def test_the_providers_event_is_known() -> None:
    verifier = EventVerifier([SECRET, OLD])
    for secret in (SECRET, OLD):
        good = sign(secret, "evt_1", 1_800_000_000, BODY)
        assert verifier.verify(fields(good), BODY, NOW_S) is None
        assert verifier.verify(fields(f"v2,xx v1,AAAA {good}"), BODY, NOW_S + 299) is None


@pytest.mark.parametrize(
    ("shown", "body", "now_s"),
    [
        ({}, BODY, NOW_S),
        (fields(""), BODY, NOW_S),
        (fields("v1,"), BODY, NOW_S),
        (fields("v1,!!!"), BODY, NOW_S),
        (fields(sign(SECRET, "evt_1", 1_800_000_000, BODY)), BODY + b" ", NOW_S),
        (fields(sign(SECRET, "evt_1", 1_800_000_000, BODY), b"evt_2"), BODY, NOW_S),
        (fields(sign(SECRET, "evt_1", 1_800_000_000, BODY)), BODY, NOW_S + 301),
        (fields(sign(SECRET, "evt_1", 1_800_000_000, BODY)), BODY, NOW_S - 301),
        (fields(sign(SECRET, "evt_1", 1_800_000_000, BODY), at=b"1800000001"), BODY, NOW_S),
        (fields(sign(SECRET, "evt_1", 1_800_000_000, BODY), at="١٨".encode()), BODY, NOW_S),
        (fields(sign(OLD, "evt_1", 1_800_000_000, BODY)), BODY, NOW_S),
    ],
)
def test_anybody_elses_is_refused(shown: dict[bytes, bytes], body: bytes, now_s: float) -> None:
    refusal = EventVerifier([SECRET]).verify(shown, body, now_s)
    assert refusal is not None
    assert (refusal.status, refusal.code) == (401, "invalid_signature")


def test_a_signature_with_an_empty_secret_is_refused() -> None:
    digest = hmac.digest(b"", b"evt_1.1800000000." + BODY, hashlib.sha256)
    forged = "v1," + base64.b64encode(digest).decode()
    assert EventVerifier([SECRET]).verify(fields(forged), BODY, NOW_S) is not None


@pytest.mark.parametrize(
    "secret",
    ["", " ", "short", "whsec_", "whsec_AAAA", "whsec_not base64!", "changeme-changeme-changeme-1",
     "sk-1234" + "x" * 30, "a" * 64, "abababababababababababababab", "your-webhook-secret-goes-here"],
)  # fmt: skip
def test_secrets_that_others_know_or_guess_are_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="secret"):
        EventVerifier([SECRET, secret])


def test_no_secret_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="no secret"):
        EventVerifier([])


def test_events_are_read() -> None:
    assert read_event(BODY) == PaymentEvent(id="pay_1", account="organization:acme/USD/never", unit="USD", amount=5)


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", BODY.replace(b"5", b"-5"), BODY.replace(b"5", b"0"), BODY.replace(b"5", b"1.5"),
     BODY.replace(b"5", b"4611686018427387905"), BODY.replace(b"5", b"NaN"), BODY.replace(b'"pay_1"', b'""')],
)  # fmt: skip
def test_a_hostile_amount_is_never_a_credit(body: bytes) -> None:
    assert isinstance(read_event(body), Refusal)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(body: bytes) -> None:
    assert isinstance(read_event(body), Refusal | PaymentEvent)
    assert EventVerifier([SECRET]).verify(fields("v1,AAAA"), body, NOW_S) is not None
