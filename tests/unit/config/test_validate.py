"""What a file means: every rule beyond the types, with the message and the line it is given."""

import pytest

from zuebee.config.load import ConfigError, Loaded, loads
from zuebee.config.settings import BackendSettings, Settings
from zuebee.config.validate import grpc_address, listen_address

KEYS = "api_keys: [{key: sk-a-real-key-0001}]\n"
BACKENDS = "backends:\n  - {url: 'http://a:1'}\n  - {url: 'https://b/base', name: b}\n"


def read(text: str) -> Loaded:
    return loads(text, "f", {}, lambda path: path == "there.pem")


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return caught.value.problems


def test_a_file_in_order_has_no_warnings() -> None:
    assert read(KEYS + BACKENDS).warnings == []


NOT_AN_ADDRESS = "expected `host:port`, `[IPv6]:port`, `:port` or a port"


_OWN = "the gateway sets this header itself; it cannot be configured"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("url: 'ftp://a'", "url: expected a URL that begins with `http://` or `https://`"),
        ("url: 'a:8000'", "url: expected a URL that begins with `http://` or `https://`"),
        ("url: ''", "url: expected a URL that begins with `http://` or `https://`"),
        ("url: 'http://'", "url: not a URL with a host"),
        ("url: 'http://a b'", "url: not a URL with a host"),
        ("url: 'http://[::1'", "url: not a URL"),
        ("url: 'http://a:99999'", "url: not a URL"),
        ("url: 'http://a:x'", "url: not a URL"),
        (
            "url: 'http://u:p@a'",
            "url: a URL with a user or password is not accepted; use `api_key` or `headers`",
        ),
        *(
            (
                f"{{url: http://a, headers: {{{name}: '1'}}}}",
                f"headers.{name}: {_OWN}",
            )
            for name in ("Content-Length", "transfer-encoding", "Connection", "TE", "Upgrade", "X-Request-Id")
        ),
        ("url: 'http://a/#x'", "url: a base URL cannot have a fragment (`#...`)"),
        ("url: 'http://a/?x=1#'", "url: a base URL cannot have a fragment (`#...`)"),
        ("{url: 'http://a', ca_file: gone.pem}", "ca_file: no such file, or it cannot be read"),
        ("{url: 'http://a', headers: {'X A': b}}", None),
        ("{url: 'http://a', headers: {X-A: \"b\\r\\nX-B: c\"}}", "headers.X-A: a header cannot contain line breaks"),
        ("{url: 'http://a', forward_headers: ['X:A']}", "forward_headers[0]: not a header name"),
        (
            "{url: 'http://a', api_key: \"k\\n\"}",
            "api_key: contains spaces, line breaks or characters that a header cannot carry",
        ),
        ("{url: 'http://a', health_path: up}", "health_path: expected a path that begins with `/`"),
        ("{url: 'http://a', models: ['a*b']}", "models[0]: expected a model name, with `*` at its end at most"),
    ],
)
def test_backends(text: str, expected: str | None) -> None:
    said = problems(f"{KEYS}backends:\n  - {text}\n")
    assert len(said) == 1
    assert said[0].startswith("f:3: backends[0].")
    assert expected is None or said == [f"f:3: backends[0].{expected}"]


@pytest.mark.parametrize("url", ["http://a", "https://a:8443/v1", "http://[::1]:8000", "http://a_b.local/", "HTTP://A"])
def test_urls_that_are_fine(url: str) -> None:
    assert read(f"{KEYS}backends: [{{url: '{url}'}}]\n").settings.backends[0].url == url


def test_the_same_backend_or_name_twice() -> None:
    text = (
        "backends:\n  - {url: 'http://a', name: x}\n  - {url: 'http://a/', name: y}\n  - {url: 'http://b', name: x}\n"
    )
    assert problems(KEYS + text) == [
        "f:4: backends[1].url: the same url as `backends[0]`",
        "f:5: backends[2].name: the same name as `backends[0]`",
    ]


