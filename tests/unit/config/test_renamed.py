"""Settings that were renamed: who writes the old name is told the new one."""

import msgspec
import pytest

from zuebee.config.load import ConfigError, load_part, loads
from zuebee.config.restart import section_in
from zuebee.config.settings import Settings
from zuebee.config.yaml import RENAMED

START = "backends: [{url: 'http://a:1'}]\n"


def problem(text: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        loads(START + text, "f", environ or {}, lambda path: True)
    (found,) = caught.value.problems
    return found


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        ("server: {allow_open: true}", "server.allow_open", "allow_anonymous"),
        ("client_gone: [{policy: drain}]", "client_gone", "on_disconnect"),
        ("stream: {heartbeat: 9s}", "stream.heartbeat", "keepalive_interval"),
        ("billing: {heartbeat: 2s}", "billing.heartbeat", "renew_interval"),
        ("billing: {hold: 99s}", "billing.hold", "hold_ttl"),
        ("billing: {when_exhausted: finish}", "billing.when_exhausted", "on_exhausted"),
        ("usage: {max_outbox: 1000}", "usage.max_outbox", "outbox_capacity"),
        ("usage: {when_full: drop}", "usage.when_full", "on_outbox_full"),
        ("rate_limit: {per_key: {when_down: open}}", "rate_limit.per_key.when_down", "on_store_down"),
        ("rate_limit: {per_organisation: {}}", "rate_limit.per_organisation", "per_organization"),
        ("api_keys: [{key: sk-a-real-key-0001, organisation_id: o}]", "api_keys[0].organisation_id", "organization_id"),
    ],
)
def test_an_old_name_is_answered_with_the_new_one(text: str, old: str, new: str) -> None:
    name = old.rpartition(".")[2]
    assert problem(text) == f"f:2: {old}: unknown key `{name}`; it is called `{new}` now"


def test_so_is_an_old_variable_of_the_environment() -> None:
    assert "`ZUEBEE_BILLING__HOLD_TTL`" in problem("", {"ZUEBEE_BILLING__HOLD": "9s"})
    assert "`ZUEBEE_STREAM__KEEPALIVE_INTERVAL`" in problem("", {"ZUEBEE_STREAM__HEARTBEAT": "9s"})


def test_commands_that_read_a_part_of_the_file_say_it_too(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "config.yaml"
    path.write_text(START + "client_gone: [{policy: drain}]\n")
    with pytest.raises(ConfigError, match="it is called `on_disconnect` now"):
        load_part(str(path), {})


def _names(kind: type[msgspec.Struct]) -> set[str]:
    found: set[str] = set()
    for each in msgspec.structs.fields(kind):
        found.add(each.encode_name)
        inner, _ = section_in(each)
        found |= _names(inner) if inner else set()
    return found


def test_no_old_name_is_in_use_and_each_new_one_is() -> None:
    names = _names(Settings)
    assert not names & RENAMED.keys()
    assert {new for news in RENAMED.values() for new in news} - names <= {"organization"}
