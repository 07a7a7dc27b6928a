from zuebee.admission.firewall import DEFAULT_RULES, FIELD_RULES, UNKNOWN_TARGETS_ONLY, RuleFirewall, harmless
from zuebee.config.settings_auth import FirewallSettings
from zuebee.config.validate_policies import BUILT_IN


def test_no_built_in_rule_looks_into_a_body() -> None:
    assert not any(rule.body for rule in DEFAULT_RULES)


def test_their_names_are_known_to_the_check_of_the_configuration() -> None:
    names = {rule.name for rule in DEFAULT_RULES}
    assert names <= BUILT_IN
    assert names >= UNKNOWN_TARGETS_ONLY | FIELD_RULES
    limits = BUILT_IN - names - {"browser_form"}
    assert limits <= set(FirewallSettings.__struct_fields__)


def test_what_only_looks_at_fields_does_only_that() -> None:
    only = {rule.name for rule in DEFAULT_RULES if rule.header and not (rule.paths or rule.methods or rule.query)}
    assert only == FIELD_RULES


def test_all_of_them_compile() -> None:
    assert RuleFirewall(FirewallSettings(), {})


def test_harmless_at_a_glance() -> None:
    assert harmless({b"user-agent": b"Mozilla/5.0 (X11)", b"x": b"\xff"})
    assert not harmless({b"user-agent": b"sqlmap/1"})
    assert not harmless({b"x": b"${jndi:a}"})
    assert not harmless({b"x": b"() { :;}"})
