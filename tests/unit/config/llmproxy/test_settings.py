"""LLMProxy's configuration files: what is translated, what is dropped aloud, what is refused."""

from pathlib import Path

import pytest

from zuebee.config.load import ConfigError, Loaded, load, loads
from zuebee.config.settings import Settings
from zuebee.config.settings_billing import ReporterDatabaseSettings, ReporterSettings
from zuebee.config.validate import key_hash, listen_address

FIXTURES = Path(__file__).parents[3] / "fixtures"
BACKEND = "backends: [{url: 'http://a:1'}]\n"
KEYS = "api_keys: [{key: sk-a-real-key-0001}]\n"


def read(text: str) -> Loaded:
    return loads(text, "f", {}, lambda path: True)


def settings(text: str) -> Settings:
    return read(BACKEND + text).settings


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(BACKEND + text)
    return caught.value.problems


@pytest.mark.requirement("A249", "A273")
def test_the_opencode_scenario_as_published() -> None:
    loaded = load(str(FIXTURES / "llmproxy_scenario_1.yaml"), {})
    found = loaded.settings
    kept_here, guessed = loaded.warnings
    assert "only this machine can connect (127.0.0.1:8000)" in kept_here
    assert guessed.endswith("api_keys[0].key: a well-known placeholder: anyone could guess it")
    assert [(backend.url, backend.weight) for backend in found.backends] == [("http://vllm-coder:8000", 10)]
    assert listen_address(found) == ("127.0.0.1", 8000)
    assert found.auth_on
    assert found.auth.header_names == ("Authorization", "X-API-Key")
    (key,) = found.api_keys
    assert key.key_sha256 == key_hash("sk-llmproxy-dev-001")
    assert (key.name, key.total_quota, key.allowed_ips, key.status) == ("Dev Team", 1000000, ["10.0.0.0/8"], "active")
    limits = found.rate_limit.per_key
    assert found.rate_limit.enabled
    assert limits is not None
    assert (limits.enabled, limits.requests_per_minute, limits.max_concurrent) == (True, 60, 3)


@pytest.mark.requirement("A247", "A261", "A273")
def test_the_configuration_section_as_published() -> None:
    path = str(FIXTURES / "llmproxy_configuration.yaml")
    loaded = load(path, {})
    found = loaded.settings
    assert [(backend.url, backend.weight) for backend in found.backends] == [
        ("http://vllm:8000", 5),
        ("http://tgi:8081", 3),
    ]
    assert not found.auth_on
    assert listen_address(found) == ("127.0.0.1", 8000)
    assert (found.health_check.enabled, found.health_check.interval_s, found.health_check.path) == (True, 10, "/health")
    assert found.usage.enabled
    assert found.usage.reporters == [
        ReporterSettings(
            name="billing", type="webhook", enabled=True, url="https://your-billing.com/llm-usage", timeout_s=3.0
        ),
        ReporterSettings(
            name="database",
            type="database",
            enabled=True,
            database=ReporterDatabaseSettings(driver="mysql", dsn="user:pass@tcp(localhost:3306)/llmproxy"),
        ),
    ]  # fmt: skip
    assert loaded.warnings == [
        f"{path}:2: listen: no keys, so only this machine can connect (127.0.0.1:8000); to serve others add `api_keys`,"
        " or set `server.allow_anonymous: true`",
    ]


