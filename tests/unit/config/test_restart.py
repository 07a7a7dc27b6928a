"""Each setting says what a change of it needs, and a reload goes by that."""

from collections.abc import Iterator
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from zuebee.config.load import loads
from zuebee.config.restart import fixed_changes, section_in, settings_of
from zuebee.config.settings import Settings
from zuebee.config.settings_base import RELOAD, RESTART, RESTART_WITH_REDIS, Section

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
        (START.replace("billing: {", "billing: {hold_ttl: 99s, "), ["billing.hold_ttl"]),
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


def test_a_section_that_appears_or_goes_needs_what_it_says_itself() -> None:
    capped = START.replace("billing: {", "billing: {cap: {model: '*', input_per_million: '3'}, ")
    assert fixed_changes(settings(START), settings(capped)) == []
    assert fixed_changes(settings(capped), settings(capped.replace("'3'", "'4'"))) == []
    with_redis = START + "redis: {prefix: a}\n"
    assert fixed_changes(settings(START), settings(with_redis)) == ["redis"]
    assert fixed_changes(settings(with_redis), settings(START + "redis: {prefix: b}\n")) == ["redis.prefix"]


def unsaid(kind: type[msgspec.Struct], inherited: str = "", path: str = "") -> Iterator[str]:
    """Settings of which neither they nor their section say what a change needs."""
    for each in settings_of(kind, inherited):
        if each.change not in {said["change"] for said in (RELOAD, RESTART, RESTART_WITH_REDIS)}:
            yield path + each.name
        inner, _ = section_in(each.field)
        if inner is not None:
            yield from unsaid(inner, each.change, f"{path}{each.name}.")


def test_every_setting_says_what_its_change_needs_or_its_section_does() -> None:
    assert list(unsaid(Settings)) == []


def test_a_setting_that_does_not_say_it_is_seen() -> None:
    class Inner(Section, frozen=True, kw_only=True):
        """A section."""

        value: Annotated[int, Meta(description="Of it.")] = 0

    class Outer(Section, frozen=True, kw_only=True):
        """Two of them."""

        silent: Annotated[Inner, Meta(description="Does not say it.")] = Inner()
        said: Annotated[Inner, Meta(description="Says it.", extra=RELOAD)] = Inner()

    assert list(unsaid(Outer)) == ["silent", "silent.value"]
