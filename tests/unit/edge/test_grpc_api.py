"""Who calls, as gRPC says it."""

import pytest

from zuebee.edge.grpc import peer_address


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.1:54321", "10.0.0.1"),
        ("ipv6:[::1]:54321", "::1"),
        ("ipv6:%5B2001:db8::2%5D:1", "2001:db8::2"),
        ("ipv6:%5B::ffff:10.0.0.1%5D:1", "::ffff:10.0.0.1"),
        ("unix:/run/socket", ""),
        ("unix:", ""),
        ("", ""),
        ("ipv4:10.0.0.1", ""),
    ],
)
def test_the_address_of_a_peer(peer: str, address: str) -> None:
    assert peer_address(peer) == address
