"""What comes in is cut behind each message, however the network cut it before."""

from hypothesis import given
from hypothesis import strategies as st

from zuebee.http.reader import PIECE_BYTES, Pieces

END = b"\r\n\r\n"
texts = st.lists(st.sampled_from([b"y", b"\r\n", b"\r", b"\n", END, b"z" * 50, b"w" * PIECE_BYTES]), max_size=12)


def cuts(parts: list[bytes]) -> list[int]:
    """Where a stream that comes in these parts is cut, as counted from its beginning."""
    pieces, found, before = Pieces(), [], 0
    for part in parts:
        at = 0
        while at < len(part):
            end = pieces.end(part, at)
            assert at < end <= len(part)
            at = end
            found.append(before + at)
        pieces.ran_out(part)
        before += len(part)
    return found


@given(texts, st.lists(st.integers(1, 40), max_size=20))
def test_there_is_a_cut_behind_each_empty_line(text: list[bytes], sizes: list[int]) -> None:
    data = b"".join(text)
    parts, at = [], 0
    for size in sizes:
        parts.append(data[at : at + size])
        at += size
    parts.append(data[at:])
    found = cuts([part for part in parts if part])
    size = len(END)
    empty_lines = {at for at in range(len(data)) if data.startswith(END, at)}
    for at in empty_lines:
        # In a row of line ends one that overlaps another, behind which there is a cut, is none of its own.
        overlapped = {other for other in range(at - size + 1, at) if other in empty_lines and other + size in found}
        assert at + size in found or overlapped
    assert all(b - a <= PIECE_BYTES for a, b in zip([0, *found], found, strict=False))


@given(st.binary(min_size=1, max_size=200), st.integers(1, 300))
def test_a_body_of_known_length_is_one_piece(data: bytes, length: int) -> None:
    pieces = Pieces()
    pieces.body_left = length
    assert pieces.end(data, 0) == min(len(data), length)


def test_nothing_is_remembered_of_a_message_that_is_over() -> None:
    pieces = Pieces()
    pieces.ran_out(b"\r\n\r")
    pieces.begin()
    assert pieces.end(b"\nyyyy", 0) == 5
