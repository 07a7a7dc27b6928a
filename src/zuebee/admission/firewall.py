"""PURE. What may not even be asked: rules over methods, paths, addresses, headers, sizes and parameters.

Never an opinion about what a prompt says: no built-in rule looks into a body, but for the figures in it.

The order is: own rules, lists of addresses, built-in limits, built-in rules; the first that matches decides. A rule
that only counts is passed over. The operator's routes (health, metrics) are touched only by rules that name their path.
"""

from collections.abc import Callable, MutableMapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

import re2

from zuebee.admission.images import more_images_than
from zuebee.config.settings_auth import FirewallRuleSettings, FirewallSettings
from zuebee.contracts.admission import Caller
from zuebee.contracts.errors import ErrorType, Refusal
from zuebee.contracts.inference import Job
from zuebee.lib.networks import parse_networks, within

# What rules compare with: patterns in linear time, and sets of addresses.
#
# Patterns are RE2: their time grows with the text alone, whatever a stranger sends.

MAX_KNOWN_ADDRESSES = 4096

Search: TypeAlias = Callable[[bytes], bool]


def searcher(pattern: str) -> Search:
    """Whether the pattern is somewhere in a text. Raises ValueError if it is not RE2."""
    search = _compile(pattern).search
    return lambda text: search(text) is not None


def whole_matcher(patterns: Sequence[str]) -> Search:
    """Whether one of the patterns matches the whole text. Raises ValueError if one is not RE2."""
    match = _compile("|".join(f"(?:{pattern})" for pattern in patterns)).fullmatch
    return lambda text: match(text) is not None


def address_set(texts: Sequence[str]) -> Callable[[str], bool]:
    """Whether an address is one of these, or in one of these ranges. What is no address is in none."""
    networks = parse_networks(texts)

    @lru_cache(MAX_KNOWN_ADDRESSES)
    def contains(text: str) -> bool:
        return within(text, networks)

    return contains


def _compile(pattern: str) -> re2._Regexp:
    options = re2.Options()
    options.log_errors = False
    try:
        # As bytes: header fields and bodies need not be UTF-8.
        return re2.compile(pattern.encode(), options)
    except re2.error as error:
        reason = error.args[0] if error.args else "not a pattern"
        raise ValueError(reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)) from None


# The rules that come with the firewall: what no client of a language model ever sends.
#
# They look at targets and header fields only. What a prompt says never matches one of them. Control characters in
# fields need no rule: the parser refuses them (RFC 9110, section 5.5).

_AGENTS = (
    r"(?i)\b(sqlmap|nikto|nuclei|masscan|zgrab|dirbuster|gobuster|feroxbuster|wpscan|acunetix|nessus"
    r"|openvas|netsparker|w3af|havij)\b"
)

DEFAULT_RULES = (
    FirewallRuleSettings(
        # TRACE answers with the caller's own fields, the key among them (RFC 9110, section 9.3.8).
        name="method",
        methods=["TRACE", "TRACK", "DEBUG", "CONNECT"],
        status=405,
    ),
    FirewallRuleSettings(
        name="path_trick",
        paths=[
            r".*(^|[/\\])\.\.([/\\].*|$)",
            r"(?i).*%(2e|2f|5c|00|25).*",  # encoded twice: the server has decoded it once
            r"(?s).*[\x00-\x1f\x7f\\].*",
        ],
        status=404,
    ),
    FirewallRuleSettings(
        name="scanner_path",
        paths=[
            r"(?i).*/\.(env|git|svn|hg|aws|ssh|kube|docker|vscode|htaccess|htpasswd|DS_Store|npmrc|bash_history)"
            r"([./_~-].*)?",
            r"(?i).*\.(php\d?|phtml|aspx?|ashx|asmx|jspx?|cgi|cfm|do|action|bak|sql|swp|old)(/.*)?",
            r"(?i)/+(wp-[a-z]+|wordpress|xmlrpc|phpmyadmin|pma|adminer|cgi-bin|vendor|actuator|solr|jenkins|struts"
            r"|owa|ecp|autodiscover|hnap1|boaform|goform|manager|server-status|server-info|_ignition|telescope"
            r"|console|druid|jolokia|geoserver|sdk|remote|dana-na|vpn|cgi|invoker|web-inf|etc|proc)(/.*)?",
        ],
        status=404,
    ),
    FirewallRuleSettings(name="scanner_agent", header="user-agent", pattern=_AGENTS),
    FirewallRuleSettings(
        # Look-ups that old log libraries run, functions that old shells run.
        name="header_attack",
        header="*",
        pattern=r"(?i)\$\{\s*(jndi|env|sys|lower|upper|date|main|ctx|java|::-)|^\s*\(\)\s*\{",
        status=400,
    ),
)

