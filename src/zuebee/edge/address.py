"""PURE. The address of a client: the peer, or what trusted proxies say of it."""

import ipaddress
from collections.abc import Sequence

from zuebee.contracts.inference import Headers

MAX_HOPS = 32


class TrustedProxies:
    """Believes `X-Forwarded-For` from the given networks only, and of it the rightmost address that is not theirs."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(text.strip(), strict=False) for text in networks]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def client(self, peer: str, headers: Headers) -> str:
        """The client's address; the peer's where nobody trusted says otherwise."""
        if not self._networks or not self._trusts(peer):
            return peer
        forwarded = b",".join(value for name, value in headers if name == b"x-forwarded-for").decode("latin-1")
        address = peer
        for hop in reversed(forwarded.split(",")[-MAX_HOPS:]):
            hop = hop.strip().strip('"')
            try:
                ipaddress.ip_address(hop)
            except ValueError:
                return address
            address = hop
            if not self._trusts(hop):
                return address
        return address

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in self._networks if network.version == parsed.version)
