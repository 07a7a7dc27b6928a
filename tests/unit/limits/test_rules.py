from typing import Any

import pytest

from zuebee.config.settings_base import LimitSettings, PriorityLimitSettings, RateLimitSettings
from zuebee.contracts.admission import ANONYMOUS, Limit, Principal
from zuebee.lib.networks import network_of
from zuebee.limits.rules import Scopes, scope_of

ONE = LimitSettings(requests_per_minute=1)
SOMEBODY = Principal("k", "n", "u", "t", "o")


def subjects(principal: Principal = SOMEBODY, address: str = "10.0.0.1", **settings: Any) -> list[str]:
    scopes = Scopes(RateLimitSettings(**settings))
    return [limit.subject for limit in scopes.limits_for(principal, "/v1/x", "m", address)]


def test_every_scope_has_its_subject() -> None:
    every = dict.fromkeys(
        ("everyone", "per_key", "per_user", "per_team", "per_organization", "per_model", "per_path", "per_address"), ONE
    )
    assert sorted(subjects(**every, anonymous=ONE, per_priority=PriorityLimitSettings(low=ONE, normal=ONE))) == [
        "address:10.0.0.1",
        "global",
        "key:k",
        "model:m",
        "organization:o",
        "path:/v1/x",
        "priority:normal",
        "team:t",
        "user:u",
    ]
    assert subjects(ANONYMOUS, **every, anonymous=ONE) == [
        "global",
        "path:/v1/x",
        "model:m",
        "address:10.0.0.1",
        "anonymous:10.0.0.1",
    ]


def test_what_is_off_limits_nothing() -> None:
    off = LimitSettings(enabled=False, requests_per_minute=1)
    assert subjects(per_key=off, everyone=off) == []
    bringing = Principal("k", limits=(Limit("key:k", "requests", 1, 60),))
    assert subjects(bringing, enabled=False, everyone=ONE) == []


def test_what_a_principal_brings_replaces_the_settings_number_by_number() -> None:
    scopes = Scopes(RateLimitSettings(per_key=LimitSettings(requests_per_minute=60, max_concurrent=3)))
    more = Principal("k", limits=(Limit("key:k", "requests", 600, 60), Limit("user:u", "tokens", 5, 60)))
    assert scopes.limits_for(more, "/", "m", "") == (
        Limit("key:k", "concurrent", 3),
        Limit("key:k", "requests", 600, 60),
        Limit("user:u", "tokens", 5, 60),
    )
    none = Principal("k", limits=(Limit("key:k", "requests", 0, 60),))
    assert scopes.limits_for(none, "/", "m", "") == (Limit("key:k", "concurrent", 3),)


@pytest.mark.requirement("A087")
def test_callers_without_a_key_have_limits_of_their_own() -> None:
    settings = {"per_address": LimitSettings(requests_per_minute=60), "anonymous": ONE}
    assert subjects(SOMEBODY, **settings) == ["address:10.0.0.1"]
    assert subjects(ANONYMOUS, **settings) == ["address:10.0.0.1", "anonymous:10.0.0.1"]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("unix", "unix"),
    ],
)
def test_an_address_stands_for_a_network(address: str, network: str) -> None:
    assert network_of(address) == network


def test_scopes_are_few() -> None:
    assert scope_of(Limit("key:a:b", "requests", 1)) == "key"
    assert scope_of(Limit("global", "requests", 1)) == "global"
    assert scope_of(Limit("whatever:x", "requests", 1)) == "other"
