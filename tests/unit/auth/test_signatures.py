import hashlib
import logging
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from zuebee.auth.nonces import MemoryNonces
from zuebee.auth.records import digest_of
from zuebee.auth.signatures import BAD_SIGNATURE, BUSY, SignatureSource, Signed, canonical, fits, sign
from zuebee.config.settings_auth import SignatureClientSettings
from zuebee.contracts.admission import Caller, Principal
from zuebee.contracts.errors import KEY_DISABLED, KEY_REVOKED, Refusal
from zuebee.contracts.keys import Credential, KeyRecord
from zuebee.lib import clock

NOW_S = 1_800_000_000.0
SECRET = "correct-horse-battery-staple-9f3a7c"
OLD = "the-one-before-it-0c3f8e71ab55d2e9"
BODY = b'{"model":"m"}'
KEY = b"sk-acme-1"


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "wall_s", lambda: NOW_S)


class Keys:
    """A source of keys that knows KEY."""

    name = "keys"
    known = KEY
    active = True

    async def find(self, presented: Credential) -> KeyRecord | Refusal | None:
        if presented.key != self.known:
            return None
        return KeyRecord(presented.digest, Principal("key_acme", "acme's key", models=("m",)), active=self.active)

    async def aclose(self) -> None:
        pass


def source(nonces: MemoryNonces | None = None, **changes: Any) -> SignatureSource:
    settings = {"client_id": "acme", "secrets": [SECRET, OLD], "name": "Acme", "user_id": "u-7", **changes}
    clients = [SignatureClientSettings(**settings), SignatureClientSettings(client_id="other", secrets=["x" * 32])]
    return SignatureSource("partners", clients, nonces or MemoryNonces(), [Keys()])


count = 0


def ask(
    secret: str = SECRET,
    *,
    at_s: float = NOW_S,
    client: str = "acme",
    nonce: str = "",
    key: bytes | None = None,
    path: bytes = b"/v1/chat/completions",
    signature: bytes | None = None,
    **fields: bytes,
) -> Credential:
    """A signed request; `fields` replace what stands in its header after it was signed."""
    global count
    count += 1
    signed = Signed(client, str(int(at_s)), nonce or f"nonce-{count:012}", hashlib.sha256(BODY).hexdigest(), ())
    text = canonical("POST", path, b"a=1", signed)
    headers = {
        b"x-client-id": client.encode(),
        b"x-timestamp": signed.timestamp.encode(),
        b"x-nonce": signed.nonce.encode(),
        b"x-content-sha256": signed.body_sha256.encode(),
        b"x-signature": signature or b"v1=" + sign(secret, text),
        **{name.replace("_", "-").encode(): value for name, value in fields.items()},
    }
    caller = Caller("POST", "/v1/chat/completions", headers, "10.0.0.1", path.decode(), b"a=1", "", path)
    return Credential(caller, key, digest_of(key or b""))


@pytest.mark.requirement("A055", "A058", "A059")
async def test_a_signed_request_is_let_in_and_its_body_is_bound() -> None:
    presented = ask()
    record = await source().find(presented)
    assert isinstance(record, KeyRecord)
    key_id = "sig_" + hashlib.sha256(b"acme").hexdigest()[:16]
    assert record.principal == Principal(key_id, "Acme", "u-7", credential="signed//acme")
    assert presented.caller.body_sha256 == hashlib.sha256(BODY).hexdigest()


async def test_what_is_not_signed_is_for_others_to_know() -> None:
    caller = Caller("POST", "/v1/chat/completions", {b"authorization": b"Bearer k"}, "10.0.0.1")
    assert await source().find(Credential(caller, b"k", digest_of(b"k"))) is None
    assert caller.body_sha256 == ""


@pytest.mark.requirement("A055", "A058")
@pytest.mark.parametrize(
    ("skew_s", "accepted"), [(-299, True), (299, True), (-301, False), (301, False), (-86400, False), (1e9, False)]
)
async def test_clocks_may_differ_by_five_minutes(skew_s: float, accepted: bool) -> None:
    found = await source().find(ask(at_s=NOW_S + skew_s))
    assert isinstance(found, KeyRecord) if accepted else found is BAD_SIGNATURE


@pytest.mark.requirement("A055", "A058")
async def test_a_request_is_let_in_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """G19, also at the last moment of its window, and when it was signed by a clock that runs ahead."""
    monotonic_s = 0.0
    monkeypatch.setattr(clock, "monotonic_s", lambda: monotonic_s)
    for skew_s in (0, 299, -299):
        monkeypatch.setattr(clock, "wall_s", lambda: NOW_S)
        target = source()
        presented = ask(at_s=NOW_S + skew_s)
        assert isinstance(await target.find(presented), KeyRecord)
        left_s = 300 + skew_s
        for passed_s in (0, 1, left_s / 2, left_s - 0.5, left_s, left_s + 1, left_s + 100):
            monotonic_s = passed_s
            monkeypatch.setattr(clock, "wall_s", lambda passed_s=passed_s: NOW_S + passed_s)
            again = Credential(presented.caller, None, "")
            presented.caller.body_sha256 = ""
            assert await target.find(again) is BAD_SIGNATURE, (skew_s, passed_s)
            assert presented.caller.body_sha256 == ""
        assert target.refused["partners", "replay"] >= 4
        monotonic_s = 0.0