DIALECT_A = """\
listen: ":9000"
backends:
  - {url: "http://a:1", name: a, weight: 0, models: ["qwen*"]}
  - {url: "http://b:1", weight: -3}
usage_hook: {enabled: true, url: "https://billing/usage", retry: 2}
health_check: {interval: 1m, path: /up}
routing:
  load_balance_strategy: least_connections
  retry: {enabled: true, max_retries: 2, initial_wait: 500ms, max_wait: 5s, multiplier: 1.5}
  fallback:
    - {primary: "http://a:1", fallback: ["http://b:1"], models: ["qwen*"]}
auth:
  enabled: true
  storage: file
  header_names: ["X-API-Key"]
  mode: all
  defaults: {quota_reset_period: monthly, total_quota: 1000}
  pipeline:
    - {name: keys, type: file, enabled: true}
    - name: cache
      type: redis
      enabled: false
      redis: {addr: "redis:6379", password: os.environ/UNSET, db: 0, key_pattern: "llmproxy:key:{api_key}"}
      lua_script: return true
    - {name: sql, type: database, enabled: false, database: {driver: mysql, dsn: x, table: t, key_column: k, fields: [a]}}
    - {name: hook, type: webhook, enabled: false, webhook: {url: "http://x", method: POST, timeout: 5s, headers: {A: b}}}
api_keys:
  - key: sk-llmproxy-0f23c56d89ab1def
    name: Team
    user_id: u1
    status: active
    total_quota: 500
    used_quota: 10
    quota_reset_period: ""
    last_reset_at: 2026-01-01T00:00:00Z
    allowed_ips: ["10.0.0.0/8"]
    denied_ips: ["10.0.0.1"]
    expires_at: 2027-01-01T00:00:00Z
    created_at: 2026-01-01T00:00:00Z
    updated_at: 2026-01-01T00:00:00Z
  - {key: sk-llmproxy-fedcba9876543210, status: 1}
rate_limit:
  enabled: true
  storage: memory
  global: {enabled: false, requests_per_second: 100, requests_per_minute: 1000, burst_size: 200}
  per_key: {enabled: true, requests_per_second: 0, requests_per_minute: 30, tokens_per_minute: 0, max_concurrent: 2, burst_size: 0}
scripts:
  routing: {enabled: false, script: x, script_file: y, timeout: 100ms, max_memory: 10}
  error_handler: {enabled: false}
"""  # noqa: E501


@pytest.mark.requirement("A268", "A269")
def test_dialect_a_whole() -> None:
    loaded = read(DIALECT_A)
    found = loaded.settings
    assert (found.listen, [backend.weight for backend in found.backends]) == (":9000", [1, 1])
    assert (found.backends[0].name, found.backends[0].models) == ("a", ["qwen*"])
    (reporter,) = found.usage.reporters
    assert (reporter.type, reporter.url, reporter.timeout_s, reporter.retry) == (
        "webhook",
        "https://billing/usage",
        1,
        2,
    )
    assert (found.health_check.interval_s, found.health_check.path) == (60, "/up")
    assert found.routing.load_balance == "least_connections"
    retry = found.routing.retry
    assert (retry.max_retries, retry.initial_wait_s, retry.max_wait_s, retry.multiplier) == (2, 0.5, 5, 1.5)
    assert found.routing.fallback[0].fallback == ["http://b:1"]
    assert (found.auth.header_names, found.auth.mode) == (("X-API-Key",), "all")
    first, second = found.api_keys
    assert (first.quota_reset_period, first.total_quota, first.used_quota) == ("never", 500, 10)
    assert (second.quota_reset_period, second.total_quota, second.status) == ("monthly", 1000, "disabled")
    assert found.rate_limit.per_key is not None
    assert found.rate_limit.per_key.requests_per_minute == 30
    assert loaded.warnings == [
        "f:3: backends[0].weight: counts as 1; remove the backend to send it nothing",
        "f:4: backends[1].weight: counts as 1; remove the backend to send it nothing",
    ]


