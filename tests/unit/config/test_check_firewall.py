import pytest

from zuebee.config.load import ConfigError, Loaded, loads

BASE = "backends: [{url: 'http://a:1'}]\napi_keys: [{key: sk-a-real-key-0001}]\nfirewall:\n"


def read(text: str) -> Loaded:
    return loads(BASE + text, "f", {}, lambda _: True)


def test_a_firewall_in_order() -> None:
    text = """  mode: count
  allowed_addresses: [10.0.0.0/8, '2001:db8::/32', 192.0.2.1]
  max_images: 0
  rules:
    - {name: office, action: allow, addresses: [10.1.0.0/16]}
    - {name: beta, header: x-beta}
    - {name: word, body: true, pattern: 'a+b', mode: count, status: 451}
"""
    assert read(text).warnings == []


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("  allowed_addresses: [10.0.0.1/8]\n", "firewall.allowed_addresses[0]", "expected an address or a range"),
        ("  denied_addresses: [here]\n", "firewall.denied_addresses[0]", "expected an address or a range"),
        ("  content_types: [json]\n", "firewall.content_types[0]", "media type"),
        ("  rules: [{name: method, methods: [GET]}]\n", "firewall.rules[0].name", "built-in"),
        ("  rules: [{name: a, methods: [G]}, {name: a, methods: [P]}]\n", "firewall.rules[1].name", "same name"),
        ("  rules: [{name: a, paths: ['(']}]\n", "firewall.rules[0].paths[0]", "not an RE2 pattern"),
        ("  rules: [{name: a, body: true, pattern: '(?=a)'}]\n", "firewall.rules[0].pattern", "not an RE2 pattern"),
        ("  rules: [{name: a, header: 'x y'}]\n", "firewall.rules[0].header", "not a header name"),
        ("  rules: [{name: a, methods: ['G T']}]\n", "firewall.rules[0].methods[0]", "not a method"),
        ("  rules: [{name: a, addresses: [x]}]\n", "firewall.rules[0].addresses[0]", "expected an address"),
        ("  rules: [{name: a, pattern: x}]\n", "firewall.rules[0].pattern", "needs to know where to search"),
        ("  rules: [{name: a, body: true}]\n", "firewall.rules[0].pattern", "required"),
        ("  rules: [{name: a, header: '*'}]\n", "firewall.rules[0].pattern", "required"),
        ("  rules: [{name: a, body: true, query: true, pattern: x}]\n", "firewall.rules[0]", "one rule for each"),
        ("  rules: [{name: a}]\n", "firewall.rules[0]", "refuses everything"),
        ("  rules: [{name: a, methods: [G], action: allow, mode: count}]\n", "firewall.rules[0].mode", "leave `mode`"),
        ("  rules: [{name: 'a b', methods: [G]}]\n", "firewall.rules[0].name", ""),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, place: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert any(place in problem and message in problem for problem in caught.value.problems), caught.value.problems


def test_a_limit_that_never_applies_is_a_warning() -> None:
    assert "server.max_body_size" in read("  max_body_size: 1GiB\n").warnings[0]