async def test_another_nonce_is_another_request() -> None:
    target = source()
    assert isinstance(await target.find(ask(nonce="a" * 16)), KeyRecord)
    assert isinstance(await target.find(ask(nonce="b" * 16)), KeyRecord)
    assert await target.find(ask(nonce="a" * 16)) is BAD_SIGNATURE


@pytest.mark.requirement("A058")
async def test_while_rotating_both_secrets_are_right() -> None:
    target = source()
    assert isinstance(await target.find(ask(OLD)), KeyRecord)
    new = ask().caller.fields[b"x-signature"]
    both = ask(nonce="n" * 16)
    mixed = b"v1=AAAA, " + both.caller.fields[b"x-signature"] + b", v2=later, " + new
    assert isinstance(await target.find(ask(nonce="n" * 16, signature=mixed)), KeyRecord)
    rotated = source(secrets=[SECRET])
    assert await rotated.find(ask(OLD)) is BAD_SIGNATURE


ATTACKS: dict[str, tuple[str, Credential]] = {
    "another secret": ("mismatch", ask("not-the-secret-not-the-secret-not")),
    "no secret": ("mismatch", ask("")),
    "another client": ("mismatch", ask(client="other")),
    "an unknown client": ("unknown_client", ask(client="nobody")),
    "an unknown client, empty secret": ("unknown_client", ask("", client="nobody")),
    "another path": ("mismatch", ask(path=b"/v1/embeddings", signature=ask().caller.fields[b"x-signature"])),
    "another time": ("mismatch", ask(x_timestamp=b"1800000001")),
    "another nonce": ("mismatch", ask(x_nonce=b"n" * 20)),
    "another body": ("mismatch", ask(x_content_sha256=hashlib.sha256(b"{}").hexdigest().encode())),
    "a client id on top": ("mismatch", ask(x_client_id=b"other")),
    "no signature": ("malformed", ask(x_signature=b"")),
    "an empty signature": ("mismatch", ask(signature=b"v1=")),
    "hex": ("mismatch", ask(signature=b"v1=" + b"0" * 64)),
    "another version": ("malformed", ask(signature=b"v0=AAAA")),
    "zeros": ("mismatch", ask(signature=b"v1=" + b"A" * 43 + b"=")),
    "no timestamp": ("malformed", ask(x_timestamp=b"")),
    "negative time": ("malformed", ask(x_timestamp=b"-1800000000")),
    "SQL": ("malformed", ask(x_client_id=b"acme' OR '1'='1' --")),
}


@pytest.mark.requirement("A055", "A058")
@pytest.mark.parametrize("name", ATTACKS)
async def test_a_request_that_was_not_signed_so(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    reason, presented = ATTACKS[name]
    target = source()
    assert await target.find(presented) is BAD_SIGNATURE
    assert target.refused == {("partners", reason): 1}
    assert presented.caller.body_sha256 == ""
    for value in presented.caller.fields.values():
        assert not value or value.decode() not in caplog.text


async def test_a_wrong_signature_uses_no_nonce_up() -> None:
    target = source()
    assert await target.find(ask("not-the-secret-not-the-secret-not", nonce="n" * 16)) is BAD_SIGNATURE
    assert isinstance(await target.find(ask(nonce="n" * 16)), KeyRecord)


async def test_the_path_is_signed_as_it_was_sent() -> None:
    presented = ask(path=b"/v1/chat%2Fcompletions")
    assert isinstance(await source().find(presented), KeyRecord)
    presented = ask(path=b"/v1/chat%2Fcompletions")
    presented.caller.raw_path = b"/v1/chat/completions"
    assert await source().find(presented) is BAD_SIGNATURE


async def test_when_no_nonce_can_be_kept_nobody_is_let_in() -> None:
    nonces = MemoryNonces(2)
    target = source(nonces)
    assert isinstance(await target.find(ask()), KeyRecord)
    assert await target.find(ask()) is BUSY
    assert target.refused == {("partners", "full"): 1}


async def test_a_store_that_fails_lets_nobody_in() -> None:
    class Broken(MemoryNonces):
        async def seen(self, client: str, nonce: str, ttl_s: float) -> bool:
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await source(Broken()).find(ask())


@pytest.mark.requirement("A059")
async def test_a_client_may_have_to_show_a_key_as_well() -> None:
    target = source(require_key="key_acme")
    both = ask(key=KEY)
    record = await target.find(both)
    assert isinstance(record, KeyRecord)
    wanted = Principal("key_acme", "acme's key", models=("m",), credential=f"signed/{digest_of(KEY)}/acme")
    assert record.principal == wanted, "the key's rights and limits"
    assert both.caller.body_sha256
    assert await target.find(ask()) is BAD_SIGNATURE, "a signature without the key"
    assert await target.find(ask(key=b"sk-unknown")) is BAD_SIGNATURE, "another key"
    caller = Caller("POST", "/v1/chat/completions", {}, "10.0.0.1")
    assert await target.find(Credential(caller, KEY, digest_of(KEY))) is BAD_SIGNATURE, "the key without a signature"
    assert await target.find(Credential(caller, b"sk-1", digest_of(b"sk-1"))) is None, "keys of others need none"
    assert await source(require_key="key_other").find(ask(key=KEY)) is BAD_SIGNATURE
    assert target.refused == {("partners", "no_key"): 2, ("partners", "not_signed"): 1}


@pytest.mark.requirement("A059")
async def test_a_bound_key_needs_its_own_clients_signature() -> None:
    clients = [
        SignatureClientSettings(client_id="acme", secrets=[SECRET], require_key="key_acme"),
        SignatureClientSettings(client_id="other", secrets=[OLD]),
    ]
    target = SignatureSource("partners", clients, MemoryNonces(), [Keys()])
    record = await target.find(ask(OLD, client="other", key=KEY))
    assert isinstance(record, KeyRecord)
    assert record.principal.key_id.startswith("sig_"), "the key that came along opens nothing"


async def test_who_is_unknown_costs_as_many_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counting(secrets: list[str], text: bytes, signatures: Any) -> bool:
        made.append(len(secrets))
        return fits(secrets, text, signatures)

    monkeypatch.setattr("zuebee.auth.signatures.fits", counting)
    target = source()
    for client in ("acme", "other", "nobody"):
        await target.find(ask("wrong" * 8, client=client))
    assert made == [2, 2, 2]


async def test_the_padding_of_secrets_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, ...]] = []

    def watched(secrets: list[str], text: bytes, signatures: Any) -> bool:
        tried.append(tuple(secrets))
        return fits(secrets, text, signatures)

    with monkeypatch.context() as patch:
        patch.setattr("zuebee.auth.signatures.fits", watched)
        for each in (source(), source()):
            await each.find(ask("wrong" * 8, client="nobody"))
    assert len({secret for secrets in tried for secret in secrets}) == 4, "nobody can know them"
    target = source()
    assert not isinstance(await target.find(ask("", client="other")), KeyRecord)


