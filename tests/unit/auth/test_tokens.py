import asyncio
import hashlib
import hmac
import json
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import get_default_algorithms

from tests.support.token_attacks import ATTACKS, ED448, FOR_ENCRYPTION, RS512_ONLY, WEAK_RSA
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
    signed,
    token,
)
from zuebee.auth import tokens as source_module
from zuebee.auth.records import digest_of, judge
from zuebee.auth.tokens import INVALID_TOKEN, JwtSource, KeysUnavailable, looks_like_token, read_jwks
from zuebee.config.settings_auth import JwtSettings
from zuebee.contracts.admission import Caller, Principal
from zuebee.contracts.errors import KEY_DISABLED, KEY_EXPIRED, Refusal
from zuebee.contracts.keys import Credential, KeyRecord
from zuebee.lib import clock


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "wall_s", lambda: NOW_S)


def settings(path: Path, **changes: Any) -> JwtSettings:
    if not path.exists():
        path.write_bytes(jwks())
    fields = {"issuer": ISSUER, "audience": AUDIENCE, "jwks_file": str(path), "algorithms": ALGORITHMS, **changes}
    return JwtSettings(**fields)


@pytest.fixture
async def source(tmp_path: Path) -> JwtSource:
    return JwtSource("portal", settings(tmp_path / "jwks.json"))


def presented(key: bytes | None) -> Credential:
    caller = Caller("POST", "/v1/chat/completions", {}, "10.0.0.1")
    return Credential(caller, key, digest_of(key or b""))


async def find(source: JwtSource, key: bytes | None) -> KeyRecord | Refusal | None:
    return await source.find(presented(key))


# --- good tokens ---


@pytest.mark.requirement("A057", "A059")
@pytest.mark.parametrize("alg", ALGORITHMS)
async def test_a_token_in_each_allowed_algorithm_is_let_in(source: JwtSource, alg: str) -> None:
    record = await find(source, token(alg))
    assert isinstance(record, KeyRecord)
    digest = hashlib.sha256(f"{ISSUER}\nuser-1".encode()).hexdigest()[:32]
    assert record.principal == Principal("jwt_" + digest, "Ada", "user-1", "research", "acme", "gold")
    assert record.data["plan"] == "gold"
    assert source.refused == {}


async def test_the_record_ends_with_the_token(source: JwtSource) -> None:
    record = await find(source, token(exp=NOW_S + 5))
    assert isinstance(record, KeyRecord)
    assert record.expires_at_s == NOW_S + 5 + 60
    assert judge(record, "10.0.0.1", NOW_S + 64.9) is None
    assert judge(record, "10.0.0.1", NOW_S + 65) is KEY_EXPIRED


async def test_the_principal_is_the_users_and_not_the_tokens(source: JwtSource) -> None:
    async def key_id(**changes: Any) -> str:
        record = await find(source, token(**changes))
        assert isinstance(record, KeyRecord)
        return record.principal.key_id

    assert await key_id() == await key_id(alg="RS256", exp=NOW_S + 9, jti="other") != await key_id(sub="user-2")


async def test_claims_are_found_where_the_settings_say(tmp_path: Path) -> None:
    names = {"user_claim": "email", "name_claim": "nick", "team_claim": "group", "organization_claim": "tenant"}
    source = JwtSource("portal", settings(tmp_path / "jwks.json", plan_claim="tier", **names))
    changed = token(email="a@b.example", group="g", tenant="t", tier="p", sub="s")
    record = await find(source, changed)
    assert isinstance(record, KeyRecord)
    principal = record.principal
    found = (principal.user_id, principal.name, principal.team_id, principal.organization_id, principal.plan)
    assert found == ("a@b.example", "a@b.example", "g", "t", "p")
    assert await find(source, token()) is INVALID_TOKEN, "the user's claim is missing"


async def test_a_principal_gets_its_limits(tmp_path: Path) -> None:
    async def finish(principal: Principal) -> Principal | Refusal:
        return KEY_DISABLED if principal.user_id == "gone" else replace(principal, tags=("limited",))

    source = JwtSource("portal", settings(tmp_path / "jwks.json"), finish)
    record = await find(source, token())
    assert isinstance(record, KeyRecord)
    assert record.principal.tags == ("limited",)
    assert await find(source, token(sub="gone")) is KEY_DISABLED


GOOD: dict[str, bytes] = {
    "no nbf, no iat": token(nbf=None, iat=None),
    "audience in a list": token(aud=["other", AUDIENCE]),
    "times with a fraction": token(exp=NOW_S + 0.5, nbf=NOW_S - 0.5),
    "expired within the leeway": token(exp=NOW_S - 59),
    "not yet valid within the leeway": token(nbf=NOW_S + 59, iat=NOW_S + 59),
    "an access token by RFC 9068": token(header={"typ": "at+jwt"}),
    "optional claims missing": token(name=None, team=None, organization=None, plan=None),
    "a thumbprint": token(header={"x5t": "abc"}),
    "keys it brings along are not looked at": token(header={"jku": "https://evil.example/", "x5u": "x", "jwk": {}}),
    "large": token(groups=["g" * 50] * 180),
}


