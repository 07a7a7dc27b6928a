"""Requests that are malformed, ambiguous or meant to smuggle: (what it is, its bytes, what must become of it).

`refused`: an error answer or none, and the application hears of nothing. `once`: harmless; it may be answered, and the
application hears of at most one request, the first. `/hidden` is what a smuggler wants to be heard.
"""

from typing import Literal

Fate = Literal["refused", "broken", "once"]

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"


def post(fields: bytes, body: bytes, version: bytes = b"1.1") -> bytes:
    return b"POST /echo HTTP/" + version + b"\r\nHost: a\r\n" + fields + b"\r\n" + body


def get(line: bytes, fields: bytes = b"Host: a\r\n") -> bytes:
    return line + b"\r\n" + fields + b"\r\n"


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked\r\n", body)


FRAMING: list[tuple[str, bytes, Fate]] = [
    ("CL.TE", post(b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n" + HIDDEN), "refused"),
    ("TE.CL", post(b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", b"1f\r\n" + HIDDEN), "refused"),
    ("CL.CL same", post(b"Content-Length: 2\r\nContent-Length: 2\r\n", b"ab"), "refused"),
    ("CL.CL different", post(b"Content-Length: 0\r\nContent-Length: 35\r\n", HIDDEN), "refused"),
    ("CL list", post(b"Content-Length: 2, 2\r\n", b"ab"), "refused"),
    ("CL plus sign", post(b"Content-Length: +2\r\n", b"ab"), "refused"),
    ("CL minus sign", post(b"Content-Length: -1\r\n", b"ab"), "refused"),
    ("CL hexadecimal", post(b"Content-Length: 0x2\r\n", b"ab"), "refused"),
    ("CL underscore", post(b"Content-Length: 1_0\r\n", b"ab"), "refused"),
    ("CL with a space inside", post(b"Content-Length: 0 2\r\n", b"ab"), "refused"),
    ("CL empty", post(b"Content-Length:\r\n", HIDDEN), "refused"),
    ("CL decimal point", post(b"Content-Length: 2.0\r\n", b"ab"), "refused"),
    ("CL overflow", post(b"Content-Length: 18446744073709551618\r\n", b"ab"), "refused"),
    ("CL in other digits", post("Content-Length: ٢\r\n".encode(), b"ab"), "refused"),
    ("CL behind a vertical tab", post(b"Content-Length: \x0b2\r\n", b"ab"), "refused"),
    ("CL quoted", post(b'Content-Length: "2"\r\n', b"ab"), "refused"),
    ("CL folded", post(b"Content-Length:\r\n 2\r\n", b"ab"), "refused"),
    ("TE.TE second unknown", post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", b"0\r\n\r\n"), "refused"),
    ("TE.TE first unknown", post(b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"), "refused"),
    ("TE identity, then chunked", post(b"Transfer-Encoding: identity, chunked\r\n", b"0\r\n\r\n"), "refused"),
    ("TE gzip, then chunked", post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"), "refused"),
    ("TE chunked twice", post(b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n"), "refused"),
    ("TE chunked not last", post(b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n"), "refused"),
    ("TE almost chunked", post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"), "refused"),
    ("TE with a parameter", post(b"Transfer-Encoding: chunked;q=1\r\n", b"0\r\n\r\n"), "refused"),
    ("TE quoted", post(b'Transfer-Encoding: "chunked"\r\n', b"0\r\n\r\n"), "refused"),
    ("TE behind a vertical tab", post(b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n"), "refused"),
    ("TE empty", post(b"Transfer-Encoding:\r\n", b"0\r\n\r\n"), "refused"),
    ("TE identity", post(b"Transfer-Encoding: identity\r\n", HIDDEN), "refused"),
    ("TE folded", post(b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n"), "refused"),
    ("TE with a space before the colon", post(b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"), "refused"),
    ("TE in HTTP/1.0", post(b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"1.0"), "refused"),
    ("TE with an underscore beside CL", post(b"Transfer_Encoding: chunked\r\nContent-Length: 0\r\n", b""), "once"),
    ("TE named by Connection", post(b"Connection: Transfer-Encoding\r\nContent-Length: 0\r\n", b""), "once"),
    ("CL leading zero", post(b"Content-Length: 02\r\n", b"ab"), "once"),
    ("TE in capitals", post(b"TRANSFER-ENCODING: CHUNKED\r\n", b"0\r\n\r\n"), "once"),
]

# The head is in order, so the application may hear of the request; the body never is whole.
CHUNKS: list[tuple[str, bytes, Fate]] = [
    ("size hexadecimal prefix", chunked(b"0x1\r\na\r\n0\r\n\r\n"), "broken"),
    ("size plus sign", chunked(b"+1\r\na\r\n0\r\n\r\n"), "broken"),
    ("size minus sign", chunked(b"-1\r\na\r\n0\r\n\r\n"), "broken"),
    ("size behind a space", chunked(b" 1\r\na\r\n0\r\n\r\n"), "broken"),
    ("size before a space", chunked(b"1 \r\na\r\n0\r\n\r\n"), "broken"),
    ("size overflow", chunked(b"10000000000000001\r\na\r\n0\r\n\r\n"), "broken"),
    ("size not a number", chunked(b"g\r\na\r\n0\r\n\r\n"), "broken"),
    ("size missing", chunked(b"\r\na\r\n0\r\n\r\n"), "broken"),
    ("size with bare LF", chunked(b"1\na\r\n0\r\n\r\n"), "broken"),
    ("size with bare CR", chunked(b"1\ra\r\n0\r\n\r\n"), "broken"),
    ("extension with CR", chunked(b"1;x\ry\r\na\r\n0\r\n\r\n"), "broken"),
    ("extension with LF", chunked(b"1;x\ny\r\na\r\n0\r\n\r\n"), "broken"),
    ("extension with NUL", chunked(b"1;\x00\r\na\r\n0\r\n\r\n"), "broken"),
    ("extension quoting a line end", chunked(b'1;x="\r\n"\r\na\r\n0\r\n\r\n'), "broken"),
    ("data longer than its size", chunked(b"1\r\nab\r\n0\r\n\r\n"), "broken"),
    ("data without its line end", chunked(b"1\r\na0\r\n\r\n"), "broken"),
    ("data ended by bare LF", chunked(b"1\r\na\n0\r\n\r\n"), "broken"),
    ("last chunk ended by bare LF", chunked(b"0\n\r\n"), "broken"),
    ("trailer ended by bare LF", chunked(b"0\r\nX: y\n\r\n"), "broken"),
    ("trailer with a Content-Length", chunked(b"0\r\nContent-Length: 35\r\n\r\n" + HIDDEN), "broken"),
    ("trailer with a Transfer-Encoding", chunked(b"0\r\nTransfer-Encoding: chunked\r\n\r\n" + HIDDEN), "broken"),
]

LINES: list[tuple[str, bytes, Fate]] = [
    ("HTTP/0.9", b"GET /hello\r\n", "refused"),
    ("HTTP/0.9 with fields", get(b"GET /hello"), "refused"),
    ("HTTP/0.9 by name", get(b"GET /hello HTTP/0.9"), "refused"),
    ("HTTP/1.2", get(b"GET /hello HTTP/1.2"), "refused"),
    ("HTTP/2.0", get(b"GET /hello HTTP/2.0"), "refused"),
    ("HTTP/1.10", get(b"GET /hello HTTP/1.10"), "refused"),
    ("HTTP/01.1", get(b"GET /hello HTTP/01.1"), "refused"),
    ("version in small letters", get(b"GET /hello http/1.1"), "refused"),
    ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", "refused"),
    ("TLS on the plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x11" * 64, "refused"),
    ("an SSH client", b"SSH-2.0-OpenSSH_9.6\r\n", "refused"),
    ("PROXY protocol", b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + HIDDEN, "refused"),
    ("unknown method", get(b"HELLO /hello HTTP/1.1"), "refused"),
    ("method in small letters", get(b"get /hello HTTP/1.1"), "refused"),
    ("method with a NUL", get(b"GE\x00T /hello HTTP/1.1"), "refused"),
    ("space before the method", get(b" GET /hello HTTP/1.1"), "refused"),
    ("tab for a space", get(b"GET\t/hello HTTP/1.1"), "refused"),
    ("space behind the version", get(b"GET /hello HTTP/1.1 "), "refused"),
    ("space in the target", get(b"GET /hel lo HTTP/1.1"), "refused"),
    ("NUL in the target", get(b"GET /\x00 HTTP/1.1"), "refused"),
    ("byte above 127 in the target", get(b"GET /\xff HTTP/1.1"), "refused"),
    ("CR in the target", get(b"GET /\r HTTP/1.1"), "refused"),
    ("target without a slash", get(b"GET hello HTTP/1.1"), "refused"),
    ("target is a query", get(b"GET ?hello HTTP/1.1"), "refused"),
    ("no target", get(b"GET HTTP/1.1"), "refused"),
    ("asterisk of another method", get(b"GET * HTTP/1.1"), "refused"),
    ("CONNECT", get(b"CONNECT a:443 HTTP/1.1"), "refused"),
    ("CONNECT with a path", get(b"CONNECT /hello HTTP/1.1"), "refused"),
    ("absolute target of another host", get(b"GET http://b/hello HTTP/1.1"), "refused"),
    ("absolute target of another port", get(b"GET http://a:81/hello HTTP/1.1"), "refused"),
    ("absolute target with a user", get(b"GET http://me@a/hello HTTP/1.1"), "refused"),
    ("absolute target of another scheme", get(b"GET ftp://a/hello HTTP/1.1"), "refused"),
    ("absolute target without a host", get(b"GET http:///hello HTTP/1.1"), "refused"),
    ("absolute target of this host", get(b"GET http://a/hello HTTP/1.1"), "once"),
    ("target that looks like a host", get(b"GET //b/hello HTTP/1.1"), "once"),
    ("two spaces before the target", get(b"GET  /hello HTTP/1.1"), "once"),
    ("RTSP", get(b"GET /hello RTSP/1.0"), "once"),
    ("empty lines first", b"\r\n\r\n" + get(b"GET /hello HTTP/1.1"), "once"),
]

FIELDS: list[tuple[str, bytes, Fate]] = [
    ("request line ended by bare LF", b"GET /hello HTTP/1.1\nHost: a\r\n\r\n", "refused"),
    ("request line ended by bare CR", b"GET /hello HTTP/1.1\rHost: a\r\n\r\n", "refused"),
    ("field ended by bare LF", get(b"GET /hello HTTP/1.1", b"Host: a\nX: y\r\n"), "refused"),
    ("field ended by bare CR", get(b"GET /hello HTTP/1.1", b"Host: a\rX: y\r\n"), "refused"),
    ("head ended by bare LF", b"GET /hello HTTP/1.1\r\nHost: a\r\n\n", "refused"),
    ("head ended by two bare LF", b"GET /hello HTTP/1.1\r\nHost: a\n\n", "refused"),
    ("folded field", get(b"GET /hello HTTP/1.1", b"Host: a\r\nX: y\r\n z\r\n"), "refused"),
    ("folded by a tab", get(b"GET /hello HTTP/1.1", b"Host: a\r\nX: y\r\n\tz\r\n"), "refused"),
    ("folded first field", get(b"GET /hello HTTP/1.1", b" Host: a\r\n"), "refused"),
    ("space before the colon", get(b"GET /hello HTTP/1.1", b"Host : a\r\n"), "refused"),
    ("tab before the colon", get(b"GET /hello HTTP/1.1", b"Host: a\r\nX\t: y\r\n"), "refused"),
    ("space in the name", get(b"GET /hello HTTP/1.1", b"Host: a\r\nX Y: z\r\n"), "refused"),
    ("no name", get(b"GET /hello HTTP/1.1", b"Host: a\r\n: y\r\n"), "refused"),
    ("no colon", get(b"GET /hello HTTP/1.1", b"Host: a\r\nX\r\n"), "refused"),
    ("NUL in the name", get(b"GET /hello HTTP/1.1", b"Host: a\r\nX\x00: y\r\n"), "refused"),
    ("NUL in the value", get(b"GET /hello HTTP/1.1", b"Host: a\r\nX: y\x00z\r\n"), "refused"),
    ("DEL in the value", get(b"GET /hello HTTP/1.1", b"Host: a\r\nX: \x7f\r\n"), "refused"),
    ("bell in the value", get(b"GET /hello HTTP/1.1", b"Host: a\r\nX: \x07\r\n"), "refused"),
    ("byte above 127 in the name", get(b"GET /hello HTTP/1.1", b"Host: a\r\nX\xe9: y\r\n"), "refused"),
    ("bracket in the name", get(b"GET /hello HTTP/1.1", b"Host: a\r\nX[]: y\r\n"), "refused"),
    ("no Host", get(b"GET /hello HTTP/1.1", b""), "refused"),
    ("two Hosts", get(b"GET /hello HTTP/1.1", b"Host: a\r\nHost: b\r\n"), "refused"),
    ("Host with a path", get(b"GET /hello HTTP/1.1", b"Host: a/hidden\r\n"), "refused"),
    ("Host with a user", get(b"GET /hello HTTP/1.1", b"Host: me@a\r\n"), "refused"),
    ("Host list", get(b"GET /hello HTTP/1.1", b"Host: a, b\r\n"), "refused"),
    ("Host in HTTP/1.0 repeated", get(b"GET /hello HTTP/1.0", b"Host: a\r\nHost: b\r\n"), "refused"),
]

CORPUS = [*FRAMING, *CHUNKS, *LINES, *FIELDS]
