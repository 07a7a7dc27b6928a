import pytest

from zuebee.config.load import ConfigError, loads

BACKEND = "backends: [{url: 'http://a:1'}]\n"
SECRET = "f3b1c7d2a9e84605b1d3f7c2e8a94d60"


def said(auth: str, more: str = "") -> tuple[list[str], list[str]]:
    """(problems, warnings) of a file with this `auth`."""
    try:
        loaded = loads(f"{BACKEND}{more}auth: {auth}\n", "f", {}, lambda path: path != "gone.lua")
    except ConfigError as error:
        return error.problems, []
    return [], loaded.warnings


def source(text: str) -> str:
    return f"{{pipeline: [{{{text}}}]}}"


@pytest.mark.requirement("A074", "A267")
@pytest.mark.parametrize(
    ("auth", "problem"),
    [
        ("{pipeline: [{type: redis, enabled: false}]}", "no provider is enabled, so nobody could get in"),
        (source("type: database"), "database: required, but missing"),
        (source("type: webhook"), "webhook: required, but missing"),
        (source("type: jwt"), "jwt: required, but missing"),
        (source("type: signature"), "clients: required, but missing"),
        (source("type: lua"), "in a source of type `lua` the script alone decides"),
        (source("type: store, redis: {}"), "has no effect in a source of type `store`"),
        ("{pipeline: [{type: redis}, {type: redis}]}", "the same name as `auth.pipeline[0]`: set `name`"),
        (source("type: redis, name: 'a b'"), "expected letters, digits"),
        (source("type: redis, redis: {key_pattern: keys}"), "expected `{api_key}` or `{key_sha256}` in it"),
        (source("type: redis, redis: {key_pattern: '{api_key}'}"), "put a fixed prefix before it"),
        (source("type: redis, redis: {addr: 'http://x'}"), "expected `host:port`"),
        (source("type: database, database: {driver: sqlite, dsn: x, table: 'a; DROP'}"), "expected a name of letters"),
        (
            source("type: database, database: {driver: sqlite, dsn: x, key_column: 'a\"b'}"),
            "expected a name of letters",
        ),
        (source("type: database, database: {driver: sqlite, dsn: x, fields: ['*']}"), "expected a name of letters"),
        (source("type: database, database: {driver: sqlite, dsn: ''}"), "required, but empty"),
        (source("type: database, database: {driver: oracle, dsn: x}"), "driver"),
        (source("type: webhook, webhook: {url: 'ftp://x'}"), "expected a URL"),
        (source("type: webhook, webhook: {url: 'https://u:p@x'}"), "use `headers`"),
        (
            source("type: webhook, webhook: {url: 'https://x', headers: {Host: y}}"),
            "the gateway sets this header itself",
        ),
        (source("type: webhook, webhook: {url: 'https://x', headers: {'a b': y}}"), "not a header name"),
        (source("type: billing"), "billing: required, but missing"),
        (source("type: billing, billing: {addr: nowhere}"), "billing.addr: expected `host:port`"),
        (source("type: billing, billing: {addr: 'a:0'}"), "billing.addr: expected `host:port`"),
        (source("type: billing, billing: {addr: 'a:70000'}"), "billing.addr: expected `host:port`"),
        (source("type: billing, billing: {addr: 'dns:///a:1'}"), "billing.addr: expected `host:port`"),
        (source("type: billing, billing: {addr: 'a:1', method: ValidateKey}"), "expected `/package.Service/Method`"),
        (source("type: billing, billing: {addr: 'a:1', headers: {X-Token: t}}"), "not a name for metadata"),
        (source("type: billing, billing: {addr: 'a:1', headers: {grpc-timeout: t}}"), "not a name for metadata"),
        (source("type: billing, billing: {addr: 'a:1', headers: {t: 'ä'}}"), "printable ASCII"),
        (source("type: billing, billing: {addr: 'a:1', tls: {ca_file: gone.lua}}"), "tls.ca_file: no such file"),
        (source("type: billing, billing: {addr: 'a:1', tls: {cert_file: c}}"), "both of `cert_file` and `key_file`"),
        (source("type: redis, script: {path: gone.lua}"), "no such file"),
        (source("type: redis, script: {script: 'return true', max_memory: 64KiB}"), "at least 2MB"),
        (source("type: redis, tyep: x"), "did you mean `type`?"),
        ("{cache: 6s, pipeline: [{type: redis}]}", "at most 5s"),
        ("{cache_redis: true, pipeline: [{type: redis}]}", "needs the section `redis`"),
    ],
)
def test_what_is_wrong_with_a_pipeline(auth: str, problem: str) -> None:
    problems, _ = said(auth)
    assert any(problem in each for each in problems), problems


def test_a_shared_cache_needs_a_secret() -> None:
    redis = "redis: {url: 'redis://x'}\n"
    problems, _ = said("{cache_redis: true, cache_secret: short, pipeline: [{type: redis}]}", redis)
    assert any("at least 32 characters" in each for each in problems)
    assert said(f"{{cache_redis: true, cache_secret: {SECRET}, pipeline: [{{type: redis}}]}}", redis)[0] == []


@pytest.mark.parametrize(
    ("cache", "renewal", "fits"),
    [("2s", "1s", True), ("3s", "1s", True), ("3.1s", "1s", False), ("5s", "1s", False), ("0s", "2.5s", True),
     ("2s", "2s", False), ("4s", "500ms", True)],
)  # fmt: skip
def test_cache_and_renewal_together_keep_the_promise_of_revocation(cache: str, renewal: str, fits: bool) -> None:
    more = f"billing: {{renew_interval: {renewal}}}\n"
    problems, _ = said(f"{{cache: {cache}, pipeline: [{{type: store}}]}}", more)
    assert bool(problems) != fits, problems
    if problems:
        assert "auth.cache" in problems[0]
        assert "two times `billing.renew_interval`" in problems[0]
        assert "streams of a revoked key would go on" in problems[0]


def test_where_nobody_needs_a_key_nothing_is_promised() -> None:
    assert said("{cache: 5s}", "billing: {renew_interval: 3s}\n")[0] == []


def test_a_sound_pipeline_has_nothing_to_hear() -> None:
    pipeline = """
  mode: all
  pipeline:
    - {type: store}
    - {type: redis, redis: {addr: "redis:6379", key_pattern: "k:{key_sha256}"}}
    - {type: database, database: {driver: postgres, dsn: "postgres://x/y", table: app.api_keys}}
    - {type: webhook, webhook: {url: "https://keys.example/check", headers: {X-Token: t}}, script: {path: there.lua}}
    - {type: billing, billing: {addr: "billing:50051", tls: {ca_file: c, cert_file: c, key_file: k}, headers: {t: x}}}
    - {type: lua, script: {script: "return true"}}
  script: {script: "return true"}"""
    assert said(pipeline) == ([], [])


def test_keys_sent_in_the_clear_are_worth_a_warning() -> None:
    _, warnings = said(source("type: webhook, webhook: {url: 'http://keys.example/check'}"))
    assert any("without encryption" in each for each in warnings)
    _, warnings = said(source("type: billing, billing: {addr: 'billing:50051'}"))
    assert any("without encryption" in each for each in warnings)
    for here in ("localhost:1", "127.0.0.1:1", "[::1]:1"):
        assert said(source(f"type: billing, billing: {{addr: '{here}'}}")) == ([], [])


def test_keys_of_the_file_that_nobody_asks_for() -> None:
    problems, _ = said(source("type: redis"), "api_keys: [{key: sk-real-00000001}]\n")
    assert any("add a provider of type `file`" in each for each in problems)
