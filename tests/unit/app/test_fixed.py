from typing import Any

import pytest

from zuebee.app.wiring import FIXED, MOVABLE, fixed_changes
from zuebee.config.load import loads
from zuebee.config.settings import Settings

START = """
backends: [{url: "http://a"}]
billing: {prices: [{model: m, input_per_million: "1"}]}
"""


def settings(text: str) -> Settings:
    return loads(text, "file", {}, lambda path: True).settings


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        (START, []),
        (START.replace('"1"', '"2"'), []),
        (START + "log: {level: debug}\n", []),
        (START.replace("billing: {", "billing: {margin_percent: 5, built_in_prices: false, "), []),
        (START + "log: {level: debug, format: json}\n", ["log.format"]),
        (START.replace("billing: {", "billing: {hold: 99s, "), ["billing.hold"]),
        (START + "server: {tls: {cert_file: a, key_file: b}}\n", ["server.tls"]),
        (START + "server: {keep_alive: 9s, cors: {origins: ['*']}}\n", ["server.keep_alive", "server.cors.origins"]),
        (START + "metrics: {path: /elsewhere}\nstore: {path: x.db}\n", ["store.path"]),
        (START + "usage: {reporters: [{name: a, type: webhook, url: 'http://b'}]}\n", []),
        (START + "usage: {retention_days: 9}\n", ["usage.retention_days"]),
        (START + "listen: 127.0.0.1:1\n", ["listen"]),
    ],
)
def test_what_needs_a_restart_is_named_as_files_have_it(text: str, changed: list[str]) -> None:
    assert sorted(fixed_changes(settings(START), settings(text))) == sorted(changed)


def test_the_lists_name_settings_that_there_are() -> None:
    loaded: Any = settings(START)
    for name in FIXED:
        getattr(loaded, name)
    for name in MOVABLE:
        section, _, field = name.partition(".")
        assert hasattr(getattr(loaded, section), field), name
