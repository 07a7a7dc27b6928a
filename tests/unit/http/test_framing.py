"""How the end of a body is found."""

import pytest

from zuebee.http.grammar import codings, ends_with_connection

CHUNKED = (b"transfer-encoding", b"Chunked")


def test_codings_are_told_in_lower_case_and_in_order() -> None:
    assert codings([(b"a", b"b"), CHUNKED, (b"transfer-encoding", b"gzip")]) == [b"chunked", b"gzip"]


@pytest.mark.parametrize(
    ("status", "headers", "ends"),
    [
        (200, [], True),
        (204, [], False),
        (304, [], False),
        (200, [(b"content-length", b"0")], False),
        (200, [CHUNKED], False),
    ],
)
def test_an_answer_without_a_length_ends_with_its_connection(
    status: int, headers: list[tuple[bytes, bytes]], ends: bool
) -> None:
    assert ends_with_connection(status, headers) is ends


def test_a_coding_nobody_asked_for_is_an_error() -> None:
    with pytest.raises(ValueError, match="transfer encoding"):
        ends_with_connection(200, [CHUNKED, (b"transfer-encoding", b"gzip")])
