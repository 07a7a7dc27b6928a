"""Who gets in, and how fast, in LLMProxy's files: translated or refused, never dropped silently."""

import pytest

from zuebee.config.load import ConfigError, loads
from zuebee.config.settings import Settings
from zuebee.config.validate import key_hash

BACKEND = "backends: [{url: 'http://a:1'}]\n"
KEYS = "api_keys: [{key: sk-a-real-key-0001}]\n"


def settings(text: str) -> Settings:
    return loads(BACKEND + text, "f", {}, lambda path: True).settings


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        settings(text)
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "auth: {storage: redis}",
            "auth.storage: does not say where: describe it in `auth.pipeline` with a provider of type `redis`",
        ),
        ("auth: {storage: ldap}", "auth.storage: expected `file`, `redis`, `mysql`, `postgres` or `sqlite`"),
        (
            "auth: {skip_paths: [/health, /v1/models]}",
            "auth.skip_paths[1]: only health and metrics are served without a key",
        ),
        (
            "auth: {status_codes: {expired: {allow: true}}}",
            "auth.status_codes.expired.allow: who gets in cannot be changed here: only `active` keys do",
        ),
        (
            "auth: {defaults: {quota: 5}}",
            "auth.defaults.quota: unknown key `quota`; did you mean `total_quota`?",
        ),
        (
            "auth: {pipeline: [{type: file}, {type: redis, redis: {storage: main}}]}",
            "auth.pipeline[1].redis.storage: not the name of an entry of `storage.caches` that is switched on",
        ),
        (
            "auth: {pipeline: [{type: flie}]}",
            "auth.pipeline[0].type: unknown provider type `flie`; did you mean `file`?",
        ),
        ("auth: {pipeline: [{name: x}]}", "auth.pipeline[0]: `type` is required, but missing"),
        (
            "auth: {pipeline: [{type: file, script: {pahth: x.lua, script: 'return true'}}]}",
            "auth.pipeline[0].script.pahth: unknown key `pahth`; did you mean `path`?",
        ),
        (
            "auth: {pipeline: [{type: file, enabled: false}]}",
            "auth.pipeline: no provider is enabled, so nobody could get in",
        ),
        (
            "auth: {pipeline: [{type: file, path: keys.txt}]}",
            "auth.pipeline[0].path: unknown key `path`; known: `billing`, `clients`, `database`, `enabled`, `jwt`, "
            "`name`, `redis`, `script`, `type`, `webhook`",
        ),
        ("auth: {pipeline: {type: file}}", "auth.pipeline: expected a list"),
        ("auth: {pipeline: [file, {type: file}]}", "auth.pipeline[0]: expected a mapping"),
        ("auth: {pipeline: [{type: file}, {type: static, keys: x}]}", "auth.pipeline[1].keys: expected a list"),
        ("auth: {skip_paths: /v1}", "auth.skip_paths: expected a list"),
        ("auth: {defaults: 5}", "auth.defaults: expected a mapping"),
        ("auth: {status_codes: [403]}", "auth.status_codes: expected a mapping"),
        ("auth: {storage: [file]}", "auth.storage: expected a single value"),
    ],
)
def test_what_would_change_who_gets_in_is_refused(text: str, expected: str) -> None:
    assert problems(KEYS + text + "\n") == [f"f:3: {expected}"]


def test_keys_that_the_pipeline_does_not_ask_for_are_not_let_in() -> None:
    text = "auth: {pipeline: [{type: static, keys: [{key: sk-static-0001}]}]}\n"
    assert problems(KEYS + text) == [
        "f:2: api_keys: not asked by `auth.pipeline`: add a provider of type `file`, or remove them"
    ]
    assert [key.key_sha256 for key in settings(text).api_keys] == [key_hash("sk-static-0001")]
    both = "auth: {pipeline: [{type: file}, {type: static, keys: [{key: sk-static-0001}]}]}\n"
    assert len(settings(KEYS + both).api_keys) == 2


def test_parts_of_auth_that_is_off_need_no_translation() -> None:
    text = "auth: {enabled: false, storage: redis, pipeline: [{type: redis, redis: {password: os.environ/UNSET}}]}\n"
    assert not settings(text).auth_on


def test_quotas_of_keys_that_name_none() -> None:
    text = """\
auth: {defaults: {total_quota: 9, quota_reset_period: daily}}
api_keys:
  - {key: sk-a-real-key-0001}
  - {key: sk-a-real-key-0002, total_quota: 5, quota_reset_period: ""}
"""
    quotas = [(key.total_quota, key.quota_reset_period) for key in settings(text).api_keys]
    assert quotas == [(9, "daily"), (5, "never")]


@pytest.mark.parametrize(
    ("written", "status"),
    [("0", "active"), ("1", "disabled"), ("2", "quota_exceeded"), ("3", "expired"), ("disabled", "disabled")],
)
def test_a_status_as_a_number_or_a_word(written: str, status: str) -> None:
    assert settings(f"api_keys: [{{key: sk-a-real-key-0001, status: {written}}}]\n").api_keys[0].status == status


@pytest.mark.parametrize(
    "text",
    [
        "auth: {storage: , pipeline: , defaults: , skip_paths: }",
        "auth: {skip_paths: [/health, /ready, /metrics]}",
    ],
)
def test_what_limits_nothing_is_accepted(text: str) -> None:
    assert settings(KEYS + text + "\n").auth_on
