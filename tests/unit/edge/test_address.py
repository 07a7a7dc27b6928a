import pytest
from hypothesis import given
from hypothesis import strategies as st

from zuebee.edge.client import MAX_HOPS, TrustedProxies

PROXIES = ["10.0.0.0/8", "2001:db8::/32", "192.168.1.1"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("1.2.3.4", [], "1.2.3.4"),
        ("1.2.3.4", ["5.6.7.8"], "1.2.3.4"),  # nobody trusted says so
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["5.6.7.8"], "5.6.7.8"),
        ("10.0.0.1", ["9.9.9.9, 5.6.7.8"], "5.6.7.8"),  # what stands left of a stranger is the stranger's word
        ("10.0.0.1", ["9.9.9.9", "5.6.7.8"], "5.6.7.8"),
        ("10.0.0.1", ["5.6.7.8, 10.1.1.1, 192.168.1.1"], "5.6.7.8"),
        ("10.0.0.1", ["10.2.2.2, 10.1.1.1"], "10.2.2.2"),
        ("10.0.0.1", ["9.9.9.9, nonsense, 10.1.1.1"], "10.1.1.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ['"5.6.7.8"'], "5.6.7.8"),
        ("10.0.0.1", ["9.9.9.9, 5.6.7.8:443"], "5.6.7.8"),  # as Azure's proxies write it
        ("10.0.0.1", ["5.6.7.8, 10.1.1.1:80"], "5.6.7.8"),
        ("10.0.0.1", ["[2a00::1]:443"], "2a00::1"),
        ("10.0.0.1", ["[2a00::1]"], "2a00::1"),
        ("10.0.0.1", ["9.9.9.9, 5.6.7.8:"], "10.0.0.1"),
        ("10.0.0.1", ["9.9.9.9, []"], "10.0.0.1"),
        ("2001:db8::1", ["2a00::1"], "2a00::1"),
        ("::ffff:10.0.0.1", ["5.6.7.8"], "5.6.7.8"),
        ("10.0.0.1", ["5.6.7.8, ::ffff:10.1.1.1"], "5.6.7.8"),
        ("::ffff:1.2.3.4", ["5.6.7.8"], "::ffff:1.2.3.4"),
        ("", ["5.6.7.8"], ""),
        ("unix", ["5.6.7.8"], "unix"),
    ],
)
def test_whose_word_is_believed(peer: str, forwarded: list[str], client: str) -> None:
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    assert TrustedProxies(PROXIES).client(peer, headers) == client


def test_a_proxy_may_be_named_as_ipv4_in_ipv6() -> None:
    proxies = TrustedProxies(["::ffff:10.0.0.0/104"])
    assert proxies.client("10.0.0.1", [(b"x-forwarded-for", b"5.6.7.8")]) == "5.6.7.8"


def test_without_trusted_proxies_nobody_is_believed() -> None:
    assert TrustedProxies([]).client("10.0.0.1", [(b"x-forwarded-for", b"5.6.7.8")]) == "10.0.0.1"


def test_very_many_hops_are_not_all_looked_at() -> None:
    hops = ", ".join(["5.6.7.8"] + ["10.0.0.2"] * MAX_HOPS)
    assert TrustedProxies(PROXIES).client("10.0.0.1", [(b"x-forwarded-for", hops.encode())]) == "10.0.0.2"


@given(st.binary(max_size=60))
def test_no_value_raises(value: bytes) -> None:
    TrustedProxies(["0.0.0.0/0", "::/0"]).client("10.0.0.1", [(b"x-forwarded-for", value)])


def test_what_is_no_network() -> None:
    with pytest.raises(ValueError, match="does not appear"):
        TrustedProxies(["ten"])
