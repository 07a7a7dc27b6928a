"""LLMProxy's auth pipelines, both dialects."""

import pytest

from zuebee.config.load import ConfigError, loads
from zuebee.config.settings import Settings
from zuebee.config.validate import key_hash

BACKEND = "backends: [{url: 'http://a:1'}]\n"


def settings(text: str) -> Settings:
    return loads(BACKEND + text, "f", {}, lambda path: True).settings


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        settings(text)
    return caught.value.problems


@pytest.mark.requirement("A267", "A071")
def test_dialect_a() -> None:
    auth = settings("""
auth:
  enabled: true
  mode: all
  header_names: [Authorization, X-API-Key]
  pipeline:
    - name: cache
      type: redis
      enabled: true
      redis: {addr: "redis:6379", password: p, db: 2, key_pattern: "llmproxy:key:{api_key}"}
      lua_script: "return data.status == 'active'"
    - {name: off, type: webhook, enabled: false, webhook: {url: "http://gone"}}
    - name: sql
      type: database
      database: {driver: mysql, dsn: "u:p@tcp(db:3306)/app", table: api_keys, key_column: api_key, fields: [status]}
      lua_script_file: "check.lua"
    - {name: hook, type: webhook, webhook: {url: "https://x/auth", method: POST, timeout: 3s, headers: {X-T: t}}}
""").auth
    assert [source.type for source in auth.pipeline] == ["redis", "database", "webhook"]
    redis, sql, hook = auth.pipeline
    assert auth.mode == "all"
    assert redis.redis is not None
    assert (redis.redis.addr, redis.redis.db) == ("redis:6379", 2)
    assert redis.script is not None
    assert "status" in redis.script.script
    assert sql.script is not None
    assert sql.script.path == "check.lua"
    assert sql.database is not None
    assert sql.database.fields == ["status"]
    assert hook.webhook is not None
    assert hook.webhook.timeout_s == 3


@pytest.mark.requirement("A267")
def test_dialect_b() -> None:
    loaded = settings("""
storage:
  databases: [{name: main, driver: postgres, host: db, user: u, password: p@ss, database: app}]
  caches: [{name: fast, driver: redis, addr: "cache:6379", password: pw, db: 3}]
auth:
  status_codes: {disabled: {http_code: 418, message: gone}}
  pipeline:
    - {name: own, type: builtin}
    - {name: fixed, type: static, static: {keys: [{key: sk-static-00000001}]}}
    - {name: c, type: redis, redis: {storage: fast, key_pattern: "k:{api_key}"}}
    - {name: d, type: database, database: {storage: main, table: keys}}
    - {name: l, type: lua, script: {enabled: true, path: x.lua, timeout: 50ms, max_memory: 5}}
    - {name: h, type: webhook, webhook: {url: "https://x"}, script: {enabled: false, path: y.lua}}
""")
    own, fixed, cache, database, lua, hook = loaded.auth.pipeline
    assert (own.type, fixed.type) == ("store", "file")
    assert [key.key_sha256 for key in loaded.api_keys] == [key_hash("sk-static-00000001")]
    assert cache.redis is not None
    assert (cache.redis.addr, cache.redis.password, cache.redis.db) == ("cache:6379", "pw", 3)
    assert database.database is not None
    assert database.database.dsn == "postgres://u:p%40ss@db:5432/app"
    assert lua.script is not None
    assert (lua.script.path, lua.script.timeout_s, lua.script.max_memory) == ("x.lua", 0.05, 5 << 20)
    assert hook.script is None


def test_an_old_storage_takes_the_one_store_that_is_described() -> None:
    auth = settings("storage: {caches: [{name: c, addr: 'r:1'}]}\nauth: {enabled: true, storage: redis}\n").auth
    assert [source.type for source in auth.pipeline] == ["redis"]
    text = "storage: {databases: [{name: d, driver: mysql, host: h, database: a}]}\nauth: {storage: mysql}\n"
    source = settings(text).auth.pipeline[0]
    assert source.database is not None
    assert (source.database.driver, source.database.table) == ("mysql", "api_keys")


@pytest.mark.parametrize(
    ("pipeline", "problem"),
    [
        ("[{type: file}, {type: redis}, {type: static, keys: [{key: sk-static-0001}]}]", "asked at one place"),
        ("[{type: file, lua_script: x}, {type: static, keys: [{key: sk-static-0001}]}]", "join them"),
        ("[{type: file}, {type: redis, redis: {storage: none}}]", "not the name of an entry of `storage.caches`"),
        ("[{type: file}, {type: database, database: {storage: none}}]", "not the name of an entry"),
        ("[{type: file}, {type: builtin, builtin: {path: x}}]", "unknown key `path`"),
        ("[{type: file, lua_script: a, script: {script: b}}]", "given twice"),
    ],
)
def test_what_cannot_be_translated_is_refused(pipeline: str, problem: str) -> None:
    found = problems(f"api_keys: [{{key: sk-file-00000001}}]\nauth: {{pipeline: {pipeline}}}\n")
    assert any(problem in each for each in found), found


def test_the_whole_pipelines_script() -> None:
    auth = settings("api_keys: [{key: sk-file-00000001}]\nauth: {script: {script: 'return true', timeout: 1s}}\n").auth
    assert auth.script is not None
    assert auth.script.script == "return true"
    assert settings("api_keys: [{key: sk-file-00000001}]\nauth: {lua_script: ''}\n").auth.script is None