UNKNOWN_TARGETS_ONLY = frozenset({"path_trick", "scanner_path"})
"""They cannot be right about a path that the gateway serves."""

FIELD_RULES = frozenset({"scanner_agent", "header_attack"})
"""Those that look at header fields only."""

_is_scanner = lru_cache(1024)(searcher(_AGENTS))


def harmless(fields: dict[bytes, bytes]) -> bool:
    """Whether none of FIELD_RULES can match, seen at a glance; False: ask them."""
    # Not `in`: for bytes that first tries to take the needle for a number, and makes an exception of it.
    if b"".join(fields.values()).find(b"{") >= 0:
        return False
    return not _is_scanner(fields.get(b"user-agent", b""))


CODE: Final = "request_blocked"
MAX_PLANS: Final = 1024
MAX_PLANNED_PATH: Final = 256

Counts = MutableMapping[tuple[str, str], int]
"""How often each rule (name, `blocked`, `counted` or `allowed`) has matched."""

_JSON: Final = b"application/json"
_OTHER: Final = "other"
_TYPES: Final[dict[int, ErrorType]] = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"
}  # fmt: skip


class OpenFirewall:
    """Lets everything through."""

    def check_caller(self, caller: Caller) -> Refusal | None:
        return None

    def check_job(self, caller: Caller, job: Job) -> Refusal | None:
        return None


class _Rule:
    """One rule, ready to be asked."""

    __slots__ = ("_conditions", "_methods", "_paths", "_search", "allows", "blocks", "in_body", "name", "refusal")

    def __init__(self, settings: FirewallRuleSettings, *, may_block: bool) -> None:
        self.name = settings.name
        self.allows = settings.action == "allow"
        self.blocks = may_block and settings.mode == "block"
        self.refusal = _refusal(settings.status, settings.name, "The request was refused by a rule of the firewall")
        self.in_body = settings.body
        self._methods = frozenset(method.upper() for method in settings.methods)
        self._paths = whole_matcher(settings.paths) if settings.paths else None
        self._search = searcher(settings.pattern) if settings.pattern else None
        self._conditions = tuple(self._make_conditions(settings))

    def _make_conditions(self, settings: FirewallRuleSettings) -> list[Callable[[Caller], bool]]:
        conditions: list[Callable[[Caller], bool]] = []
        if settings.addresses:
            near = address_set(settings.addresses)
            conditions.append(lambda caller: near(caller.address))
        if settings.not_addresses:
            far = address_set(settings.not_addresses)
            conditions.append(lambda caller: not far(caller.address))
        if settings.header:
            conditions.append(_header_condition(settings.header.lower().encode(), self._search))
        if settings.query and (search := self._search) is not None:
            conditions.append(lambda caller: search(caller.query))
        return conditions

    def concerns(self, caller: Caller) -> bool:
        """Whether method and path fit. Operators' routes are only for rules that name a path."""
        if self._methods and caller.method not in self._methods:
            return False
        if self._paths is None:
            return not is_operators(caller.route)
        return self._paths(caller.path.encode(errors="replace"))

    def fits(self, caller: Caller) -> bool:
        """Whether all conditions but those of `concerns` and of the body hold."""
        return all(condition(caller) for condition in self._conditions)

    def fits_body(self, body: bytes) -> bool:
        """Whether the pattern is in the body."""
        return self._search is not None and self._search(body)


