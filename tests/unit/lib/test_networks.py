import pytest

from zuebee.lib.networks import parse_networks, within


@pytest.mark.requirement("A254")
@pytest.mark.parametrize(
    ("address", "networks", "inside"),
    [
        ("10.1.2.3", ["10.0.0.0/8"], True),
        ("11.1.2.3", ["10.0.0.0/8"], False),
        ("10.1.2.3", ["10.1.2.3"], True),
        ("10.1.2.4", ["10.1.2.3"], False),
        ("10.1.2.3", ["10.1.2.99/24"], True),
        ("10.1.2.3", ["192.168.0.0/16", " 10.0.0.0/8 "], True),
        ("2001:db8::1", ["2001:db8::/32"], True),
        ("2001:db9::1", ["2001:db8::/32"], False),
        ("2001:DB8:0::1", ["2001:db8::1"], True),
        ("::ffff:10.1.2.3", ["10.0.0.0/8"], True),
        ("::ffff:11.1.2.3", ["10.0.0.0/8"], False),
        ("10.1.2.3", ["::ffff:10.0.0.0/104"], True),  # a list says it so, too
        ("::ffff:10.1.2.3", ["::ffff:10.1.2.3"], True),
        ("11.1.2.3", ["::ffff:10.0.0.0/104"], False),
        ("10.1.2.3", ["::ffff:0:0/95"], False),
        ("::1", ["127.0.0.0/8"], False),
        ("10.1.2.3", ["::/0"], False),
        ("2001:db8::1", ["0.0.0.0/0"], False),
        ("10.1.2.3", [], False),
        ("", ["0.0.0.0/0", "::/0"], False),
        ("localhost", ["0.0.0.0/0", "::/0"], False),
        ("10.1.2.3:80", ["0.0.0.0/0"], False),
        ("010.1.2.3", ["0.0.0.0/0"], False),
    ],
)
def test_addresses_in_networks(address: str, networks: list[str], inside: bool) -> None:
    assert within(address, parse_networks(networks)) is inside


@pytest.mark.parametrize("text", ["10.0.0.0/33", "ten", "", "10.0.0"])
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match="does not appear"):
        parse_networks([text])
