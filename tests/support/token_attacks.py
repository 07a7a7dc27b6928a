"""Tokens that must not be let in: the classes of Wycheproof's JWS vectors and of RFC 8725, made for our issuer.

`ATTACKS` has them by name. They are wrong in one thing each: all else is as in a token that is let in.
"""

import base64
import hmac
import itertools
import json
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from jwt.algorithms import get_default_algorithms

from tests.support.tokens import (
    ALGORITHMS,
    AUDIENCE,
    ISSUER,
    KID_OF,
    NOW_S,
    PRIVATE,
    b64,
    claims,
    jwk,
    jwks,
    sign_parts,
    signed,
    token,
)

HUGE_BYTES = 20_000


def _word(member: Any) -> str:
    return str(member).rsplit(".", 1)[-1]


def forged(header: dict[str, Any], secret: bytes, digest: str = "sha256") -> bytes:
    """A token with an HMAC for its signature."""
    parts = f"{b64(json.dumps(header))}.{b64(json.dumps(claims()))}"
    return f"{parts}.{b64(hmac.digest(secret, parts.encode(), digest))}".encode()


def unsigned(alg: Any, *, signature: str = "", **header: Any) -> bytes:
    return f"{b64(json.dumps({'alg': alg, 'typ': 'JWT', **header}))}.{b64(json.dumps(claims()))}.{signature}".encode()


def stranger(header: dict[str, Any], private: Any = None, alg: str = "ES256") -> bytes:
    """A token that somebody else signed."""
    private = private or ec.generate_private_key(ec.SECP256R1())
    parts = f"{b64(json.dumps({'alg': alg, **header}))}.{b64(json.dumps(claims()))}"
    signature = get_default_algorithms()[alg].sign(parts.encode(), private)
    return f"{parts}.{b64(signature)}".encode()


