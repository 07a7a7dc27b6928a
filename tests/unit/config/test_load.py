"""Files with mistakes: every one is found, with its line, its path and the nearest known key."""

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zuebee.config.load import ConfigError, Loaded, load, loads
from zuebee.config.settings import Settings

MINIMAL = "backends: [{url: 'http://127.0.0.1:8001'}]\n"
SECRET = "sk-do-not-print-me-31337"


def read(text: str, **environ: str) -> Loaded:
    return loads(text, "config.yaml", environ, lambda path: path == "there.pem")


def problems(text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, **environ)
    return caught.value.problems


def test_the_smallest_file_is_one_backend() -> None:
    loaded = read(MINIMAL)
    assert loaded.settings.backends[0].url == "http://127.0.0.1:8001"
    assert loaded.settings.listen == ":8000"
    assert not loaded.settings.auth_on


@pytest.mark.requirement("A272")
def test_everything_wrong_is_reported_at_once_and_in_order() -> None:
    text = """\
listen: ":8000"
lisen: ":8001"
backends:
  - url: "http://a:1"
    wieght: 3
    timeout: soon
  - weight: ten
auth:
  enabled: maybe
  header_names: Authorization
api_keys:
  - key: short
    allowed_ips: 10.0.0.0/8
routing: {load_balance: Weighted, load_balance: weighted}
log: {level: os.environ/LVL}
"""
    assert problems(text, ZUEBEE_SERVER__MAX_HEADER="3") == [
        "environment variable ZUEBEE_SERVER__MAX_HEADER: no such setting; did you mean `ZUEBEE_SERVER__MAX_HEADERS`?",
        "config.yaml:2: lisen: unknown key `lisen`; did you mean `listen`?",
        "config.yaml:5: backends[0].wieght: unknown key `wieght`; did you mean `weight`?",
        "config.yaml:6: backends[0].timeout: expected a duration such as `500ms`, `10s` or `1m30s`",
        "config.yaml:7: backends[1].weight: expected a whole number",
        "config.yaml:7: backends[1].url: required, but missing",
        "config.yaml:9: auth.enabled: expected `true` or `false`",
        "config.yaml:10: auth.header_names: expected a list, such as `[a, b]`",
        "config.yaml:12: api_keys[0].key: expected `str` of length >= 8",
        "config.yaml:13: api_keys[0].allowed_ips: expected a list, such as `[a, b]`",
        "config.yaml:14: routing.load_balance: repeated key `load_balance` (first on line 14)",
        "config.yaml:14: routing.load_balance: expected `weighted` or `round_robin` or `least_connections`"
        " or `latency_based`; did you mean `weighted`?",
        "config.yaml:15: log.level: environment variable `LVL` is not set or empty",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["config.yaml: backends: required, but missing"]),
        ("# nothing but a comment\n", ["config.yaml: backends: required, but missing"]),
        ("backends:\n", ["config.yaml:1: backends: required, but missing"]),
        ("backends: []\n", ["config.yaml:1: backends: expected at least 1"]),
        ("- a\n- b\n", ["config.yaml:1: expected settings, such as `backends: [...]`"]),
        ("just text", ["config.yaml:1: expected settings, such as `backends: [...]`"]),
        ("backends: [\n", ["config.yaml:2: YAML: while parsing a flow node: did not find expected node content"]),
    ],
)
def test_files_that_are_hardly_there(text: str, expected: list[str]) -> None:
    assert problems(text) == expected


def test_a_mistake_repeated_by_aliases_does_not_flood_the_screen() -> None:
    said = problems("backends: &b\n" + "  - {url: 1, wieght: 1}\n" * 300)
    assert len(said) == 101
    assert said[-1] == "and 200 more"


def test_problems_with_the_file_itself(tmp_path: Path) -> None:
    def messages(path: Path) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(str(path), {})
        return caught.value.problems

    assert messages(tmp_path / "none.yaml") == [f"{tmp_path}/none.yaml: No such file or directory"]
    assert messages(tmp_path) == [f"{tmp_path}: Is a directory"]
    (tmp_path / "latin.yaml").write_bytes(b"listen: ':1'\nname: caf\xe9\n")
    assert messages(tmp_path / "latin.yaml") == [f"{tmp_path}/latin.yaml:2: not UTF-8"]
    (tmp_path / "huge.yaml").write_bytes(b"# \xc3\xa9\n" * 300_000)
    assert messages(tmp_path / "huge.yaml") == [f"{tmp_path}/huge.yaml: larger than 1048576 bytes"]
    (tmp_path / "marked.yaml").write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert load(str(tmp_path / "marked.yaml"), {}).settings.listen == ":8000", "a byte order mark is harmless"