DIALECT_B = """\
server:
  listen: "127.0.0.1:9000"
  read_timeout: 30s
  write_timeout: 0
  idle_timeout: 2m
  max_header_bytes: 1048576
  max_body_size: 10485760
  cors: {enabled: false, allowed_origins: ["*"], max_age: 86400}
  tls: {enabled: false, cert_file: "", key_file: "", client_auth: none}
log: {level: debug, format: json, output: file, file: {path: /var/log/z.log, rotate: daily, max_size: 100, max_age: 7}}
storage:
  databases: [{name: main, enabled: true, driver: sqlite, path: ./data/llmproxy.db}]
  caches: [{name: default, enabled: true, driver: redis, addr: "redis:6379"}]
backends:
  - {name: a, url: "http://a:1", weight: 2, timeout: 2m, connect_timeout: 3s, max_idle_conns: 50, headers: {X-A: b}}
  - {name: b, url: "http://b:1", timeout: 0s}
discovery: {enabled: false, mode: merge, sources: [{name: consul, type: consul}]}
auth:
  enabled: true
  mode: first_match
  skip_paths: ["/health", "/metrics", "/ready"]
  header_names: ["Authorization"]
  status_codes:
    disabled: {allow: false, http_code: 403, message: "no"}
    active: {allow: true}
  pipeline:
    - name: keys
      type: static
      enabled: true
      static:
        keys: [{key: sk-static-key-0001, name: S, status: active}]
      script: {enabled: false, path: x.lua}
    - {name: own, type: builtin, enabled: false}
admin: {enabled: false, token: os.environ/UNSET, db_path: ./data/keys.db}
logging:
  enabled: true
  request: {enabled: false, storage: main, table: request_logs, include_body: true}
  access: {enabled: true, format: combined, output: file, file: {path: /var/log/access.log}}
rate_limit: {enabled: true, storage: memory, redis: default, script: {enabled: false}, per_key: {max_concurrent: 4}}
routing:
  enabled: true
  load_balance: weighted
  timeout: 5m
  connect_timeout: 1s
  script: {enabled: false}
  retry: {enabled: true, retry_on: [5xx, connect_failure, timeout]}
health_check:
  {enabled: true, interval: 30s, timeout: 5s, method: GET, path: /health, expected_status: 200,
   unhealthy_threshold: 3, healthy_threshold: 2, script: {enabled: false}}
metrics: {enabled: true, path: /m, custom_labels: [team], latency_buckets: [1, 2]}
usage:
  enabled: true
  reporters:
    - {name: hook, type: webhook, enabled: false, script: {enabled: false},
       webhook: {url: "http://x", method: PUT, timeout: 2s, retry: 3, headers: {X-A: b}}}
    - {name: sql, type: database, enabled: true, database: {storage: main, table: usage_records}}
    - {name: own, type: builtin, enabled: true, builtin: {retention_days: 30}}
hooks: {enabled: false, on_request: {enabled: true, path: x.lua}}
"""


@pytest.mark.requirement("A268", "A269")
def test_dialect_b_whole() -> None:
    loaded = read(DIALECT_B)
    found = loaded.settings
    server = found.server
    assert (found.listen, server.tls) == ("127.0.0.1:9000", None)
    assert (server.header_timeout_s, server.body_timeout_s, server.write_timeout_s, server.keep_alive_s) == (
        10,
        30,
        30,
        120,
    )
    assert (server.max_header_bytes, server.max_body_size) == (1048576, 10485760)
    assert (found.log.level, found.log.format, found.log.output) == ("debug", "json", "/var/log/z.log")
    assert found.log.access == "/var/log/access.log"
    first, second = found.backends
    assert (first.timeout_s, first.connect_timeout_s, first.max_idle_connections) == (120, 3, 50)
    assert (second.timeout_s, second.connect_timeout_s, second.weight) == (300, 1, 1)
    assert first.headers == {"X-A": "b"}
    assert [(key.name, key.key_sha256) for key in found.api_keys] == [("S", key_hash("sk-static-key-0001"))]
    assert found.rate_limit.per_key is not None
    assert found.rate_limit.per_key.max_concurrent == 4
    assert found.routing.load_balance == "weighted"
    assert found.routing.retry.retry_on == ("5xx", "connect_failure", "timeout")
    assert (found.health_check.interval_s, found.health_check.expected_status) == (30, 200)
    assert (found.metrics.path, found.usage.retention_days) == ("/m", 30)
    hook, database, _ = found.usage.reporters
    assert (hook.enabled, hook.url, hook.method, hook.retry, hook.headers) == (
        False,
        "http://x",
        "PUT",
        3,
        {"X-A": "b"},
    )
    assert database.database == ReporterDatabaseSettings(
        driver="sqlite", dsn="./data/llmproxy.db", table="usage_records"
    )
    assert loaded.warnings == [
        "f:4: server.write_timeout: 0 means the default here: there is always a limit",
        "f:10: log.file: rotation has no effect: use logrotate with copytruncate",
        "f:11: storage: has an effect only for the databases that a source or reporter names; the store is `store`",
        "f:16: backends[1].timeout: 0 means the default here: there is always a limit",
        "f:23: auth.status_codes: has no effect: the status and message of a refusal are fixed",
        "f:38: logging.access.format: has no effect: the access log is always JSON lines",
        "f:50: metrics.custom_labels: has no effect: labels and buckets are fixed",
        "f:50: metrics.latency_buckets: has no effect: labels and buckets are fixed",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("admin: {enabled: true}", "admin: the admin API is not supported yet; remove it or set `enabled: false`"),
        ("admin: {token: x}", "admin: the admin API is not supported yet; remove it or set `enabled: false`"),
        (
            "discovery: {mode: first}",
            "discovery: discovery of backends is not supported yet; remove it or set `enabled: false`",
        ),
        (
            "hooks: {on_request: {enabled: true}}",
            "hooks: hooks are not supported yet; remove it or set `enabled: false`",
        ),
        (
            "scripts: {routing: {script: x}}",
            "scripts: scripts are not supported yet; remove it or set `enabled: false`",
        ),
        (
            "logging: {request: {enabled: true}}",
            "logging.request: requests and answers are never logged; remove it or set `enabled: false`",
        ),
        ("logging: {acces: {}}", "logging.acces: unknown key `acces`; did you mean `access`?"),
        ("logging: {access: {output: file}}", "logging.access.output: `output: file` needs `file.path`"),
        ("routing: {script: {enabled: true}}", "routing.script: scripts are not supported yet; remove it"),
        ("health_check: {script: 'x'}", "health_check.script: scripts are not supported yet; remove it"),
        (
            "routing: {load_balance: weighted, load_balance_strategy: round_robin}",
            "routing.load_balance_strategy: given twice: also as `routing.load_balance`",
        ),
        ("listen: ':1'\nserver: {listen: ':2'}", "server.listen: given twice: also as `listen`"),
        ("routing: {load_balance_strategy: random}", None),
        ("routing: {enabled: perhaps}", "routing.enabled: expected `true` or `false`"),
        (
            "log: {access: off}\nlogging: {access: {output: stdout}}",
            "logging.access.output: given twice: also as `log.access`",
        ),
        ("server: {read_timeout: [1]}", "server.read_timeout: expected a timeout such as `10s`, got a list"),
        (
            "usage: {reporters: [{name: a, type: builtin, builtin: {days: 3}}]}",
            "usage.reporters[0].builtin.days: unknown key `days`; known: `retention_days`",
        ),
    ],
)
def test_what_would_surprise_is_refused(text: str, expected: str | None) -> None:
    said = problems(KEYS + text + "\n")
    assert len(said) == 1
    assert expected is None or said[0].split(": ", 1)[1] == expected
    assert said[0].startswith(("f:3: ", "f:4: "))