@pytest.mark.parametrize("name", GOOD)
async def test_what_else_is_let_in(source: JwtSource, name: str) -> None:
    assert isinstance(await find(source, GOOD[name]), KeyRecord)


async def test_without_a_key_id_the_keys_of_its_kind_are_tried(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "jwks.json").write_bytes(jwks(jwk(other), jwk(PRIVATE["p256"], "p256"), jwk(PRIVATE["rsa"], "rsa")))
    source = JwtSource("portal", settings(tmp_path / "jwks.json"))
    assert isinstance(await find(source, signed({"alg": "ES256"}, claims())), KeyRecord)


# --- attacks ---


@pytest.fixture
async def generous(tmp_path: Path) -> JwtSource:
    """Knows bad keys, too: so that it is the checks that refuse and not the want of a key."""
    entries = [jwk(key, kid) for kid, key in PRIVATE.items()]
    entries += [
        jwk(WEAK_RSA, "weak"),
        jwk(FOR_ENCRYPTION, "for encryption", use="enc"),
        jwk(RS512_ONLY, "RS512 only", alg="RS512"),
        {"kty": "oct", "kid": "shared", "k": b64(b"s" * 32)},
        {"kty": "OKP", "crv": "Ed448", "kid": "ed448", "x": b64(ED448.public_key().public_bytes_raw())},
    ]
    (tmp_path / "jwks.json").write_bytes(jwks(*entries))
    return JwtSource("portal", settings(tmp_path / "jwks.json"))


