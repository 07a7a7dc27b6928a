"""PURE. Addresses and ranges of them.

An IPv4 address in the clothes of IPv6 (`::ffff:10.0.0.1`) is that IPv4 address, wherever it stands: as the address of
a caller, and in a list.
"""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED_BITS = 96
"""What stands before the IPv4 address in one that is written as IPv6 (RFC 4291, section 2.5.5.2)."""


def parse_address(text: str) -> Address | None:
    """An address; None for what is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def parse_network(text: str) -> Network:
    """An address, or a range such as `10.0.0.0/8`; bits behind the range are passed over. Raises ValueError."""
    network = ipaddress.ip_network(text.strip(), strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((int(mapped), network.prefixlen - _MAPPED_BITS))
    return network


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Several of them. Raises ValueError."""
    return tuple(parse_network(text) for text in texts)


def within(address: str, networks: Iterable[Network]) -> bool:
    """Whether an address lies in one of the networks; what is no address lies in none."""
    parsed = parse_address(address)
    return parsed is not None and any(parsed in network for network in networks if network.version == parsed.version)


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """Who an address stands for: of IPv6 the /64, of which anybody has a whole one; else itself."""
    parsed = parse_address(address)
    if parsed is None:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
