"""Names that are not ours to change: what dashboards, configuration files and receivers of LLMProxy know."""

import pytest

from zuebee.config.load import ConfigError, loads
from zuebee.telemetry.metrics import METRICS

METRICS_OF_LLMPROXY = {
    "llmproxy_requests_total": ("counter", ("path", "stream", "backend", "status")),
    "llmproxy_latency_ms": ("histogram", ("path", "stream", "backend")),
    "llmproxy_usage_tokens_total": ("counter", ("type",)),
    "llmproxy_webhook_success_total": ("counter", ()),
    "llmproxy_webhook_failure_total": ("counter", ()),
}

V0_3 = """\
listen: ":8000"
backends:
  - {url: "http://vllm:8000", weight: 5, models: ["llama*"], name: vllm}
  - {url: "http://tgi:8081", weight: 3}
usage_hook:
  enabled: true
  reporters:
    - {name: billing, type: webhook, enabled: true, url: "https://billing.example/usage", timeout: 3s, retry: 2}
    - name: table
      type: database
      enabled: true
      database: {driver: mysql, dsn: "user:pass@tcp(localhost:3306)/llmproxy", table: usage_records}
health_check: {interval: 10s, path: /health}
routing:
  load_balance_strategy: least_connections
  retry: {enabled: true, max_retries: 3, initial_wait: 1s, max_wait: 10s, multiplier: 2.0}
  fallback: [{primary: "http://vllm:8000", fallback: ["http://tgi:8081"], models: ["llama*"]}]
auth:
  enabled: true
  storage: file
  header_names: [Authorization, X-API-Key]
  mode: first_match
  defaults: {quota_reset_period: daily, total_quota: 1000}
  pipeline:
    - {name: keys, type: file, enabled: true, lua_script: "return true"}
    - name: cache
      type: redis
      enabled: true
      redis: {addr: "redis:6379", password: p, db: 2, key_pattern: "llmproxy:key:{api_key}"}
    - name: table
      type: database
      enabled: true
      database: {driver: mysql, dsn: "u:p@tcp(localhost:3306)/db", table: keys, key_column: api_key, fields: [status]}
    - name: service
      type: webhook
      enabled: true
      webhook: {url: "https://auth.example/check", method: POST, timeout: 5s, headers: {X-Token: t}}
api_keys:
  - key: sk-0f23c56d89ab1def
    name: n
    user_id: u
    status: active
    total_quota: 1000
    used_quota: 0
    quota_reset_period: daily
    last_reset_at: "2026-01-01T00:00:00Z"
    allowed_ips: [10.0.0.0/8]
    denied_ips: [10.1.0.0/16]
    expires_at: "2036-01-01T00:00:00Z"
    created_at: "2026-01-01T00:00:00Z"
    updated_at: "2026-01-01T00:00:00Z"
rate_limit:
  enabled: true
  storage: memory
  global: {enabled: true, requests_per_second: 10, requests_per_minute: 100, burst_size: 20}
  per_key:
    enabled: true
    requests_per_second: 10
    requests_per_minute: 60
    tokens_per_minute: 1000
    max_concurrent: 3
    burst_size: 20
"""

V0_5 = """\
server:
  listen: ":8000"
  read_timeout: 30s
  write_timeout: 60s
  idle_timeout: 120s
  max_header_bytes: 1048576
  max_body_size: 10485760
  cors: {enabled: true, allowed_origins: ["https://chat.example.com"], allowed_methods: [GET], max_age: 600}
log: {level: info, format: json, output: file, file: {path: log.json, rotate: daily, max_size: 1, max_age: 1}}
storage:
  databases:
    - {name: main, enabled: true, driver: sqlite, path: ./data/llmproxy.db}
  caches:
    - {name: default, enabled: true, driver: redis, addr: "127.0.0.1:6379", password: p, db: 0, pool_size: 10}
backends:
  - {name: b, url: "http://a:1", weight: 1, timeout: 60s, connect_timeout: 5s, max_idle_conns: 100, headers: {A: b}}
auth:
  enabled: true
  mode: first_match
  skip_paths: [/health]
  header_names: [Authorization]
  status_codes: {disabled: {allow: false, http_code: 403, message: m}}
  pipeline:
    - {name: keys, type: static, enabled: true, static: {keys: [{key: sk-0f23c56d89ab1def, status: 0}]}}
    - {name: own, type: builtin, enabled: true}
    - {name: script, type: lua, enabled: true, lua: {path: s.lua, timeout: 100ms, max_memory: 10}}
logging:
  enabled: true
  request: {enabled: false}
  access: {enabled: true, format: json, output: stdout}
rate_limit: {enabled: true, storage: redis, redis: default, per_key: {enabled: true, requests_per_minute: 60}}
routing:
  enabled: true
  load_balance: weighted
  timeout: 60s
  connect_timeout: 5s
  retry: {enabled: true, max_retries: 3, initial_wait: 1s, retry_on: [5xx, connect_failure, timeout]}
health_check:
  enabled: true
  interval: 30s
  timeout: 5s
  method: GET
  path: /health
  expected_status: 200
  unhealthy_threshold: 3
  healthy_threshold: 2
metrics: {enabled: true, path: /metrics}
usage:
  enabled: true
  reporters:
    - name: hook
      type: webhook
      enabled: true
      webhook: {url: "https://billing.example/usage", method: POST, timeout: 3s, retry: 2, headers: {A: b}}
    - {name: table, type: database, enabled: true, database: {storage: main, table: usage_records}}
    - {name: own, type: builtin, enabled: true, builtin: {retention_days: 30}}
"""


def test_dashboards_of_llmproxy_find_its_metrics_and_labels() -> None:
    found = {name: (each.kind, each.labels) for name, each in METRICS.items() if name.startswith("llmproxy_")}
    assert found == METRICS_OF_LLMPROXY


@pytest.mark.parametrize("text", [V0_3, V0_5], ids=["v0.3", "v0.5"])
def test_each_key_of_its_files_is_known(text: str) -> None:
    try:
        loads(text, "f", {}, lambda path: True)
    except ConfigError as error:
        pytest.fail(str(error))


def test_a_script_under_lua_is_read_with_its_bounds() -> None:
    script = loads(V0_5, "f", {}, lambda path: True).settings.auth.pipeline[-1].script
    assert script is not None
    assert (script.path, script.timeout_s, script.max_memory) == ("s.lua", 0.1, 10 << 20)
