from typing import Any

import msgspec
import pytest

from zuebee.config.settings_auth import (
    ApiKeySettings,
    AuthSettings,
    FirewallSettings,
    RedisSourceSettings,
    ScriptSettings,
    SourceSettings,
)


def test_nothing_that_opens_a_door_is_shown() -> None:
    secret = "s3cr3t-value-0001"
    shown = repr(
        [
            ApiKeySettings(key=secret, name="a"),
            AuthSettings(
                cache_secret=secret,
                pipeline=[
                    SourceSettings(
                        type="redis", redis=RedisSourceSettings(addr=f"redis://:{secret}@h", password=secret)
                    ),
                    msgspec.convert(
                        {"type": "database", "database": {"driver": "mysql", "dsn": f"u:{secret}@tcp(h)/d"}},
                        SourceSettings,
                    ),
                    msgspec.convert(
                        {"type": "webhook", "webhook": {"url": f"http://h/?t={secret}", "headers": {"X": secret}}},
                        SourceSettings,
                    ),
                    msgspec.convert(
                        {"type": "signature", "clients": [{"client_id": "c", "secrets": [secret]}]}, SourceSettings
                    ),
                ],
            ),
        ]
    )
    assert secret not in shown
    assert "name='a'" in shown


def test_a_revoked_key_lives_no_longer_than_promised_by_default() -> None:
    auth = AuthSettings()
    assert 0 < auth.cache_s <= 5
    assert auth.timeout_s == 10
    assert auth.enabled is msgspec.UNSET
    assert auth.header_names == ("Authorization", "X-API-Key")


def test_a_script_is_bounded_by_default() -> None:
    script = ScriptSettings()
    assert (script.timeout_s, script.max_memory, script.max_instructions) == (0.1, 10 << 20, 1_000_000)


def test_the_firewall_is_on_and_has_no_opinion_about_bodies_by_default() -> None:
    firewall = FirewallSettings()
    assert firewall.enabled
    assert firewall.mode == "block"
    assert firewall.default_rules
    assert firewall.max_choices == 128
    assert (firewall.max_body_size, firewall.max_images, firewall.max_output_tokens) == (None, None, None)


@pytest.mark.parametrize(
    ("section", "values", "field"),
    [
        (ApiKeySettings, {"key": "short"}, "key"),
        (ApiKeySettings, {"key_sha256": "not hex"}, "key_sha256"),
        (ApiKeySettings, {"key": "sk-long-enough", "total_quota": -1}, "total_quota"),
        (ApiKeySettings, {"key": "sk-long-enough", "total_quota": (1 << 62) + 1}, "total_quota"),
        (ApiKeySettings, {"key": "sk-long-enough", "used_quota": (1 << 53) + 1}, "used_quota"),
        (ApiKeySettings, {"key": "sk-long-enough", "status": "fine"}, "status"),
        (ApiKeySettings, {"key": "sk-long-enough", "priority": "highest"}, "priority"),
        (AuthSettings, {"header_names": []}, "header_names"),
        (AuthSettings, {"mode": "any"}, "mode"),
        (SourceSettings, {"type": "ldap"}, "type"),
        (
            SourceSettings,
            {"type": "jwt", "jwt": {"issuer": "i", "audience": "a", "algorithms": ["HS256"]}},
            "algorithms",
        ),
        (SourceSettings, {"type": "jwt", "jwt": {"issuer": "", "audience": "a"}}, "issuer"),
        (FirewallSettings, {"rules": [{"name": "two words"}]}, "name"),
        (FirewallSettings, {"rules": [{"name": "a", "status": 200}]}, "status"),
        (FirewallSettings, {"max_choices": 0}, "max_choices"),
    ],
)
def test_what_cannot_be_meant_is_refused(section: Any, values: dict[str, Any], field: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert(values, section)
