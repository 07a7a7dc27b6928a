import pytest

from zuebee.contracts.idempotency import IdempotencyRecord
from zuebee.idempotency.store import Unreadable, fingerprint, name, root_secret, seal, unseal

ANSWER = IdempotencyRecord(
    200, [(b"content-type", b"application/json"), (b"x", b"\xff")], b'{"secret": 1}' * 9, events=False
)
ROOT = root_secret(b"org", b"key", b"body")


def test_what_was_sealed_can_be_opened() -> None:
    assert unseal(ROOT, "row", seal(ROOT, "row", ANSWER)) == ANSWER


def test_nothing_of_it_shows_and_no_two_look_alike() -> None:
    first, second = seal(ROOT, "row", ANSWER), seal(ROOT, "row", ANSWER)
    assert first != second
    assert not any(word in first for word in (b"secret", b"content-type", ROOT, b"row"))


@pytest.mark.parametrize(("root", "row"), [(root_secret(b"org", b"key", b"other"), "row"), (ROOT, "other")])
def test_another_request_or_row_opens_nothing(root: bytes, row: str) -> None:
    with pytest.raises(Unreadable):
        unseal(root, row, seal(ROOT, "row", ANSWER))


def test_every_changed_byte_is_seen() -> None:
    sealed = seal(ROOT, "row", ANSWER)
    for at in range(len(sealed)):
        changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        with pytest.raises(Unreadable):
            unseal(ROOT, "row", changed)
    for short in (b"", sealed[:1], sealed[:20], sealed[:-1]):
        with pytest.raises(Unreadable):
            unseal(ROOT, "row", short)


def test_parts_cannot_be_moved_from_one_to_another() -> None:
    pairs = [(b"a", b"bc"), (b"ab", b"c"), (b"abc", b""), (b"", b"abc"), (b"1:a", b"bc")]
    assert len({root_secret(*pair) for pair in pairs}) == len(pairs)
    assert len({name(*pair) for pair in pairs}) == len(pairs)
    assert name(b"a", b"bc") != root_secret(b"a", b"bc").hex()


def test_a_fingerprint_shows_a_difference_and_no_key() -> None:
    other = root_secret(b"org", b"key", b"body ")
    assert fingerprint(ROOT) == fingerprint(root_secret(b"org", b"key", b"body"))
    assert fingerprint(ROOT) not in (fingerprint(other), ROOT.hex())
