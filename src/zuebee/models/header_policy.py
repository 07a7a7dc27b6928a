"""PURE. Heads of requests to a backend and of its answers: where they go, and which header fields pass."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote_plus, urlsplit, urlunsplit

from zuebee.contracts.inference import Headers, Job, Priority

# Where the requests of one backend go, by its base URL.
#
# The contract of OpenAI's SDKs is base + `/chat/completions`, and bases are written in many ways: with `/v1` at the
# end, as the SDKs want it, or without, with another version (`/api/paas/v4`), with something behind it
# (`/v1beta/openai`), as the whole URL of an endpoint, and with a query (`?api-version=`).

_ENDPOINTS: Final = ("/chat/completions", "/completions", "/embeddings")
_VERSION: Final = re.compile(r"/v\d+([a-z]+\d*)?(?=/|$)", re.IGNORECASE)
_DEPLOYMENT: Final = re.compile(r"/deployments/[^/]+$")
"""Azure's bases name a deployment instead of a version."""
_OURS: Final = "/v1/"


class BaseUrl:
    """A base URL, taken apart. `shown` is it without its query, which may hold a key."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.shown: Final = urlunsplit(parts._replace(query="", fragment="")) if parts.query else url
        self.query: Final = parts.query.encode()
        self._names = {_name(pair) for pair in parts.query.split("&")}
        path = parts.path.rstrip("/")
        endpoint = next((each for each in _ENDPOINTS if path.endswith(each)), None)
        base = path if endpoint is None else path.removesuffix(endpoint)
        version, deployment = _last(_VERSION, base), _DEPLOYMENT.search(base)
        found = version or deployment
        # What is not of the API (`/health`) stands beside the version.
        self._root = base[: found.start()] if found else base
        self._api = base if found or endpoint is not None else f"{base}/v1"

    def path(self, path: str) -> bytes:
        """The path of a request that the gateway knows as `path` (`/v1/chat/completions`, `/health`)."""
        if path.startswith(_OURS):
            return f"{self._api}/{path.removeprefix(_OURS)}".encode()
        return f"{self._root}{path}".encode()

    def queried(self, query: bytes) -> bytes:
        """The query of a request whose caller wrote `query`. What the base says no caller can say otherwise."""
        if not self.query:
            return query
        theirs = [pair for pair in query.split(b"&") if pair and _name(pair.decode("latin-1")) not in self._names]
        return b"&".join((self.query, *theirs))


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(reversed(list(pattern.finditer(text))), None)


def _name(pair: str) -> str:
    return unquote_plus(pair.partition("=")[0])


# What a backend is told of the caller, where its settings say so (`identity_headers`).
#
# Values are what operators wrote into keys and accounts, so they can be anything: whatever is not visible ASCII is
# percent-encoded (RFC 3986, section 2.1), and so is `%` itself; different values stay different.

PREFIX = b"x-zuebee-"
MAX_VALUE_BYTES = 256
MAX_KEPT_CALLERS = 4096

_VISIBLE = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")


def caller_lines(job: Job) -> bytes:
    """Header lines with the user, team, organization and plan, as far as they are known, and the priority."""
    sender = job.sender
    if sender is None:
        return _lines("", "", "", "", job.priority)
    return _lines(sender.user_id, sender.team_id, sender.organization_id, sender.plan, job.priority)


@lru_cache(MAX_KEPT_CALLERS)
def _lines(user: str, team: str, organization: str, plan: str, priority: Priority) -> bytes:
    values = {"user": user, "team": team, "organization": organization, "plan": plan, "priority": priority}
    return b"".join(b"%b%b: %b\r\n" % (PREFIX, name.encode(), _safe(text)) for name, text in values.items() if text)


def _safe(text: str) -> bytes:
    safe = b""
    for letter in text:
        piece = quote(letter, safe=_VISIBLE, errors="replace").encode()
        if len(safe) + len(piece) > MAX_VALUE_BYTES:
            break
        safe += piece
    return safe


# Which header fields of a request pass.
#
# Only an allow-list does: what is not on it (cookies, credentials, `X-Forwarded-*`, hop-by-hop fields) never leaves the
# house.

_UPSTREAM = frozenset(
    {
        b"accept",
        b"accept-language",
        b"baggage",
        b"content-type",
        b"idempotency-key",
        b"openai-beta",
        b"traceparent",
        b"tracestate",
        b"user-agent",
    }
)
_UPSTREAM_PREFIX = b"x-stainless-"
_MAX_REMEMBERED = 1000
MAX_POLICIES: Final = 64
"""Of so many policies the lines are kept beside one head (`HeadMemo.upstream_lines`); there are as many only after many
reloads."""


class AllowList(dict[bytes, bool]):
    """Says of each name whether it passes upstream, and remembers what it said of the first thousand."""

    def __init__(self, extra: Sequence[str] = (), *, but: Callable[[bytes], bool] = lambda name: False) -> None:
        """`extra` are the operator's additions; what `but` holds for never passes."""
        super().__init__()
        self._names = _UPSTREAM.union(name.lower().encode() for name in extra)
        self._but = but

    def __missing__(self, name: bytes) -> bool:
        passes = (name in self._names or name.startswith(_UPSTREAM_PREFIX)) and not self._but(name)
        if len(self) < _MAX_REMEMBERED:
            self[name] = passes
        return passes


def upstream_lines(headers: Headers, allowed: AllowList) -> bytes:
    """The header lines of a client's request that go to the backend."""
    lines = [b": ".join(field) for field in headers if allowed[field[0]]]
    lines.append(b"")
    return b"\r\n".join(lines)