def test_fallbacks_name_backends() -> None:
    text = """\
routing:
  fallback:
    - primary: "http://a:1/"
      fallback: ["https://b/base"]
    - primary: "http://c"
      fallback: ["http://a:1", "http://d"]
      models: ["x*", "*"]
"""
    assert problems(KEYS + BACKENDS + text) == [
        "f:9: routing.fallback[1].primary: not the url of a backend",
        "f:10: routing.fallback[1].fallback[1]: not the url of a backend",
    ]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("{name: x}", "api_keys[0]: expected either `key` or `key_sha256`"),
        (f"{{key: sk-a-real-key, key_sha256: '{'a' * 64}'}}", "api_keys[0]: expected either `key` or `key_sha256`"),
        ("{key: sk-a-real-key, allowed_ips: [10.0.0.0/8, 1.2.3.4, '::1', 'fd00::/8']}", None),
        (
            "{key: sk-a-real-key, allowed_ips: [10.0.0.0/40]}",
            "api_keys[0].allowed_ips[0]: expected an address or a range such as `10.0.0.0/8`",
        ),
        (
            "{key: sk-a-real-key, denied_ips: [10.0.0.7/8]}",
            "api_keys[0].denied_ips[0]: is not the first address of its range; did you mean `10.0.0.0/8`?",
        ),
        ("{key: sk-a-real-key, models: ['gpt-*', m], endpoints: ['/v1/chat/*', /v1/embeddings, '/v1*', '*']}", None),
        (
            "{key: sk-a-real-key, models: ['*-mini']}",
            "api_keys[0].models[0]: `*` may stand only at the end, not as in `*-mini`",
        ),
        (
            "{key: sk-a-real-key, endpoints: [/embeddings]}",
            "api_keys[0].endpoints[0]: expected a path that begins with `/v1/`, such as `/v1/embeddings`,"
            " not `/embeddings`",
        ),
        ("{key: sk-a-real-key, expires_at: 2027-01-31T00:00:00Z}", None),
        ("{key: sk-a-real-key, expires_at: '2027-01-31T00:00:00.5+02:00'}", None),
        (
            "{key: sk-a-real-key, expires_at: 2027-01-31}",
            "api_keys[0].expires_at: expected an RFC 3339 time such as `2027-01-31T00:00:00Z`",
        ),
        (
            "{key: sk-a-real-key, expires_at: 2027-02-31T00:00:00Z}",
            "api_keys[0].expires_at: expected an RFC 3339 time such as `2027-01-31T00:00:00Z`",
        ),
        (
            "{key: 'sk-a real-key'}",
            "api_keys[0].key: contains spaces, line breaks or characters that a header cannot carry",
        ),
    ],
)
def test_keys(key: str, expected: str | None) -> None:
    text = f"{BACKENDS}api_keys:\n  - {key}\n"
    if expected is None:
        assert read(text).warnings == []
    else:
        assert problems(text) == [f"f:5: {expected}"]


def test_the_same_key_twice_even_if_once_by_its_hash() -> None:
    digest = "A89322F5978FFA313E58B2C00A64AE95F41B9C2AA8B51478CE078C49EE0F8CCD"
    text = f"api_keys:\n  - key: sk-do-not-print-me-31337\n  - key_sha256: {digest}\n"
    assert problems(BACKENDS + text) == ["f:6: api_keys[1]: the same key as `api_keys[0]`"]


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [
        (":8000", "", 8000),
        ("8000", "", 8000),
        ("0.0.0.0:80", "0.0.0.0", 80),
        ("[::1]:8000", "::1", 8000),
        ("[::]:8000", "::", 8000),
        ("gate.example.org:8443", "gate.example.org", 8443),
        ("localhost:0", "localhost", 0),
    ],
)
def test_addresses(listen: str, host: str, port: int) -> None:
    settings = read(f"{KEYS}{BACKENDS}listen: '{listen}'\n").settings
    assert listen_address(settings) == (host, port)


@pytest.mark.parametrize(
    ("listen", "message"),
    [
        ("", NOT_AN_ADDRESS),
        ("localhost", NOT_AN_ADDRESS),
        ("a:b", NOT_AN_ADDRESS),
        ("::1:8000", NOT_AN_ADDRESS),
        (":70000", NOT_AN_ADDRESS),
        ("http://a:80", NOT_AN_ADDRESS),
        ("[gate]:80", NOT_AN_ADDRESS),
        ("[1.2.3.4]:80", NOT_AN_ADDRESS),
        ("[]:80", NOT_AN_ADDRESS),
        ("a/b:80", "expected a host name or address before the port"),
    ],
)
def test_what_is_no_address(listen: str, message: str) -> None:
    assert problems(f"{KEYS}{BACKENDS}listen: '{listen}'\n") == [f"f:5: listen: {message}"]


def test_without_keys_and_without_a_host_only_this_machine_is_served() -> None:
    loaded = read(f"{BACKENDS}listen: ':8000'\n")
    assert listen_address(loaded.settings) == ("127.0.0.1", 8000)
    assert loaded.warnings == [
        "f:4: listen: no keys, so only this machine can connect (127.0.0.1:8000); to serve others add `api_keys`,"
        " or set `server.allow_anonymous: true`"
    ]
    assert listen_address(Settings(backends=[BackendSettings(url="http://a")])) == ("127.0.0.1", 8000)


