"""An issuer of tokens for tests, honest and otherwise."""

import base64
import json
import time
from collections.abc import Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

ISSUER = "https://issuer.example"
AUDIENCE = "zuebee"
NOW_S = float(int(time.time()))
"""When these tokens are made: those without a time of their own are good for a day."""

PRIVATE: dict[str, Any] = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}
KID_OF = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "rsa"),
    "ES256": "p256",
    "ES384": "p384",
    "ES512": "p521",
    "EdDSA": "ed25519",
}
ALGORITHMS = tuple(KID_OF)


def b64(data: bytes | str) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data.encode() if isinstance(data, str) else data).rstrip(b"=").decode()


def jwk(private: Any, kid: str | None = None, **members: Any) -> dict[str, Any]:
    """The public half of a key, as a JWK."""
    name = "RS256" if isinstance(private, rsa.RSAPrivateKey) else "ES256"
    if isinstance(private, ed25519.Ed25519PrivateKey):
        name = "EdDSA"
    found: dict[str, Any] = json.loads(get_default_algorithms()[name].to_jwk(private.public_key()))
    found.pop("key_ops", None)
    return {**found, **({"kid": kid} if kid else {}), **members}


def jwks(*entries: Mapping[str, Any]) -> bytes:
    """A JWKS of these keys; of all of PRIVATE without any."""
    return json.dumps({"keys": list(entries) or [jwk(key, kid) for kid, key in PRIVATE.items()]}).encode()


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a good token; a change to None leaves one out."""
    found = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "user-1",
        "iat": NOW_S - 10,
        "nbf": NOW_S - 10,
        "exp": NOW_S + 86_400,
        "name": "Ada",
        "team": "research",
        "organization": "acme",
        "plan": "gold",
        **changes,
    }
    return {name: value for name, value in found.items() if value is not None}


def token(alg: str = "ES256", header: Mapping[str, Any] | None = None, **changes: Any) -> bytes:
    """A token that the issuer signed."""
    kid = KID_OF[alg]
    return jwt.encode(claims(**changes), PRIVATE[kid], alg, {"kid": kid, **(header or {})}).encode()


def signed(header: str | Mapping[str, Any], payload: str | Mapping[str, Any], alg: str = "ES256") -> bytes:
    """Any two texts, rightly signed as if they were a token."""
    texts = [part if isinstance(part, str) else json.dumps(part) for part in (header, payload)]
    return sign_parts(f"{b64(texts[0])}.{b64(texts[1])}", alg)


def sign_parts(parts: str, alg: str = "ES256") -> bytes:
    """A right signature behind what stands there."""
    signature = get_default_algorithms()[alg].sign(parts.encode(), PRIVATE[KID_OF[alg]])
    return f"{parts}.{b64(signature)}".encode()