class _Plan(NamedTuple):
    """What is to be asked about requests of one method and path; `checked`: also the built-in limits.

    `only_fields`: the built-in rules look at nothing but header fields, and harmless ones match none of them.
    """

    own: tuple[_Rule, ...]
    builtin: tuple[_Rule, ...]
    checked: bool
    only_fields: bool


class RuleFirewall:
    """Decides by rules and limits. Raises ValueError if a pattern or an address is not valid."""

    def __init__(self, settings: FirewallSettings, counts: Counts) -> None:
        self._settings = settings
        self._counts = counts
        self._may_block = may_block = settings.mode == "block"
        self._own = tuple(_Rule(rule, may_block=may_block) for rule in settings.rules if rule.enabled)
        defaults = DEFAULT_RULES if settings.default_rules else ()
        self._defaults = tuple(_Rule(rule, may_block=may_block) for rule in defaults)
        self._denied = address_set(settings.denied_addresses) if settings.denied_addresses else None
        self._allowed = address_set(settings.allowed_addresses) if settings.allowed_addresses else None
        self._content_types = frozenset(text.strip().lower().encode() for text in settings.content_types)
        self._measured = any((settings.max_headers, settings.max_header_bytes, settings.max_body_size is not None))
        self._placed = self._denied is not None or self._allowed is not None
        self._max_choices = settings.max_choices
        self._job_rules = tuple(rule for rule in self._own if rule.in_body or rule.allows)
        self._reads_jobs = any(rule.in_body for rule in self._own) or not (
            settings.max_output_tokens is settings.max_images is settings.max_body_size is None
        )
        self._plans: dict[tuple[str, str], _Plan] = {}

    def check_caller(self, caller: Caller) -> Refusal | None:
        if (memo := caller.memo) is not None and memo.passed_by is self:
            return None
        own, builtin, checked, only_fields = self._plans.get((caller.method, caller.path)) or self._plan(caller)
        for rule in own:
            if rule.fits(caller):
                if rule.allows:
                    self._count(rule.name, "allowed")
                    return None
                if (refusal := self._matched(rule.name, rule.refusal, blocks=rule.blocks)) is not None:
                    return refusal
        if not checked:
            return None
        fields = caller.fields
        if self._placed and (refusal := self._check_address(caller.address)) is not None:
            return refusal
        if self._measured and (refusal := self._check_sizes(fields)) is not None:
            return refusal
        is_json = fields.get(b"content-type") == _JSON
        if not is_json and (refusal := self._check_content_type(fields)) is not None:
            return refusal
        if only_fields and harmless(fields):
            if is_json and memo is not None and not own and not self._measured:
                memo.passed_by = self  # the next one with these fields will pass as well
            return None
        for rule in builtin:
            if rule.fits(caller):
                refusal = self._matched(rule.name, rule.refusal, blocks=rule.blocks)
                if refusal is not None:
                    return refusal
        return None

    def check_job(self, caller: Caller, job: Job) -> Refusal | None:
        if job.choices <= self._max_choices and not self._reads_jobs:
            return None
        for rule in self._job_rules:
            if not rule.concerns(caller) or not rule.fits(caller):
                continue
            if rule.in_body and not rule.fits_body(job.body):
                continue
            if rule.allows:
                return None
            if (refusal := self._matched(rule.name, rule.refusal, blocks=rule.blocks)) is not None:
                return refusal
        return self._check_figures(job)

    def _plan(self, caller: Caller) -> _Plan:
        """What does not depend on more than method and path is decided once."""
        own = tuple(rule for rule in self._own if not rule.in_body and rule.concerns(caller))
        known = caller.route != _OTHER
        builtin = tuple(
            rule
            for rule in self._defaults
            if not (known and rule.name in UNKNOWN_TARGETS_ONLY) and rule.concerns(caller)
        )
        only_fields = all(rule.name in FIELD_RULES for rule in builtin)
        plan = _Plan(own, builtin, not is_operators(caller.route), only_fields)
        if len(caller.path) <= MAX_PLANNED_PATH:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            self._plans[caller.method, caller.path] = plan
        return plan

    def _check_address(self, address: str) -> Refusal | None:
        if self._denied is not None and self._denied(address):
            return self._broken(403, "denied_addresses", "Requests from this address are not allowed")
        if self._allowed is not None and not self._allowed(address):
            return self._broken(403, "allowed_addresses", "Requests from this address are not allowed")
        return None

    def _check_sizes(self, fields: dict[bytes, bytes]) -> Refusal | None:
        settings = self._settings
        if settings.max_headers is not None and len(fields) > settings.max_headers:
            return self._broken(431, "max_headers", f"The request has more than {settings.max_headers} header fields")
        if settings.max_header_bytes is not None:
            size = sum(map(len, fields)) + sum(map(len, fields.values()))
            if size > settings.max_header_bytes:
                return self._broken(
                    431, "max_header_bytes", f"The request has more than {settings.max_header_bytes} bytes of headers"
                )
        length = fields.get(b"content-length", b"0")
        if settings.max_body_size is not None and length.isdigit() and int(length) > settings.max_body_size:
            return self._too_large(settings.max_body_size)
        return None

    def _check_content_type(self, fields: dict[bytes, bytes]) -> Refusal | None:
        kind = fields.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind and self._content_types and kind not in self._content_types:
            shown = ", ".join(self._settings.content_types)
            return self._broken(415, "content_types", f"The content type must be one of {shown}")
        if kind != _JSON and b"origin" in fields and self._settings.default_rules and (kind or _has_body(fields)):
            # A page may send a form, or bytes without a type, to any address without asking; JSON only where that
            # address agrees (Fetch, CORS).
            return self._broken(
                415, "browser_form", "Requests from a web page must have the content type application/json"
            )
        return None

    def _check_figures(self, job: Job) -> Refusal | None:
        settings = self._settings
        refusal: Refusal | None = None
        if job.choices > settings.max_choices:
            refusal = self._broken(
                400, "max_choices", f"The request asks for more than {settings.max_choices} answers", "n"
            )
        bound = job.max_output_tokens
        if refusal is None and settings.max_output_tokens is not None and (bound or 0) > settings.max_output_tokens:
            text = f"The request asks for more than {settings.max_output_tokens} tokens of answer"
            refusal = self._broken(400, "max_output_tokens", text, "max_tokens")
        if refusal is None and settings.max_body_size is not None and len(job.body) > settings.max_body_size:
            refusal = self._too_large(settings.max_body_size)
        if refusal is None and settings.max_images is not None and more_images_than(job.body, settings.max_images):
            refusal = self._broken(
                400, "max_images", f"The request has more than {settings.max_images} images", "messages"
            )
        return refusal

    def _too_large(self, limit: int) -> Refusal | None:
        return self._broken(413, "max_body_size", f"The body is larger than {limit} bytes")

    def _broken(self, status: int, rule: str, message: str, param: str | None = None) -> Refusal | None:
        return self._matched(rule, _refusal(status, rule, message, param), blocks=self._may_block)

    def _matched(self, rule: str, refusal: Refusal, *, blocks: bool) -> Refusal | None:
        self._count(rule, "blocked" if blocks else "counted")
        return refusal if blocks else None

    def _count(self, rule: str, what: str) -> None:
        self._counts[rule, what] = self._counts.get((rule, what), 0) + 1


def is_operators(route: str) -> bool:
    """Whether a route serves those who look after the gateway: what breaks it must not depend on limits for callers."""
    return route == "/metrics" or route.startswith("/health")


def _has_body(fields: dict[bytes, bytes]) -> bool:
    return fields.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in fields


def _header_condition(name: bytes, search: Search | None) -> Callable[[Caller], bool]:
    if name == b"*":
        return lambda caller: search is not None and any(map(search, caller.fields.values()))
    if search is None:
        return lambda caller: name in caller.fields
    return lambda caller: (value := caller.fields.get(name)) is not None and search(value)


def _refusal(status: int, rule: str, message: str, param: str | None = None) -> Refusal:
    kind = _TYPES.get(status, "invalid_request_error")
    return Refusal(status, kind, CODE, f"{message} (rule `{rule}`).", param)
