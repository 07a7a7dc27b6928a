import hashlib

from zuebee.contracts.usage import next_hash

ENTRY = (1, "grant", "g1", 0, 2, 100, 0, 0, 0, 1, 5.0)


def test_the_hash_is_that_of_the_one_before_and_the_entries_as_json() -> None:
    first = next_hash("", [ENTRY])
    assert first == hashlib.sha256(b'[[1,"grant","g1",0,2,100,0,0,0,1,5.0]]').hexdigest()
    assert next_hash(first, []) == hashlib.sha256(first.encode() + b"[]").hexdigest()


def test_each_value_and_the_order_count() -> None:
    other = (*ENTRY[:5], 99, *ENTRY[6:])
    without_step = (*ENTRY[:3], None, *ENTRY[4:])
    hashes = {next_hash(before, rows) for before in ("", "a") for rows in ([ENTRY, other], [other, ENTRY], [ENTRY])}
    assert len(hashes) == 6
    assert next_hash("", [without_step]) != next_hash("", [ENTRY])


def test_no_text_can_look_like_two_fields() -> None:
    sly = (1, "grant", 'g1",0', *ENTRY[4:])
    assert next_hash("", [sly]) != next_hash("", [ENTRY])