@pytest.mark.requirement("A057")
async def test_no_forged_token_is_let_in(generous: JwtSource, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(ATTACKS) > 300
    assert isinstance(await find(generous, token()), KeyRecord)
    let_in, other = [], []
    began_s = clock.monotonic_s()
    monkeypatch.setattr(clock, "monotonic_s", lambda: began_s)  # the file is not read again for each of them
    for name, text in ATTACKS.items():
        found = await find(generous, text)
        if isinstance(found, KeyRecord):
            let_in.append(name)
        elif found is not INVALID_TOKEN and not (found is None and not looks_like_token(text)):
            other.append(name)
    assert (let_in, other) == ([], [])
    assert sum(generous.refused.values()) > len(ATTACKS) - 20
    words = {"algorithm", "audience", "claims", "expired", "expiry", "header", "issuer", "malformed", "not_yet_valid"}
    assert {reason for _, reason in generous.refused} == words | {"signature", "too_large", "unknown_key"}


async def test_the_attacks_would_be_seen_by_a_verifier_that_trusts_the_token(
    generous: JwtSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: without the signature's check, the tokens that are wrong in nothing else pass."""
    monkeypatch.setattr(pyjwt.PyJWS, "decode_complete", lambda *_, **__: {})
    let_in = {name for name, text in ATTACKS.items() if isinstance(await find(generous, text), KeyRecord)}
    assert "ES256 signature: psychic: r and s are zero" in let_in
    assert "RS256 that is an HMAC" in let_in
    assert "jku with {'kid': 'p256'}" in let_in
    monkeypatch.undo()
    monkeypatch.setattr(clock, "wall_s", lambda: NOW_S)
    monkeypatch.setattr(source_module, "check_claims", lambda *_: None)
    for name in ("expired", "not yet valid", "other issuer", "audience number"):
        assert isinstance(await find(generous, ATTACKS[name]), KeyRecord), name


async def test_a_careless_verifier_takes_what_we_refuse() -> None:
    """The control of the generator: its tokens are what they claim to be."""
    pem = (
        PRIVATE["rsa"]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    header, payload, signature = ATTACKS["HS256 with rsa as PEM SubjectPublicKeyInfo"].split(b".")
    assert b64(hmac.digest(pem, header + b"." + payload, "sha256")).encode() == signature
    assert pyjwt.decode(ATTACKS["alg none"], options={"verify_signature": False}) == claims()
    with pytest.warns(pyjwt.InsecureKeyLengthWarning):
        weak = pyjwt.PyJWS().decode(ATTACKS["RSA of 1024 bits"], WEAK_RSA.public_key(), ["RS256"])
    assert json.loads(weak) == claims()


async def test_no_claim_is_read_before_the_signature(generous: JwtSource) -> None:
    right = signed({"alg": "ES256", "kid": KID_OF["ES256"]}, "no claims")
    for text, reason in ((right[:-3] + b"AAA", "signature"), (right, "claims")):
        assert await find(generous, text) is INVALID_TOKEN
        assert generous.refused.pop(("portal", reason)) == 1
    assert not generous.refused, "of a token that nobody signed it is not told what its claims are"


async def test_what_is_no_token_is_for_others_to_know(source: JwtSource) -> None:
    for key in (b"sk-test-1", b"a.b", b"a.b.c", b"sk.live.key", b"....", b"\xff.\xff.\xff", b"{}.{}.{}", b"", None):
        assert await find(source, key) is None, key
    assert source.refused == {}


@given(st.binary(max_size=200) | st.lists(st.text("eyJhbGc.{}\"-_= ", max_size=40), max_size=4).map(
    lambda parts: ".".join(parts).encode()
))  # fmt: skip
def test_nothing_makes_it_fail(data: bytes) -> None:
    assert asyncio.run(_found_by_itself(data)) in (INVALID_TOKEN, None)
    text = data.decode("latin-1")
    for signed_text in (signed(text, text), signed({"alg": "ES256", "kid": KID_OF["ES256"]}, text)):
        assert asyncio.run(_found_by_itself(signed_text)) in (INVALID_TOKEN, None)


async def _found_by_itself(text: bytes) -> KeyRecord | Refusal | None:
    """By a source that stands for nothing but this."""
    with NamedTemporaryFile() as file:
        Path(file.name).write_bytes(jwks())
        return await find(JwtSource("portal", settings(Path(file.name))), text)


@given(st.data())
def test_any_change_of_a_byte_is_seen(data: st.DataObject) -> None:
    right = token()
    at = data.draw(st.integers(0, len(right) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != right[at]))
    changed = right[:at] + bytes([other]) + right[at + 1 :]
    assert asyncio.run(_found_by_itself(changed)) in (INVALID_TOKEN, None)


# --- the issuer's keys ---


@pytest.mark.parametrize(
    "document",
    [
        b"", b"[]", b"null", b"{}", b'{"keys":1}', b'{"keys":[]}', b'{"keys":[1]}', b'{"keys":[{}],"keys":[]}',
        b'{"keys":[{"kty":"RSA"}]}', b'{"keys":[{"kty":"RSA","n":"!","e":"AQAB"}]}', b'{"keys":[{"kty":["RSA"]}]}',
        b'{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}', b'{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}',
        jwks(jwk(WEAK_RSA, "weak")), jwks(jwk(PRIVATE["p256"], use="enc")), jwks(jwk(PRIVATE["p256"], alg="RS256")),
        jwks(jwk(PRIVATE["p256"], key_ops=["sign"])), jwks(jwk(PRIVATE["p256"], alg=["ES256"])),
        jwks(*[jwk(PRIVATE["p256"], str(n)) for n in range(101)]), b"\xff\xfe", b"[" * 100_000,
    ],
    ids=map(str, range(21)),
)  # fmt: skip
def test_what_is_no_set_of_keys(document: bytes) -> None:
    with pytest.raises(ValueError, match="JWKS"):
        read_jwks(document)


def test_a_private_key_in_the_set_is_used_for_its_public_half() -> None:
    whole = json.loads(get_default_algorithms()["RS256"].to_jwk(PRIVATE["rsa"]))
    whole.pop("key_ops")
    (key,) = read_jwks(jwks({**whole, "kid": "rsa"}))
    assert key.public.public_numbers() == PRIVATE["rsa"].public_key().public_numbers()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jwks_file": None}, "either"),
        ({"jwks_url": "https://issuer.example/jwks"}, "either"),
        ({"jwks_file": None, "jwks_url": "http://issuer.example/jwks"}, "https"),
        ({"jwks_file": None, "jwks_url": "file:///etc/passwd"}, "URL"),
        ({"jwks_file": None, "jwks_url": "https://u:p@issuer.example/"}, "URL"),
        ({"algorithms": ("HS256",)}, "asymmetric"),
        ({"algorithms": ("none",)}, "asymmetric"),
    ],
)
async def test_settings_that_make_no_sense(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JwtSource("portal", settings(tmp_path / "jwks.json", **changes))


async def test_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        JwtSource("portal", settings(tmp_path / "jwks.json", jwks_file=str(tmp_path / "nowhere")))


async def test_a_new_key_is_found_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(jwk(PRIVATE["rsa"], "rsa")))
    source = JwtSource("portal", settings(path))
    path.write_bytes(jwks())
    assert isinstance(await find(source, token("ES256")), KeyRecord)
    await source.aclose()


async def test_without_keys_nobody_is_judged() -> None:
    url = "http://127.0.0.1:9/jwks"
    source = JwtSource("portal", JwtSettings(issuer=ISSUER, audience=AUDIENCE, jwks_url=url))
    with pytest.raises(KeysUnavailable):
        await find(source, token())
    await source.aclose()