@pytest.mark.parametrize(
    ("text", "access"),
    [
        ("logging: {enabled: false}", "off"),
        ("logging: {access: {enabled: false}}", "off"),
        ("logging: {access: {enabled: true, format: json, output: stdout}}", "stdout"),
        ("logging: {access: {output: file, file: /a.log}}", "/a.log"),
        ("log: {access: off}", "off"),
        ("logging: {request: {enabled: false}}", "stdout"),
        ("logging: {enabled: false, request: {enabled: true}}", "off"),
        ("logging: {access: {}}", "stdout"),
    ],
)
def test_access_log(text: str, access: str) -> None:
    assert settings(text + "\n").log.access == access


def test_tls_without_a_certificate_is_not_plain_http() -> None:
    assert problems("server: {tls: {}}\n") == [
        "f:2: server.tls.cert_file: required, but missing",
        "f:2: server.tls.key_file: required, but missing",
    ]
    assert settings("server: {tls: {enabled: false}}\n").server.tls is None


def test_routing_that_is_off_retries_nothing() -> None:
    text = "routing: {enabled: false, load_balance: latency_based, timeout: 7s, retry: {max_retries: 5}}\n"
    found = settings(text)
    assert not found.routing.retry.enabled
    assert (found.routing.load_balance, found.backends[0].timeout_s) == ("weighted", 7)


def test_mistakes_in_translated_parts_point_at_what_was_written() -> None:
    text = """\
server:
  idle_timeout: soon
usage_hook:
  reporters:
    - {name: a, type: webhook, enabled: false, webhook: {urll: "http://x"}}
auth:
  pipeline:
    - type: static
      static: {keys: [{key: sk-static-0001, nmae: x}]}
routing: {timeout: never}
"""
    assert problems(text) == [
        "f:3: server.idle_timeout: expected a duration such as `500ms`, `10s` or `1m30s`",
        "f:6: usage_hook.reporters[0].webhook.urll: unknown key `urll`; did you mean `url`?",
        "f:10: auth.pipeline[0].static.keys[0].nmae: unknown key `nmae`; did you mean `name`?",
        "f:11: routing.timeout: expected a duration such as `500ms`, `10s` or `1m30s`",
    ]
