"""References to the environment, overrides from it, and forward proxies."""

import pytest

from zuebee.config.load import ConfigError, loads
from zuebee.config.settings import Settings

MINIMAL = "backends:\n  - url: 'http://127.0.0.1:8001'\n"


def settings(text: str = MINIMAL, **environ: str) -> Settings:
    return loads(text, "config.yaml", environ, lambda path: True).settings


def problems(text: str = MINIMAL, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        settings(text, **environ)
    return caught.value.problems


def test_references_are_replaced_whatever_the_type() -> None:
    text = """\
backends:
  - url: os.environ/URL
    api_key: "os.environ/KEY"
    weight: os.environ/WEIGHT
    timeout: os.environ/TIMEOUT
    headers: {X-Team: os.environ/TEAM, X-Path: not-os.environ/TEAM}
log: {level: os.environ/LEVEL}
health_check: {enabled: os.environ/HEALTH}
"""
    environ = {"URL": "http://gpu:1", "KEY": "0123", "WEIGHT": "7", "TIMEOUT": "2m", "TEAM": "a: b"}
    found = settings(text, **environ, LEVEL="debug", HEALTH="false")
    backend = found.backends[0]
    assert (backend.url, backend.api_key, backend.weight, backend.timeout_s) == ("http://gpu:1", "0123", 7, 120)
    assert backend.headers == {"X-Team": "a: b", "X-Path": "not-os.environ/TEAM"}
    assert (found.log.level, found.health_check.enabled) == ("debug", False)


def test_a_reference_that_leads_nowhere_has_a_line() -> None:
    text = MINIMAL + "    api_key: os.environ/KEY\n    weight: os.environ/EMPTY\n    name: os.environ/\n"
    assert problems(text, EMPTY="") == [
        "config.yaml:3: backends[0].api_key: environment variable `KEY` is not set or empty",
        "config.yaml:4: backends[0].weight: environment variable `EMPTY` is not set or empty",
        "config.yaml:5: backends[0].name: environment variable `(no name)` is not set or empty",
    ]


def test_a_reference_is_replaced_once() -> None:
    assert settings(MINIMAL + "    name: os.environ/A\n", A="os.environ/B", B="b").backends[0].name == "os.environ/B"


def test_overrides_reach_every_kind_of_setting() -> None:
    text = MINIMAL + "    weight: 3\n  - url: 'http://127.0.0.1:8002'\nlisten: ':1'\n"
    found = settings(
        text,
        ZUEBEE_LISTEN="127.0.0.1:9",
        ZUEBEE_STORE__PATH="/data/z: #1.db",
        ZUEBEE_SERVER__HEADER_TIMEOUT="3s",
        ZUEBEE_BACKENDS__0__URL="http://gpu:1",
        ZUEBEE_BACKENDS__2__URL="'http://third:1'",
        ZUEBEE_BACKENDS__2__API_KEY="os.environ/KEY",
        ZUEBEE_BACKENDS__1__HEADERS="{X-A: b}",
        ZUEBEE_BACKENDS__1__HEADERS__Team="red",
        ZUEBEE_AUTH__HEADER_NAMES="[X-Key]",
        ZUEBEE_API_KEYS__0__KEY="*not-an-alias*",
        ZUEBEE_RATE_LIMIT__PER_KEY__MAX_CONCURRENT="4",
        KEY="k",
        UNRELATED="x",
    )
    assert (found.listen, found.store.path, found.server.header_timeout_s) == ("127.0.0.1:9", "/data/z: #1.db", 3)
    assert [backend.url for backend in found.backends] == ["http://gpu:1", "http://127.0.0.1:8002", "http://third:1"]
    assert (found.backends[0].weight, found.backends[2].api_key) == (3, "k")
    assert found.backends[1].headers == {"X-A": "b", "Team": "red"}
    assert found.auth.header_names == ("X-Key",)
    assert found.auth_on
    assert found.rate_limit.per_key is not None
    assert found.rate_limit.per_key.max_concurrent == 4


def test_a_configuration_can_come_from_the_environment_alone() -> None:
    assert settings("", ZUEBEE_BACKENDS="[{url: 'http://a:1'}, {url: 'http://b:1'}]").backends[1].url == "http://b:1"
    assert settings("", ZUEBEE_BACKENDS__0__URL="http://a:1").backends[0].url == "http://a:1"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ZUEBEE_LISTN", "x", ": no such setting; did you mean `ZUEBEE_LISTEN`?"),
        ("ZUEBEE_STORE__PAHT", "x", ": no such setting; did you mean `ZUEBEE_STORE__PATH`?"),
        ("ZUEBEE_USAGE_PATH", "x", ": no such setting; did you mean `ZUEBEE_USAGE`?"),
        ("ZUEBEE_BACKENDS__0__WIEGHT", "1", ": no such setting; did you mean `ZUEBEE_BACKENDS__0__WEIGHT`?"),
        ("ZUEBEE_LISTEN__HOST", "x", ": there is nothing below ZUEBEE_LISTEN"),
        ("ZUEBEE_BACKENDS__FIRST__URL", "x", ": there is nothing below ZUEBEE_BACKENDS"),
        ("ZUEBEE_BACKENDS__7__URL", "x", ": backends[7].url: the next entry of the list is number 1"),
        ("ZUEBEE_BACKENDS__0__WEIGHT", "many", ": backends[0].weight: expected a whole number"),
        ("ZUEBEE_BACKENDS", "[", ": backends: YAML: while parsing a flow node: did not find expected node content"),
        ("ZUEBEE_AUTH__HEADER_NAMES", "a,b", ": auth.header_names: expected a list, such as `[a, b]`"),
        ("ZUEBEE_LOG__LEVEL", "loud", ": log.level: expected `debug` or `info` or `warn` or `error`"),
    ],
)
def test_overrides_with_mistakes_name_the_variable(name: str, value: str, message: str) -> None:
    assert problems(**{name: value}) == [f"environment variable {name}{message}"]