def test_anchors_and_merge_keys_save_repetition() -> None:
    text = """\
backends:
  - &gpu {url: "http://a:1", timeout: 2m, weight: 3}
  - {<<: *gpu, url: "http://b:1"}
"""
    first, second = read(text).settings.backends
    assert (first.timeout_s, second.timeout_s) == (120, 120)
    assert (second.url, second.weight) == ("http://b:1", 3)


def test_keys_are_kept_as_hashes_only() -> None:
    loaded = read(f"{MINIMAL}api_keys:\n  - {{key: {SECRET}}}\n  - {{key_sha256: '{'AB' * 32}'}}\n")
    assert [key.key for key in loaded.settings.api_keys] == [None, None]
    assert [key.key_sha256 for key in loaded.settings.api_keys] == [
        "a89322f5978ffa313e58b2c00a64ae95f41b9c2aa8b51478ce078c49ee0f8ccd",
        "ab" * 32,
    ]
    assert SECRET not in repr(loaded)


def test_settings_hide_secrets_when_printed() -> None:
    text = f"""\
backends: [{{url: "http://a:1", api_key: {SECRET}, headers: {{X-Token: {SECRET}}}}}]
metrics: {{token: {SECRET}}}
proxy: {{http: "http://user:{SECRET}@proxy:1"}}
usage: {{reporters: [{{name: db, type: database, database: {{driver: mysql, dsn: "user:{SECRET}@tcp(db)/x"}}}}]}}
"""
    settings = read(text).settings
    assert settings.backends[0].api_key == SECRET, "a positive control"
    assert SECRET not in repr(settings)
    assert "max_body_size=33554432" in repr(settings)


# A file with something wrong in every place where a secret could stand.
LEAKY = f"""\
listen: {SECRET}
{SECRET}: {SECRET}
server:
  max_headers: {SECRET}
  trusted_proxies: [{SECRET}]
  tls: {{cert_file: {SECRET}, key_file: {SECRET}, client_auth: {SECRET}}}
backends:
  - url: "http://user:{SECRET}@host?key={SECRET}"
    {SECRET}: 1
    weight: {SECRET}
    timeout: {SECRET}
    headers: {{{SECRET}: [{SECRET}]}}
  - url: {SECRET}
  - {SECRET}
routing: {{load_balance: {SECRET}, fallback: [{{primary: {SECRET}, fallback: [{SECRET}]}}]}}
api_keys:
  - {SECRET}
  - {SECRET}: Dev
  - {{key: {SECRET}, key_sha256: {SECRET}, expires_at: {SECRET}, allowed_ips: [{SECRET}]}}
usage_hook: {SECRET}
metrics: {{path: {SECRET}, token: [{SECRET}]}}
proxy: {{http: "{SECRET}"}}
"""


def test_no_value_ever_appears_in_a_message() -> None:
    said = problems(LEAKY, ZUEBEE_LOG__LEVEL=SECRET, ZUEBEE_SERVER__MAX_BODY_SIZE=SECRET)
    assert len(said) > 15, "a positive control: there is much to complain about"
    assert SECRET not in "\n".join(said)
    for line in range(1, LEAKY.count("\n") + 1):
        only = "\n".join(text if number == line else "" for number, text in enumerate(LEAKY.split("\n"), 1))
        try:
            said = read(only).warnings
        except ConfigError as error:
            said = error.problems
        assert SECRET not in "\n".join(said)


def test_no_value_appears_in_what_the_checks_say() -> None:
    text = f"""\
listen: "0.0.0.0:8000"
server: {{trusted_proxies: [{SECRET}], tls: {{cert_file: /{SECRET}, key_file: /{SECRET}}}}}
backends:
  - {{url: "http://user:{SECRET}@host", ca_file: /{SECRET}}}
  - {{url: "http://host?key={SECRET}#"}}
  - {{url: "ftp://{SECRET}", api_key: "{SECRET} x", headers: {{"a b": "{SECRET}"}}}}
routing: {{fallback: [{{primary: "http://{SECRET}", fallback: ["http://{SECRET}"]}}]}}
proxy: {{https: "socks5://{SECRET}"}}
api_keys:
  - {{key: "{SECRET} x", expires_at: {SECRET}, denied_ips: [{SECRET}]}}
"""
    said = problems(text)
    assert len(said) == 15
    assert SECRET not in "\n".join(said)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="abl:-[]{}&*<!'\"\n #,|>?%@\t0~"))
def test_no_text_does_worse_than_a_configuration_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(read(text).settings, Settings)


def test_the_process_environment_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "ZUEBEE_LISTEN", ":9")
    monkeypatch.setitem(os.environ, "HTTP_PROXY", "http://proxy:1")
    settings = read(MINIMAL).settings
    assert (settings.listen, settings.proxy.http) == (":8000", None)
