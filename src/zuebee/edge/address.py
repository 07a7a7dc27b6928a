"""PURE. The address of a client: the peer, or what trusted proxies say of it."""

import re
from collections.abc import Sequence

from zuebee.contracts.inference import Headers
from zuebee.kit.networks import parse_address, parse_networks, within

MAX_HOPS = 32
_WITH_PORT = re.compile(r"\[([^\[\]]*)\](?::\d+)?|([0-9.]+):\d+")
"""Some proxies write the port of their caller along, and IPv6 in brackets then."""


class TrustedProxies:
    """Believes `X-Forwarded-For` from the given networks only, and of it the rightmost address that is not theirs."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = parse_networks(networks)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def client(self, peer: str, headers: Headers) -> str:
        """The client's address; the peer's where nobody trusted says otherwise."""
        if not self._networks or not within(peer, self._networks):
            return peer
        forwarded = b",".join(value for name, value in headers if name == b"x-forwarded-for").decode("latin-1")
        address = peer
        for hop in reversed(forwarded.split(",")[-MAX_HOPS:]):
            hop = hop.strip().strip('"')
            if port := _WITH_PORT.fullmatch(hop):
                hop = port[1] or port[2]
            if parse_address(hop) is None:
                return address
            address = hop
            if not within(hop, self._networks):
                return address
        return address