def test_what_kubernetes_puts_into_the_environment_is_no_override() -> None:
    settings(
        ZUEBEE_SERVICE_HOST="10.0.0.1",
        ZUEBEE_SERVICE_PORT="8000",
        ZUEBEE_SERVICE_PORT_HTTP="8000",
        ZUEBEE_PORT="tcp://10.0.0.1:8000",
        ZUEBEE_PORT_8000_TCP="tcp://10.0.0.1:8000",
        ZUEBEE_PORT_8000_TCP_PROTO="tcp",
        ZUEBEE_SIM_SERVICE_HOST="10.0.0.2",
    )
    assert problems(ZUEBEE_PORT="9000"), "a positive control: this one somebody wrote"


@pytest.mark.parametrize(
    ("environ", "http", "https", "direct"),
    [
        ({}, None, None, []),
        ({"HTTP_PROXY": "http://a:1"}, "http://a:1", None, []),
        ({"http_proxy": "http://a:1", "HTTP_PROXY": "http://b:1"}, "http://a:1", None, []),
        ({"HTTPS_PROXY": "a:1", "NO_PROXY": "x, .y.z 10.0.0.0/8"}, None, "http://a:1", ["x", ".y.z", "10.0.0.0/8"]),
        ({"ALL_PROXY": "http://a:1", "https_proxy": "http://b:1"}, "http://a:1", "http://b:1", []),
        ({"REQUEST_METHOD": "GET", "HTTP_PROXY": "http://evil:1"}, None, None, []),
        ({"REQUEST_METHOD": "GET", "http_proxy": "http://a:1"}, "http://a:1", None, []),
        ({"HTTP_PROXY": "", "NO_PROXY": "x"}, None, None, []),
    ],
)
def test_forward_proxies(environ: dict[str, str], http: str | None, https: str | None, direct: list[str]) -> None:
    proxy = settings(**environ).proxy
    assert (proxy.http, proxy.https, proxy.no_proxy) == (http, https, direct)


def test_a_file_that_speaks_of_proxies_is_believed() -> None:
    environ = {"HTTP_PROXY": "http://a:1", "HTTPS_PROXY": "http://a:1"}
    assert settings(MINIMAL + "proxy: {http: 'http://b:1'}\n", **environ).proxy.http == "http://b:1"
    assert settings(MINIMAL + "proxy: {http: 'http://b:1'}\n", **environ).proxy.https is None
    assert settings(MINIMAL + "proxy: {}\n", **environ).proxy.http is None


def test_a_proxy_that_cannot_be_used_is_not_passed_over() -> None:
    assert problems("backends: [{url: 'http://far.example'}]\n", ALL_PROXY="socks5://user:hidden@proxy:1080") == [
        "environment variable ALL_PROXY: proxy.http: expected the URL of a proxy, such as `http://proxy:3128`",
        "environment variable ALL_PROXY: proxy.https: expected the URL of a proxy, such as `http://proxy:3128`",
    ]


@pytest.mark.parametrize(
    ("url", "environ"),
    [
        ("http://127.0.0.1:8001", {"ALL_PROXY": "socks5h://proxy:1080"}),
        ("http://model.internal:8001", {"ALL_PROXY": "socks5://p:1", "NO_PROXY": "*.internal:8001"}),
        ("http://model", {"all_proxy": "SOCKS4://p:1", "http_proxy": "http://p:2"}),
        ("https://model", {"all_proxy": "socks://p:1", "https_proxy": "http://p:2"}),
    ],
)
def test_a_proxy_that_no_backend_needs_is_for_others(url: str, environ: dict[str, str]) -> None:
    proxy = settings(f"backends: [{{url: '{url}'}}]\n", **environ).proxy
    assert "socks" not in f"{proxy.http}{proxy.https}".lower()


@pytest.mark.parametrize("environ", [{"ALL_PROXY": "socks5://p:1"}, {"https_proxy": "socks5://p:1"}])
def test_a_proxy_that_one_backend_needs_is_refused(environ: dict[str, str]) -> None:
    assert problems("backends: [{url: 'http://127.0.0.1'}, {url: 'https://far.example'}]\n", **environ)


def test_the_key_of_a_client_is_no_setting() -> None:
    loaded = loads("backends: [{url: http://a}]", "file", {"ZUEBEE_API_KEY": "sk-of-a-client"}, lambda _: True)
    assert loaded.settings.api_keys == []