def test_the_grpc_api_listens_by_the_same_rules() -> None:
    assert grpc_address(read(f"{KEYS}{BACKENDS}").settings) is None
    assert grpc_address(read(f"{KEYS}{BACKENDS}grpc: {{enabled: false}}\n").settings) is None
    assert grpc_address(read(f"{KEYS}{BACKENDS}grpc: {{}}\n").settings) == ("", 50052)
    loaded = read(f"{BACKENDS}grpc: {{}}\n")
    assert grpc_address(loaded.settings) == ("127.0.0.1", 50052)
    assert any("only this machine can connect (127.0.0.1:50052)" in warning for warning in loaded.warnings)
    (open_to_all,) = problems(f"{BACKENDS}grpc: {{listen: '0.0.0.0:1'}}\nlisten: '127.0.0.1:8000'\n")
    assert "grpc.listen: serving without keys on an address that others can reach" in open_to_all
    (nowhere,) = problems(f"{KEYS}{BACKENDS}grpc: {{listen: nowhere}}\n")
    assert nowhere.endswith(f"grpc.listen: {NOT_AN_ADDRESS}")
    (taken,) = problems(f"{KEYS}{BACKENDS}grpc: {{listen: ':8000'}}\nlisten: ':8000'\n")
    assert "gRPC needs its own port" in taken
    assert problems(f"{KEYS}{BACKENDS}grpc: {{lisen: ':1'}}\n")[0].endswith("did you mean `listen`?")


def test_keys_switched_off_are_like_no_keys() -> None:
    loaded = read(f"{KEYS}{BACKENDS}auth: {{enabled: false}}\n")
    assert listen_address(loaded.settings) == ("127.0.0.1", 8000)
    assert len(loaded.warnings) == 1


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "[::1]:1", "localhost:1", "127.1.2.3:1"])
def test_the_loopback_needs_no_keys(listen: str) -> None:
    assert read(f"{BACKENDS}listen: '{listen}'\n").warnings == []


@pytest.mark.parametrize("listen", ["0.0.0.0:8000", "[::]:8000", "10.0.0.1:8000", "gate:8000", "localhost.evil.com:1"])
def test_serving_everyone_without_keys_is_refused(listen: str) -> None:
    assert problems(f"{BACKENDS}listen: '{listen}'\n") == [
        "f:4: listen: serving without keys on an address that others can reach: add `api_keys`, listen on 127.0.0.1,"
        " or set `server.allow_anonymous: true`"
    ]
    assert read(f"{BACKENDS}{KEYS}listen: '{listen}'\n").warnings == [], "a positive control: with keys it is fine"


def test_serving_everyone_without_keys_can_be_wanted() -> None:
    loaded = read(f"{BACKENDS}server:\n  allow_anonymous: true\n")
    assert listen_address(loaded.settings) == ("", 8000)
    assert loaded.warnings == [
        "f:5: server.allow_anonymous: everyone who can connect may use this gateway without a key"
    ]


def test_demanding_keys_without_having_any_is_refused() -> None:
    assert problems(f"{BACKENDS}auth: {{enabled: true, pipeline: [{{type: file}}]}}\n") == [
        "f:4: auth.pipeline: needs at least one key in `api_keys`: nobody could get in"
    ]


def test_tls() -> None:
    text = "server:\n  tls:\n    cert_file: there.pem\n    key_file: gone.pem\n    client_auth: require\n"
    assert problems(KEYS + BACKENDS + text) == [
        "f:8: server.tls.key_file: no such file, or it cannot be read",
        "f:9: server.tls.client_auth: needs `client_ca_file`: without it no client certificate can be verified",
    ]
    text = (
        "server: {tls: {cert_file: there.pem, key_file: there.pem, client_ca_file: there.pem, client_auth: request}}\n"
    )
    assert read(KEYS + BACKENDS + text).warnings == []


@pytest.mark.parametrize("everybody", ["0.0.0.0/0", "::/0"])
def test_whoever_trusts_everybody_is_warned(everybody: str) -> None:
    (warning,) = read(KEYS + BACKENDS + f"server: {{trusted_proxies: [10.0.0.0/8, '{everybody}']}}\n").warnings
    assert warning.startswith("f:5: server.trusted_proxies[1]: this trusts every address as a proxy")


def test_odds_and_ends() -> None:
    text = """\
server: {trusted_proxies: [10.0.0.0/8, proxy]}
auth: {header_names: [Authorization, "X Key"]}
proxy: {http: "socks5://proxy:1080", https: "http://proxy:3128/path"}
usage: {reporters: [{name: a, type: webhook}, {name: b, type: database}, {name: c, type: builtin}]}
"""
    assert problems(KEYS + BACKENDS + text) == [
        "f:5: server.trusted_proxies[1]: expected an address or a range such as `10.0.0.0/8`",
        "f:6: auth.header_names[1]: not a header name",
        "f:7: proxy.http: expected the URL of a proxy, such as `http://proxy:3128`",
        "f:7: proxy.https: expected the URL of a proxy, such as `http://proxy:3128`",
        "f:8: usage.reporters[0].url: required, but missing",
        "f:8: usage.reporters[1].database: required, but missing",
    ]