def _public_forms(name: str) -> Iterator[tuple[str, bytes]]:
    """The spellings of a public key that a careless verifier may take for a shared secret."""
    public = PRIVATE[name].public_key()
    encodings = [
        (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
    ]
    if name == "rsa":
        encodings += [
            (serialization.Encoding.PEM, serialization.PublicFormat.PKCS1),
            (serialization.Encoding.DER, serialization.PublicFormat.PKCS1),
        ]
    for encoding, form in encodings:
        data = public.public_bytes(encoding, form)
        yield f"{_word(encoding)} {_word(form)}", data
        yield f"{_word(encoding)} {_word(form)} stripped", data.strip()
    yield "JWK", json.dumps(jwk(PRIVATE[name], name)).encode()
    yield "JWKS", jwks()


def alg_none() -> Iterator[tuple[str, bytes]]:
    for spelling in ("".join(case) for case in itertools.product("nN", "oO", "nN", "eE")):
        yield f"alg {spelling}", unsigned(spelling)
    for odd in ("", " none", "none ", "none\0", "n\u00f6ne", None, 0, False, [], {}, ["none"], ["ES256"], {"ES256": 1}):
        yield f"alg {odd!r}", unsigned(odd)
    right = token().decode().rsplit(".", 1)[1]
    yield "alg none with a signature", unsigned("none", signature=right)
    yield "no alg", f"{b64('{}')}.{b64(json.dumps(claims()))}.".encode()
    yield "right alg, no signature", unsigned("ES256", kid="p256")
    yield "right alg, signature without its dot", unsigned("ES256", kid="p256").rstrip(b".")


def confusion() -> Iterator[tuple[str, bytes]]:
    for key, alg in itertools.product(("rsa", "p256", "ed25519"), ("HS256", "HS384", "HS512")):
        for form, secret in _public_forms(key):
            yield f"{alg} with {key} as {form}", forged({"alg": alg, "kid": key}, secret, f"sha{alg[2:]}")
    for alg in ("RS256", "ES256", "hs256", "Hs256", "HMAC"):
        form, secret = next(_public_forms("rsa"))
        yield f"{alg} that is an HMAC", forged({"alg": alg, "kid": "rsa"}, secret)
    yield "HS256 with nothing", forged({"alg": "HS256"}, b"")
    yield "HS256 with the symmetric key of the JWKS", forged({"alg": "HS256", "kid": "shared"}, b"s" * 32)
    yield "RS256 said of an ES256 signature", _relabelled("ES256", "RS256")
    yield "PS256 said of an RS256 signature", _relabelled("RS256", "PS256")
    yield "another curve", stranger({"kid": "p384"})
    yield "ES256K", stranger({"kid": "p256"}, ec.generate_private_key(ec.SECP256K1()), "ES256K")


def _relabelled(signer: str, said: str) -> bytes:
    return sign_parts(f"{b64(json.dumps({'alg': said, 'kid': KID_OF[signer]}))}.{b64(json.dumps(claims()))}", signer)


def key_tricks() -> Iterator[tuple[str, bytes]]:
    kids = (
        "../../../../dev/null", "/dev/null", "file:///etc/passwd", "' OR '1'='1", "x' UNION SELECT 'k'--", "", " ",
        "p256\0", "P256", "p256 ", "http://127.0.0.1/jwks", "x" * 257, "\ud800", "; ls", "$(id)", "shared",
    )  # fmt: skip
    for kid in kids:
        yield f"kid {kid[:30]!r}", stranger({"kid": kid})
        yield f"kid {kid[:30]!r}, HMAC of nothing", forged({"alg": "HS256", "kid": kid}, b"")
    for kid in (None, 0, True, [], ["p256"], {"p256": 1}, 1.5):
        yield f"kid {kid!r}, rightly signed", signed({"alg": "ES256", "kid": kid}, claims())
    yield "unknown kid, rightly signed", signed({"alg": "ES256", "kid": "unknown"}, claims())
    own = ec.generate_private_key(ec.SECP256R1())
    for name, value in (
        ("jwk", jwk(own, "p256")),
        ("jku", "http://127.0.0.1:1/jwks.json"),
        ("x5u", "http://127.0.0.1:1/cert.pem"),
        ("x5c", ["MIIB"]),
    ):
        for kid in ({"kid": "p256"}, {"kid": "own"}, {}):
            yield f"{name} with {kid}", stranger({name: value, **kid}, own)


def header_tricks() -> Iterator[tuple[str, bytes]]:
    base = {"alg": "ES256", "kid": "p256"}
    for name, value in (
        ("crit", ["exp"]), ("crit", []), ("crit", "b64"), ("crit", ["b64"]), ("crit", None), ("crit", ["alg"]),
        ("b64", False), ("b64", True), ("cty", "JWT"), ("zip", "DEF"), ("enc", "A256GCM"),
        ("typ", "JWE"), ("typ", "logout+jwt"), ("typ", "dpop+jwt"), ("typ", 1), ("typ", None), ("typ", ["JWT"]),
    ):  # fmt: skip
        yield f"{name} {value!r}", signed({**base, name: value}, claims())
    yield "crit and b64", signed({**base, "crit": ["b64"], "b64": False}, claims())
    plain = json.dumps(claims())
    header = b64(json.dumps({**base, "b64": False, "crit": ["b64"]}))
    yield "b64 false, payload as it is", sign_parts(f"{header}.{plain.replace('.', '')}")
    for text in (
        '{"alg":"none","alg":"ES256","kid":"p256"}', '{"alg":"ES256","alg":"none","kid":"p256"}',
        '{"alg":"ES256","kid":"x","kid":"p256"}', '{"alg":"ES256","\\u0061lg":"ES256","kid":"p256"}',
        '["ES256"]', '"ES256"', "null", "", "{}", "{", '{"alg":"ES256","kid":"p256"}x', '{"alg":NaN}',
        "[" * 5000, '{"alg":' + "[" * 3000 + "]" * 3000 + "}", "\ufeff" + json.dumps(base), json.dumps(base) + "\0",
    ):  # fmt: skip
        yield f"header {text[:40]!r}", signed(text, claims())
    yield "header in UTF-16", sign_parts(f"{b64(json.dumps(base).encode('utf-16'))}.{b64(plain)}")


def claim_tricks() -> Iterator[tuple[str, bytes]]:
    changes: dict[str, dict[str, Any]] = {
        "expired": {"exp": NOW_S - 61},
        "expired long ago": {"exp": 0},
        "exp missing": {"exp": None},
        "exp text": {"exp": str(NOW_S + 60)},
        "exp true": {"exp": True},
        "exp list": {"exp": [NOW_S + 60]},
        "exp negative": {"exp": -1},
        "exp infinite": {"exp": 1e300},
        "exp of 400 digits": {"exp": 10**400},
        "not yet valid": {"nbf": NOW_S + 61},
        "nbf text": {"nbf": "0"},
        "nbf true": {"nbf": False},
        "from the future": {"iat": NOW_S + 61},
        "iat text": {"iat": "yesterday"},
        "no issuer": {"iss": None},
        "other issuer": {"iss": ISSUER + "/"},
        "issuer in another case": {"iss": ISSUER.upper()},
        "issuer list": {"iss": [ISSUER]},
        "issuer number": {"iss": 1},
        "no audience": {"aud": None},
        "other audience": {"aud": AUDIENCE + "2"},
        "audience number": {"aud": 7},
        "audience object": {"aud": {AUDIENCE: 1}},
        "audience list with a number": {"aud": [AUDIENCE, 1]},
        "audience list in a list": {"aud": [[AUDIENCE]]},
        "empty audience list": {"aud": []},
        "audience list without end": {"aud": [AUDIENCE] * 65},
        "a part of the audience": {"aud": AUDIENCE[:3]},
        "no subject": {"sub": None},
        "empty subject": {"sub": ""},
        "subject number": {"sub": 12},
        "subject with a line break": {"sub": "a\nb"},
        "subject with half a character": {"sub": "a\ud800"},
        "subject without end": {"sub": "s" * 257},
        "team list": {"team": ["a", "b"]},
        "plan object": {"plan": {"name": "gold"}},
        "name number": {"name": 5},
    }
    for name, change in changes.items():
        yield name, signed({"alg": "ES256", "kid": "p256"}, claims(**change))
    for text in (
        "", "null", "[]", '"sub"', "{", token().decode(), "\ufeff{}", '{"exp":NaN}',
        json.dumps(claims())[:-1] + ',"exp":9999999999}', json.dumps(claims())[:-1] + ',"sub":"root"}',
        "[" * 4000, json.dumps(claims())[:-1] + ',"n":' + "9" * 5000 + "}",
    ):  # fmt: skip
        yield f"claims {text[:30]!r}", signed({"alg": "ES256", "kid": "p256"}, text)


def signature_tricks() -> Iterator[tuple[str, bytes]]:
    for alg in ALGORITHMS:
        right = token(alg)
        parts, signature = right.rsplit(b".", 1)
        raw = base64.urlsafe_b64decode(signature + b"==")
        order = 32 if alg == "ES256" else 48 if alg == "ES384" else 66
        spoiled = {
            "one byte short": raw[:-1],
            "one byte more": raw + b"\0",
            "none of it": b"\0",
            "half of it": raw[: len(raw) // 2],
            "twice": raw + raw,
            "one bit else": bytes([raw[0] ^ 1]) + raw[1:],
            "its last bit else": raw[:-1] + bytes([raw[-1] ^ 1]),
            "zeros": bytes(len(raw)),
            "ones": b"\xff" * len(raw),
            "one": bytes(len(raw) - 1) + b"\1",
        }
        if alg.startswith("ES"):
            spoiled |= {
                "psychic: r and s are zero": bytes(2 * order),
                "r is zero": bytes(order) + raw[order:],
                "s is zero": raw[:order] + bytes(order),
                "r and s are one": (bytes(order - 1) + b"\1") * 2,
                "in DER": bytes.fromhex("3006020101020101"),
                "zero in DER": bytes.fromhex("3006020100020100"),
            }
        for name, data in spoiled.items():
            yield f"{alg} signature: {name}", parts + b"." + b64(data).encode()
        header, payload = parts.split(b".")
        yield f"{alg} payload of another", b".".join([header, b64(json.dumps(claims(sub="root"))).encode(), signature])
        yield f"{alg} header of another", b".".join([b64(json.dumps({"alg": alg})).encode(), payload, signature])


def spelling_tricks() -> Iterator[tuple[str, bytes]]:
    right = token()
    header, payload, signature = right.split(b".")
    last = right[-1:]
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    # 64 bytes end in a character of which two bits count: fifteen others decode to the same.
    alias = alphabet[alphabet.index(last) ^ 1 : (alphabet.index(last) ^ 1) + 1]
    assert base64.urlsafe_b64decode(right[:-1].rsplit(b".", 1)[1] + alias + b"==") == base64.urlsafe_b64decode(
        signature + b"=="
    )
    yield "last bits set", right[:-1] + alias
    yield "padding", right + b"=="
    yield "padding inside", b".".join([header + b"=", payload, signature])
    yield "the other alphabet", b".".join([header, payload, signature.replace(b"-", b"+").replace(b"_", b"/") + b"+"])
    yield from (
        ("space before", b" " + right), ("line break behind", right + b"\n"),
        ("space inside", right[:9] + b" " + right[9:]),
        ("line break inside", header + b".\n" + payload + b"." + signature), ("NUL behind", right + b"\0"),
        ("four parts", right + b"." + signature), ("five parts", right + b".." + signature),
        ("dot behind", right + b"."),
        ("dot before the signature", header + b"." + payload + b".." + signature), ("UTF-8", right + "é".encode()),
        ("no payload", header + b".." + signature), ("only dots behind the header", header + b".."),
        ("two of them", right + b"," + right), ("in a quotation", b'"' + right + b'"'),
    )  # fmt: skip
    yield "huge", token(pad="x" * HUGE_BYTES)
    yield "huge header", token(header={"pad": "x" * HUGE_BYTES})
    yield "huge and empty", header + b"." + b"A" * (1 << 20) + b"."
    yield "JWE", b".".join([b64('{"alg":"RSA-OAEP","enc":"A256GCM"}').encode(), b"a", b"b", b"c", b"d"])
    yield "a token in a token", signed({"alg": "ES256", "kid": "p256"}, token().decode())


def weak_keys() -> Iterator[tuple[str, bytes]]:
    yield "RSA of 1024 bits", stranger({"kid": "weak"}, WEAK_RSA, "RS256")
    yield "Ed448", stranger({"kid": "ed448"}, ED448, "EdDSA")
    yield "a key for encryption", stranger({"kid": "for encryption"}, FOR_ENCRYPTION)
    yield "a key for another algorithm", stranger({"kid": "RS512 only"}, RS512_ONLY, "RS256")


WEAK_RSA = rsa.generate_private_key(65537, 1024)
RS512_ONLY = rsa.generate_private_key(65537, 2048)
FOR_ENCRYPTION = ec.generate_private_key(ec.SECP256R1())
ED448 = ed448.Ed448PrivateKey.generate()
ATTACKS = {
    name: text
    for group in (
        alg_none, confusion, key_tricks, header_tricks, claim_tricks, signature_tricks, spelling_tricks, weak_keys
    )
    for name, text in group()
}  # fmt: skip
