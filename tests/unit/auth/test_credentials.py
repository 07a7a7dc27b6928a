import pytest
from hypothesis import given
from hypothesis import strategies as st

from zuebee.auth.records import (
    MAX_KEY_BYTES,
    KeyRecord,
    digest_of,
    find_key,
    judge,
    same_digest,
)
from zuebee.contracts.admission import ANONYMOUS
from zuebee.contracts.errors import ADDRESS_REFUSED, KEY_DISABLED, KEY_EXPIRED
from zuebee.contracts.inference import Headers
from zuebee.lib.networks import parse_networks

CARRIERS = [b"authorization", b"x-api-key"]


@pytest.mark.requirement("A075", "A076", "A250")
@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([(b"authorization", b"Bearer k")], b"k"),
        ([(b"authorization", b"bearer k")], b"k"),
        ([(b"authorization", b"BEARER   k  ")], b"k"),
        ([(b"x-api-key", b"k")], b"k"),
        ([(b"x-api-key", b" k ")], b"k"),
        ([(b"x-api-key", b"k2"), (b"authorization", b"Bearer k1")], b"k1"),
        ([(b"authorization", b"Basic eDp5"), (b"x-api-key", b"k")], b"k"),
        ([(b"authorization", b"Bearer "), (b"x-api-key", b"k")], b"k"),
        ([(b"authorization", b"Bearer " + b"k" * MAX_KEY_BYTES)], None),
        ([(b"authorization", b"k")], None),
        ([(b"authorization", b"Bearer")], None),
        ([(b"authorization", b"")], None),
        ([(b"x-api-key", b"  ")], None),
        ([(b"cookie", b"k")], None),
        ([], None),
    ],
)
def test_where_a_key_is_found(headers: Headers, key: bytes | None) -> None:
    assert find_key(dict(headers), CARRIERS) == key


def test_the_carriers_have_an_order() -> None:
    headers = [(b"authorization", b"Bearer one"), (b"x-api-key", b"two")]
    assert find_key(dict(headers), CARRIERS) == b"one"
    assert find_key(dict(headers), CARRIERS[::-1]) == b"two"
    assert find_key(dict(headers), []) is None


@given(st.lists(st.tuples(st.sampled_from(CARRIERS), st.binary(max_size=30))))
def test_no_header_raises(headers: Headers) -> None:
    find_key(dict(headers), CARRIERS)


@pytest.mark.requirement("A251")
def test_keys_are_compared_by_digest() -> None:
    assert digest_of(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert same_digest(digest_of(b"a"), digest_of(b"a"))
    assert not same_digest(digest_of(b"a"), digest_of(b"b"))


def record(**changes: object) -> KeyRecord:
    return KeyRecord(digest="d", principal=ANONYMOUS, **changes)  # type: ignore[arg-type]


OURS = parse_networks(["10.0.0.0/8"])
ONE = parse_networks(["10.0.0.1"])


@pytest.mark.requirement("A254")
@pytest.mark.parametrize(
    ("known", "address", "refusal"),
    [
        (record(), "1.2.3.4", None),
        (record(), "", None),
        (record(active=False), "1.2.3.4", KEY_DISABLED),
        (record(active=False, expired=True), "1.2.3.4", KEY_EXPIRED),
        (record(expires_at_s=100.0), "1.2.3.4", KEY_EXPIRED),
        (record(expires_at_s=100.001), "1.2.3.4", None),
        (record(allowed=OURS), "10.9.9.9", None),
        (record(allowed=OURS), "11.9.9.9", ADDRESS_REFUSED),
        (record(allowed=OURS), "", ADDRESS_REFUSED),
        (record(denied=OURS), "10.9.9.9", ADDRESS_REFUSED),
        (record(denied=OURS), "::ffff:10.9.9.9", ADDRESS_REFUSED),
        (record(denied=OURS), "11.9.9.9", None),
        (record(allowed=OURS, denied=ONE), "10.0.0.1", ADDRESS_REFUSED),
        (record(allowed=OURS, denied=ONE), "10.0.0.2", None),
    ],
)
def test_whether_a_known_key_may_be_used(known: KeyRecord, address: str, refusal: object) -> None:
    assert judge(known, address, 100.0) == refusal
