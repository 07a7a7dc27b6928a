"""PURE. What is kept beside a hold, for the record of its request if its process dies."""

import msgspec


class Stub(msgspec.Struct, array_like=True, gc=False):
    """What is known of a request when it begins: kept with its hold, for the record if its process dies."""

    key_id: str
    key_name: str
    user_id: str
    team_id: str
    organisation_id: str
    plan: str
    priority: str
    model: str
    route: str
    stream: bool
    at_s: float


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Stub).decode


def stub_text(stub: Stub | str) -> str:
    """A stub as it is stored."""
    return stub if isinstance(stub, str) else _encode(stub).decode()


def stub_of(text: str) -> Stub:
    """The stub that was stored so."""
    return _decode(text)