class RequestHead:
    """Builds the heads of one backend's requests from parts that never change.

    `defaults`: header fields that go out where the client sends none of that name. `identity_headers`: each says on
    whose behalf it comes, and how long the gateway waits for the answer (`timeout_s`).
    """

    def __init__(
        self,
        url: str,
        *,
        headers: dict[str, str],
        defaults: dict[str, str],
        forward_headers: list[str],
        authority: str,
        request_prefix: bytes,
        proxy_lines: bytes,
        identity_headers: bool = False,
        timeout_s: float = 0.0,
    ) -> None:
        self._base = BaseUrl(url)
        self._prefix = request_prefix
        self._tells_caller = identity_headers
        fields = {"host": authority, "accept-encoding": "identity"}
        # What the operator says replaces what the gateway would say.
        fields |= {name.lower(): value for name, value in headers.items()}
        own = frozenset(name.encode() for name in fields)
        # What the gateway says, of the caller, too, no caller can say of itself.
        self._allowed = AllowList(
            forward_headers, but=lambda name: name in own or (identity_headers and name.startswith(PREFIX))
        )
        # All that the choice depends on; no name of a header field has a space or a line break.
        self._policy = "\n".join(
            (" ".join(sorted(forward_headers)), " ".join(sorted(fields)), str(identity_headers), str(defaults))
        )
        lines = [f"{name}: {value}".encode("latin-1") for name, value in fields.items()]
        if identity_headers:
            lines.append(b"%btimeout-ms: %d" % (PREFIX, timeout_s * 1000))
        self._lines = b" HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n" + proxy_lines
        self._defaults = {name.encode(): f"{name}: {value}\r\n".encode() for name, value in defaults.items()}
        self._paths: dict[str, bytes] = {}

    def _path(self, path: str) -> bytes:
        return self._prefix + self._base.path(path)

    def post(self, job: Job, body_bytes: int, to: str, query: bytes) -> bytes:
        """The head of a job's request, which goes to the path `to`."""
        path = self._paths.get(to)
        if path is None:
            path = b"POST " + self._path(to)
            if len(self._paths) < _MAX_REMEMBERED:
                self._paths[to] = path
        if queried := self._base.queried(query):
            path += b"?" + queried
        fields = self._fields(job)
        if self._tells_caller:
            fields += caller_lines(job)
        return b"".join(
            (path, self._lines, b"x-request-id: ", job.request_id.encode(), b"\r\n", fields,
             b"content-length: %d\r\n\r\n" % body_bytes)
        )  # fmt: skip

    def _fields(self, job: Job) -> bytes:
        memo = job.memo
        if memo is None:
            return self._lines_of(job.headers)
        lines = memo.upstream_lines.get(self._policy)
        if lines is None:
            if len(memo.upstream_lines) >= MAX_POLICIES:
                memo.upstream_lines.clear()
            lines = memo.upstream_lines[self._policy] = self._lines_of(job.headers)
        return lines

    def _lines_of(self, headers: Headers) -> bytes:
        lines = upstream_lines(headers, self._allowed)
        for name, line in self._defaults.items():
            if all(name != given for given, _ in headers):
                lines += line
        return lines

    def get(self, path: str, method: str = "GET") -> bytes:
        """The head of a request without a body."""
        query = b"?" + self._base.query if self._base.query else b""
        defaults = b"".join(self._defaults.values())
        return b"%b %b%b%b%b\r\n" % (method.encode(), self._path(path), query, self._lines, defaults)


# Which header fields of an answer pass: all but hop-by-hop fields, those that `Connection` names among them (RFC
# 9110, section 7.6.1), and what the gateway says itself: a backend's limits are not the caller's.

_NOT_DOWNSTREAM: Final = frozenset(
    {
        b"access-control-allow-credentials",  # which pages may call is the gateway's to say
        b"access-control-allow-headers",
        b"access-control-allow-methods",
        b"access-control-allow-origin",
        b"access-control-expose-headers",
        b"access-control-max-age",
        b"alt-svc",
        b"connection",
        b"content-length",
        b"date",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-connection",
        b"server",
        b"set-cookie",
        b"strict-transport-security",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-request-id",
    }
)

_LIMITS: Final = b"x-ratelimit-"
_NEEDED: Final = frozenset({b"content-type", b"content-encoding"})
"""Without these a body cannot be read: whoever calls them hop-by-hop is mistaken."""


class AnswerFields:
    """The header fields of a backend's answer: those that go on to the client, and what the gateway reads in them."""

    def __init__(self, passed: Headers, content_type: bytes, content_length: bytes, coding: bytes) -> None:
        self.passed: Final = passed
        self.coding: Final = coding
        self.content_length: Final = content_length
        self.is_page: Final = b"text/html" in content_type.lower()


def downstream(headers: Headers) -> AnswerFields:
    """Sort the header fields of a backend's answer."""
    fields = dict(headers)
    coding = fields.get(b"content-encoding", b"").strip().lower()
    passed = [field for field in headers if field[0] not in _NOT_DOWNSTREAM and not field[0].startswith(_LIMITS)]
    if b"connection" in fields:
        said = b",".join(value for name, value in headers if name == b"connection")
        named = {name.strip().lower() for name in said.split(b",")} - _NEEDED
        passed = [field for field in passed if field[0] not in named]
    return AnswerFields(
        passed,
        fields.get(b"content-type", b""),
        fields.get(b"content-length", b""),
        b"" if coding == b"identity" else coding,
    )