async def test_a_running_request_is_asked_about_again() -> None:
    """Its time may be over and its nonce is used; what counts is whether its signature would still be known."""
    presented = ask()
    target = source()
    record = await target.find(presented)
    assert isinstance(record, KeyRecord)
    assert await target.find(presented) == record, "with its header fields"
    assert await target.recheck(record.principal.credential) is None
    assert await target.recheck(digest_of(b"some key")) is None
    assert await source(client_id="renamed").recheck(record.principal.credential) is KEY_REVOKED
    assert await source(require_key="key_acme").recheck(record.principal.credential) is KEY_REVOKED
    presented.caller.fields = {}
    assert await source(require_key="key_acme").find(presented) is None, "without them it is for others to know"


class Kept:
    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def keep(self, digest: str, key: bytes, caller: Caller, *, whole: bool) -> None:
        self.found[digest] = SimpleNamespace(key=key, caller=caller)

    def renew(self, digest: str) -> Any:
        return self.found.get(digest)


async def test_a_key_that_came_along_is_asked_about_again() -> None:
    keys, kept = Keys(), Kept()
    client = SignatureClientSettings(client_id="acme", secrets=[SECRET], require_key="key_acme")
    target = SignatureSource("partners", [client], MemoryNonces(), [keys], kept=kept)
    record = await target.find(ask(key=KEY))
    assert isinstance(record, KeyRecord)
    credential = record.principal.credential
    assert KEY.decode() not in credential
    assert await target.recheck(credential) is None
    keys.known = b"another"
    assert await target.recheck(credential) is KEY_REVOKED
    keys.known, keys.active = KEY, False
    assert await target.recheck(credential) is KEY_DISABLED
    kept.found.clear()
    assert await target.recheck(credential) is None, "forgotten"


async def test_a_client_without_a_key_gets_what_its_user_is_entitled_to_and_is_asked_about_again() -> None:
    answers: list[Any] = [lambda principal: replace(principal, tags=("limited",)), lambda _: KEY_DISABLED]
    turn = 0

    async def finish(principal: Principal) -> Principal | Refusal:
        found: Principal | Refusal = answers[turn](principal)
        return found

    clients = [SignatureClientSettings(client_id="acme", secrets=[SECRET], user_id="u-7")]
    target = SignatureSource("partners", clients, MemoryNonces(), finish=finish)
    record = await target.find(ask())
    assert isinstance(record, KeyRecord)
    who = record.principal
    assert (who.user_id, who.tags, who.credential) == ("u-7", ("limited",), "signed//acme")
    assert await target.recheck(who.credential) is None
    turn = 1
    assert await target.recheck(who.credential) is KEY_DISABLED
    assert await target.find(ask()) is KEY_DISABLED


def test_it_says_that_its_answers_cannot_be_kept() -> None:
    assert SignatureSource.per_request is True


async def test_it_is_quick() -> None:
    target = source()
    asks = [ask() for _ in range(200)]
    started_s = time.perf_counter()
    for presented in asks:
        await target.find(presented)
    assert (time.perf_counter() - started_s) / 200 < 0.001
