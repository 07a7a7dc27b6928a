"""PURE. What is wrong with the firewall's settings, beyond the types of their values."""

import ipaddress
import re
from collections.abc import Iterable, Iterator

import re2

from zuebee.config.access import FirewallRuleSettings, FirewallSettings
from zuebee.config.finding import Finding
from zuebee.kit.yaml_tree import Path

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+")
BUILT_IN = frozenset(
    {
        "allowed_addresses", "browser_form", "content_types", "denied_addresses", "header_attack", "max_body_size",
        "max_choices", "max_header_bytes", "max_headers", "max_images", "max_output_tokens", "method", "path_trick",
        "scanner_agent", "scanner_path",
    }
)  # fmt: skip
"""Names that the firewall itself uses in refusals and metrics."""


def check_firewall(firewall: FirewallSettings, max_body_bytes: int) -> Iterator[Finding]:
    """Everything that is wrong, or worth a warning."""
    path: Path = ("firewall",)
    for name in ("allowed_addresses", "denied_addresses"):
        yield from _networks((*path, name), getattr(firewall, name))
    for index, text in enumerate(firewall.content_types):
        if not _MEDIA_TYPE.fullmatch(text):
            yield Finding((*path, "content_types", index), "expected a media type such as `application/json`")
    if firewall.max_body_size is not None and firewall.max_body_size > max_body_bytes:
        message = "larger than `server.max_body_size`, which comes first"
        yield Finding((*path, "max_body_size"), message, fatal=False)
    first_with: dict[str, int] = {}
    for index, rule in enumerate(firewall.rules):
        here: Path = (*path, "rules", index)
        if rule.name in BUILT_IN:
            yield Finding((*here, "name"), "the name of a built-in rule; choose another")
        if (other := first_with.setdefault(rule.name, index)) != index:
            yield Finding((*here, "name"), f"the same name as `firewall.rules[{other}]`")
        yield from _rule(here, rule)


def _rule(path: Path, rule: FirewallRuleSettings) -> Iterator[Finding]:
    for name in ("addresses", "not_addresses"):
        yield from _networks((*path, name), getattr(rule, name))
    for index, method in enumerate(rule.methods):
        if not _TOKEN.fullmatch(method):
            yield Finding((*path, "methods", index), "not a method")
    for index, pattern in enumerate(rule.paths):
        yield from _pattern((*path, "paths", index), pattern)
    yield from _pattern((*path, "pattern"), rule.pattern)
    if rule.header and rule.header != "*" and not _TOKEN.fullmatch(rule.header):
        yield Finding((*path, "header"), "not a header name")
    searched = [name for name in ("header", "query", "body") if getattr(rule, name)]
    if len(searched) > 1:
        yield Finding(path, f"searches in {' and '.join(searched)}: write one rule for each")
    if rule.pattern and not searched:
        yield Finding((*path, "pattern"), "is searched nowhere: set `header`, `query` or `body`")
    if not rule.pattern and (rule.query or rule.body or rule.header == "*"):
        yield Finding((*path, "pattern"), "required, but missing")
    if not (rule.methods or rule.paths or rule.addresses or rule.not_addresses or searched):
        what = "lets everything pass" if rule.action == "allow" else "refuses everything"
        yield Finding(path, f"has no condition: it {what}", fatal=rule.action == "deny")
    if rule.action == "allow" and rule.mode == "count":
        yield Finding((*path, "mode"), "an allow rule refuses nothing; leave `mode` out")


def _pattern(path: Path, pattern: str) -> Iterator[Finding]:
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(pattern.encode(), options)
    except re2.error as error:
        reason = error.args[0] if error.args else b"?"
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        yield Finding(path, f"not an RE2 pattern: {text}")


def _networks(path: Path, texts: Iterable[str]) -> Iterator[Finding]:
    for index, text in enumerate(texts):
        try:
            ipaddress.ip_network(text)
        except ValueError:
            yield Finding((*path, index), "expected an address or a range such as `10.0.0.0/8`")
