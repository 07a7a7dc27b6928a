from zuebee.config.settings_base import LimitSettings, RateLimitSettings
from zuebee.contracts.admission import Limit, Principal
from zuebee.limits.rules import Scopes

PER_KEY = RateLimitSettings(per_key=LimitSettings(requests_per_minute=5))


def subjects(principal: Principal) -> list[str]:
    return [limit.subject for limit in Scopes(PER_KEY).limits_for(principal, "/v1/chat/completions", "m", "")]


def test_keys_that_replaced_one_another_share_the_limits_of_the_settings() -> None:
    assert subjects(Principal("key_1")) == ["key:key_1"]
    assert subjects(Principal("key_2", lineage="key_1")) == ["key:key_1"]


def test_a_replaced_keys_own_limit_takes_the_place_of_the_settings() -> None:
    own = Limit("key:key_1", "requests", 9, 60)
    found = Scopes(PER_KEY).limits_for(Principal("key_2", limits=(own,), lineage="key_1"), "/", "m", "")
    assert found == (own,)
