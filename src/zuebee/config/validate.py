"""What a configuration means, beyond the types of its values. PURE.

Findings carry the path of a setting; `config.file` adds the line. No finding contains a value that may be a
secret.
"""

import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from zuebee.config.paths import path_problem, url_problem
from zuebee.config.settings import BackendSettings, Settings, TlsSettings
from zuebee.config.settings_auth import ApiKeySettings, mistake_in_pattern
from zuebee.config.settings_billing import StoreSettings
from zuebee.config.validate_auth import GUESSED, auth_findings, has_guessable_key, is_guessable, secret_findings
from zuebee.config.validate_policies import Finding, check_firewall, limit_findings, price_findings, usage_findings
from zuebee.config.yaml import Path, path_text
from zuebee.lib.patterns import is_clear

# Whether what names the store names one. PURE.


def store_findings(store: StoreSettings) -> Iterator[tuple[Path, str, bool]]:
    """(path, message, fatal) of everything that is wrong with the store. No message repeats a URL."""
    if store.url is not None:
        if problem := url_problem(store.url):
            yield ("store", "url"), problem, True
    elif problem := path_problem(store.path):
        yield ("store", "path"), problem, True


HERE = "127.0.0.1"
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?\.?")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_UNSENDABLE = re.compile(r"[^\x21-\x7e]")
_UNSENDABLE_MESSAGE = "contains spaces, line breaks or characters that a header cannot carry"
# As browsers send it: no path, no slash at the end, `null` for files. A star stands for names below a domain.
_ORIGIN = re.compile(r"null|[A-Za-z][A-Za-z0-9+.-]*://(\*\.)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:\d{1,5})?")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# What frames a request (said otherwise than it is, the rest of it is read as another request), and what names it.
_FRAMING = frozenset(
    {"connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "x-request-id"}
)
# What the gateway says to a backend itself: twice, or as a client has it, it would be read differently at both ends.
_NEVER_FORWARDED = frozenset(
    {
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-request-id",
    }
)


class Address(NamedTuple):
    """Where to listen. An empty host means every address of the machine, IPv4 and IPv6."""

    host: str
    port: int


def check(settings: Settings, is_file: Callable[[str], bool]) -> list[Finding]:
    """Everything that is wrong, or worth a warning, in settings whose types are right."""
    return [
        *_listen(settings),
        *_server(settings, is_file),
        *_backends(settings, is_file),
        *_fallbacks(settings),
        *_keys(settings),
        *_proxies(settings),
        *(Finding(*found) for found in store_findings(settings.store)),
        *(Finding(*found) for found in auth_findings(settings, is_file)),
        *(Finding(*found) for found in usage_findings(settings.usage, settings.store, is_file)),
        *check_firewall(settings.firewall, settings.server.max_body_size),
        *_on_disconnect(settings),
        *(Finding(*found) for found in price_findings(settings.billing)),
        *(Finding(*found) for found in secret_findings(settings, is_file)),
        *(
            Finding(*found)
            for found in limit_findings(settings.rate_limit, settings.redis, settings.billing.renew_interval_s)
        ),
    ]


def listen_address(settings: Settings) -> Address:
    """The address to bind. Without keys and without a host it is the loopback, so that a first try is not
    open to the network; `server.allow_anonymous` lifts that. Raises ValueError if `listen` is not an address.
    """
    return _bound(settings.listen, settings)


def grpc_address(settings: Settings) -> Address | None:
    """The same of the gRPC API; None where it is not served. Raises ValueError."""
    if settings.grpc is None or not settings.grpc.enabled:
        return None
    return _bound(settings.grpc.listen, settings)


def _bound(listen: str, settings: Settings) -> Address:
    host, port = _split_listen(listen)
    if not host and not settings.auth_on and not settings.server.allow_anonymous:
        host = HERE
    return Address(host, port)


def kept_here(settings: Settings) -> Settings:
    """The same settings; with a key that anyone could guess, what listens without a host listens on the loopback. To
    be asked while the keys are there: of hashes nobody can tell.
    """
    if settings.server.allow_anonymous or not has_guessable_key(settings):
        return settings

    def here(listen: str) -> str:
        host, port = _split_listen(listen)
        return listen if host else f"{HERE}:{port}"

    grpc = settings.grpc
    if grpc is not None and grpc.enabled:
        grpc = msgspec.structs.replace(grpc, listen=here(grpc.listen))
    return msgspec.structs.replace(settings, listen=here(settings.listen), grpc=grpc)


def key_hash(key: str) -> str:
    """The form in which keys are kept and compared: SHA-256 in lower-case hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def _split_listen(listen: str) -> Address:
    match = re.fullmatch(r"(?:(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:\[\]]*)):)?(?P<port>\d{1,5})", listen.strip())
    if not match or int(match["port"]) > 65535 or (match["v6"] is not None and not _is_ipv6(match["v6"])):
        raise ValueError("expected `host:port`, `[IPv6]:port`, `:port` or a port")
    host = match["v6"] or match["host"] or ""
    if match["host"] and not _HOST.fullmatch(host):
        raise ValueError("expected a host name or address before the port")
    return Address(host, int(match["port"]))


def _is_ipv6(text: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


def _listen(settings: Settings) -> Iterator[Finding]:
    listeners: list[tuple[Path, str]] = [(("listen",), settings.listen)]
    if settings.grpc is not None and settings.grpc.enabled:
        listeners.append((("grpc", "listen"), settings.grpc.listen))
    if settings.server.allow_anonymous and not settings.auth_on:
        yield Finding(
            ("server", "allow_anonymous"), "everyone who can connect may use this gateway without a key", fatal=False
        )
    taken: dict[Address, Path] = {}
    for path, text in listeners:
        try:
            written = _split_listen(text)
        except ValueError as error:
            yield Finding(path, str(error))
            continue
        if written.port and taken.setdefault(written, path) != path:
            yield Finding(path, "the same address as `listen`: gRPC needs its own port")
        if settings.server.allow_anonymous:
            continue
        if settings.auth_on:
            if has_guessable_key(settings):
                yield from _guessable(settings, path, written)
            continue
        if not written.host:
            message = f"no keys, so only this machine can connect (127.0.0.1:{written.port}); to serve others add"
            yield Finding(path, f"{message} `api_keys`, or set `server.allow_anonymous: true`", fatal=False)
        elif not _is_loopback(written.host):
            message = "serving without keys on an address that others can reach: add `api_keys`, listen on 127.0.0.1,"
            yield Finding(path, f"{message} or set `server.allow_anonymous: true`")


def _guessable(settings: Settings, path: Path, written: Address) -> Iterator[Finding]:
    """A key that anyone could guess is as good as none."""
    if not written.host:
        message = f"a key that anyone could guess, so only this machine can connect ({HERE}:{written.port}); to serve"
        yield Finding(path, f"{message} others put another one into `api_keys`", fatal=False)
    elif not _is_loopback(written.host):
        for index, key in enumerate(settings.api_keys):
            if is_guessable(key):
                message = f"{GUESSED}, and others can reach `{path_text(path)}`: take one of `openssl rand -hex 24`,"
                yield Finding(("api_keys", index, "key"), f"{message} or listen on 127.0.0.1")


def _server(settings: Settings, is_file: Callable[[str], bool]) -> Iterator[Finding]:
    server = settings.server
    for index, name in enumerate(settings.auth.header_names):
        if not _HEADER_NAME.fullmatch(name):
            yield Finding(("auth", "header_names", index), "not a header name")
    for index, text in enumerate(server.trusted_proxies):
        yield from _network(("server", "trusted_proxies", index), text)
        if text.strip().endswith("/0"):
            message = (
                "this trusts every address as a proxy, so every caller can claim any address: list only your proxies"
            )
            yield Finding(("server", "trusted_proxies", index), message, fatal=False)
    for index, origin in enumerate(server.cors.origins):
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            message = (
                "not an origin: scheme and host, as in `https://chat.example.com` or `https://*.example.com`, or `*`"
            )
            yield Finding(("server", "cors", "origins", index), message)
    if server.tls and server.tls.enabled:
        yield from _tls(server.tls, is_file)


def _tls(tls: TlsSettings, is_file: Callable[[str], bool]) -> Iterator[Finding]:
    for name in ("cert_file", "key_file", "client_ca_file"):
        path = getattr(tls, name)
        if path is not None and not is_file(path):
            yield Finding(("server", "tls", name), "no such file, or it cannot be read")
    if tls.client_auth != "none" and tls.client_ca_file is None:
        message = "needs `client_ca_file`: without it no client certificate can be verified"
        yield Finding(("server", "tls", "client_auth"), message)


def _backends(settings: Settings, is_file: Callable[[str], bool]) -> Iterator[Finding]:
    first_with: dict[tuple[str, str], int] = {}
    for index, backend in enumerate(settings.backends):
        path: Path = ("backends", index)
        yield from _url((*path, "url"), backend.url)
        for name, value in (("url", backend.url.rstrip("/")), ("name", backend.name)):
            if value and (other := first_with.setdefault((name, value), index)) != index:
                yield Finding((*path, name), f"the same {name} as `backends[{other}]`")
        if backend.ca_file is not None and not is_file(backend.ca_file):
            yield Finding((*path, "ca_file"), "no such file, or it cannot be read")
        yield from _headers(path, backend, {name.lower() for name in settings.auth.header_names})
        if backend.health_path is not None and not backend.health_path.startswith("/"):
            yield Finding((*path, "health_path"), "expected a path that begins with `/`")
        yield from _patterns((*path, "models"), backend.models)


def _headers(path: Path, backend: BackendSettings, key_carriers: set[str]) -> Iterator[Finding]:
    for name, value in backend.headers.items():
        if not _HEADER_NAME.fullmatch(name):
            yield Finding((*path, "headers", name), "not a header name")
        elif name.lower() in _FRAMING:
            yield Finding((*path, "headers", name), "the gateway sets this header itself; it cannot be configured")
        if re.search(r"[\r\n\0]", value):
            yield Finding((*path, "headers", name), "a header cannot contain line breaks")
    for index, name in enumerate(backend.forward_headers):
        if not _HEADER_NAME.fullmatch(name):
            yield Finding((*path, "forward_headers", index), "not a header name")
        elif name.lower() in key_carriers:
            yield Finding((*path, "forward_headers", index), "carries the caller's key, which no backend may see")
        elif name.lower() in _NEVER_FORWARDED:
            yield Finding(
                (*path, "forward_headers", index), "the gateway sets this header itself; it cannot be configured"
            )
    if backend.api_key is not None and _UNSENDABLE.search(backend.api_key):
        yield Finding((*path, "api_key"), _UNSENDABLE_MESSAGE)


def _url(path: Path, text: str) -> Iterator[Finding]:
    """A base URL. Never quoted: it may contain a password."""
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        yield Finding(path, "not a URL")
        return
    if url.scheme not in ("http", "https"):
        yield Finding(path, "expected a URL that begins with `http://` or `https://`")
    elif not url.hostname or re.search(r"[\s\x00-\x1f\x7f]", text):
        yield Finding(path, "not a URL with a host")
    elif "@" in url.netloc:
        yield Finding(path, "a URL with a user or password is not accepted; use `api_key` or `headers`")
    elif url.fragment or text.endswith("#"):
        yield Finding(path, "a base URL cannot have a fragment (`#...`)")


def _fallbacks(settings: Settings) -> Iterator[Finding]:
    known = {backend.url.rstrip("/") for backend in settings.backends}
    for index, rule in enumerate(settings.routing.fallback):
        path: Path = ("routing", "fallback", index)
        if rule.primary.rstrip("/") not in known:
            yield Finding((*path, "primary"), "not the url of a backend")
        for position, url in enumerate(rule.fallback):
            if url.rstrip("/") not in known:
                yield Finding((*path, "fallback", position), "not the url of a backend")
        yield from _patterns((*path, "models"), rule.models)


def _on_disconnect(settings: Settings) -> Iterator[Finding]:
    for index, rule in enumerate(settings.on_disconnect):
        yield from _patterns(("on_disconnect", index, "models"), rule.models)


def _patterns(path: Path, patterns: list[str]) -> Iterator[Finding]:
    for index, pattern in enumerate(patterns):
        if not pattern or not is_clear(pattern):
            yield Finding((*path, index), "expected a model name, with `*` at its end at most")


def _keys(settings: Settings) -> Iterator[Finding]:
    first_with: dict[str, int] = {}
    for index, key in enumerate(settings.api_keys):
        path: Path = ("api_keys", index)
        if (key.key is None) == (key.key_sha256 is None):
            yield Finding(path, "expected either `key` or `key_sha256`")
            continue
        digest = (key.key_sha256 or "").lower() if key.key is None else key_hash(key.key)
        if (other := first_with.setdefault(digest, index)) != index:
            yield Finding(path, f"the same key as `api_keys[{other}]`")
        if key.key is not None and _UNSENDABLE.search(key.key):
            yield Finding((*path, "key"), _UNSENDABLE_MESSAGE)
        yield from _key_rules(path, key)


def _key_rules(path: Path, key: ApiKeySettings) -> Iterator[Finding]:
    for name in ("allowed_ips", "denied_ips"):
        for index, text in enumerate(getattr(key, name)):
            yield from _network((*path, name, index), text)
    for name in ("models", "endpoints"):
        for index, pattern in enumerate(getattr(key, name)):
            if (mistake := mistake_in_pattern(name, pattern)) is not None:
                yield Finding((*path, name, index), mistake)
    if key.expires_at is not None:
        try:
            if not _RFC3339.fullmatch(key.expires_at):
                raise ValueError
            datetime.fromisoformat(key.expires_at.upper())
        except ValueError:
            yield Finding((*path, "expires_at"), "expected an RFC 3339 time such as `2027-01-31T00:00:00Z`")


def _network(path: Path, text: str) -> Iterator[Finding]:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        try:
            exact = ipaddress.ip_network(text, strict=False)
        except ValueError:
            yield Finding(path, "expected an address or a range such as `10.0.0.0/8`")
        else:
            yield Finding(path, f"is not the first address of its range; did you mean `{exact}`?")


def _proxies(settings: Settings) -> Iterator[Finding]:
    for name in ("http", "https"):
        text = getattr(settings.proxy, name)
        try:
            url = urlsplit(text or "http://none")
            right = url.scheme == "http" and bool(url.hostname) and url.path in ("", "/") and url.port != 0
        except ValueError:
            right = False
        if not right:
            yield Finding(("proxy", name), "expected the URL of a proxy, such as `http://proxy:3128`")
