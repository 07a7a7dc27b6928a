import pytest
from httptools import HttpParserInvalidURLError

from zuebee.http.grammar import RequestTarget, is_for, read_target, take_apart


@pytest.mark.parametrize("read", [take_apart, read_target])
def test_a_target_is_taken_apart(read: object) -> None:
    assert callable(read)
    assert read(b"/v1/chat?a=1&b=%20") == RequestTarget("/v1/chat", b"/v1/chat", b"a=1&b=%20")
    assert read(b"/v1/models/org%2Fname") == RequestTarget("/v1/models/org/name", b"/v1/models/org%2Fname", b"")
    assert read(b"http://gate:80") == RequestTarget("/", b"/", b"")
    with pytest.raises((HttpParserInvalidURLError, UnicodeDecodeError)):
        read(b"/v1/\xff")


@pytest.mark.parametrize(
    ("url", "host", "method", "answered"),
    [
        (b"*", b"gate", b"OPTIONS", True),
        (b"*", b"gate", b"GET", False),
        (b"http://gate/v1", b"gate", b"GET", True),
        (b"HTTPS://gate?x", b"gate", b"GET", True),
        (b"http://gate/v1", None, b"GET", True),
        (b"http://other/v1", b"gate", b"GET", False),
        (b"http://gate@other/v1", b"gate", b"GET", False),
        (b"ftp://gate/v1", b"gate", b"GET", False),
        (b"gate:443", b"gate", b"CONNECT", False),
    ],
)
def test_other_forms_must_name_the_host(url: bytes, host: bytes | None, method: bytes, answered: bool) -> None:
    assert is_for(url, host, method) is answered
