"""Secrets that are none do not start; each with the place that is to be mended, none with its value."""

import base64
import secrets

import msgspec
import pytest
import yaml

from zuebee.config.load import ConfigError, Loaded, loads
from zuebee.config.settings import Settings
from zuebee.config.settings_auth import AuthSettings
from zuebee.config.validate import grpc_address, listen_address
from zuebee.config.validate_auth import is_placeholder, secret_findings
from zuebee.lib.units import decode_custom

KEYS = "api_keys: [{key: sk-a-real-key-0001}]\n"
BACKENDS = "backends: [{url: 'http://a:1'}]\n"
GOOD = "f3b1c7d2a9e84605b1d3f7c2e8a94d60"

PLACEHOLDERS = [
    "", " ", "x", "sk-1234", "sk-12345678", "changeme", "change-me", "CHANGE_ME", "sk-changeme", "changemechangeme",
    "please-change-me-now", "your-api-key", "YOUR_KEY_HERE", "your_secret_goes_here_and_is_long_enough", "password",
    "Password123", "passw0rd", "testtest", "test-key", "sk-test", "12345678", "123456789012345678901234567890",
    "0123456789abcdef0123456789abcdef", "aaaaaaaaaa", "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "secret", "secret-key",
    "supersecret", "my-secret", "example", "sk-placeholder", "default", "admin", "dummy", "none", "null",
    "<your key>", "${API_KEY}", "$API_KEY", "replace_this", "insert-key-here", "deadbeefdeadbeefdeadbeefdeadbeef",
    "00000000-0000-0000-0000-000000000000", "secretsecretsecretsecretsecretsecret", "whsec_changeme", "qwertyuiop",
    "sk-zuebee-demo", "sk-...", "sk-proj-...", "sk-a1b2c3…", "sk-team-demo", "sk-my-team-key-1", "sk-no-key-required",
    "not-needed", "lm-studio", "ollama", "token-abc123", "TODO", "enter-your-key-here", "sk-llmproxy-dev-001",
    "--------------------------------", "letmein", "masterkey", "sk-master-key", "hunter2",
]  # fmt: skip


@pytest.mark.parametrize("text", PLACEHOLDERS)
def test_placeholders_are_known(text: str) -> None:
    assert is_placeholder(text)


@pytest.mark.parametrize(
    "text",
    ["sk-a-real-key-0001", "sk-test-0123456789abcdef", "canary-backend-key-71c2", "correct-horse-battery-staple", GOOD],
)
def test_what_was_made_up_by_somebody_is_none(text: str) -> None:
    assert not is_placeholder(text)


def test_random_secrets_are_none() -> None:
    for _ in range(2000):
        for text in (secrets.token_hex(16), secrets.token_urlsafe(24), "sk-" + secrets.token_hex(4)):
            assert not is_placeholder(text), text


def read(text: str) -> Loaded:
    return loads(text, "f", {}, lambda path: path == "there.json")


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return [problem.split(": ", 1)[1] for problem in caught.value.problems]


GUESSED = "a well-known placeholder: anyone could guess it"


@pytest.mark.parametrize("secret", ["changeme", "sk-12345678", "your-api-key", "xxxxxxxxxxxx"])
def test_guessable_secrets_do_not_start(secret: str) -> None:
    """T11."""
    text = f"{KEYS}{BACKENDS}metrics: {{token: '{secret}'}}\n"
    assert problems(text) == [f"metrics.token: {GUESSED}"]
    hidden = "whsec_" + base64.b64encode(secret.encode()).decode()
    for one in (hidden, f"whsec_{secret}"):
        reporter = f"{{name: a, type: webhook, url: 'http://a', secrets: ['{GOOD}', '{one}']}}"
        assert f"usage.reporters[0].secrets[1]: {GUESSED}" in problems(
            f"{KEYS}{BACKENDS}usage: {{reporters: [{reporter}]}}\n"
        )


def listens(listen: str, key: str = "sk-zuebee-demo", more: str = "") -> Loaded:
    return read(f"{BACKENDS}listen: '{listen}'\napi_keys: [{{key: {GOOD}}}, {{key: {key}}}]\n{more}")


@pytest.mark.parametrize("listen", ["127.0.0.1:80", "localhost:80", "[::1]:80", "127.9.9.9:80"])
def test_on_this_machine_a_guessable_key_of_a_caller_only_warns(listen: str) -> None:
    loaded = listens(listen)
    assert [GUESSED in warning for warning in loaded.warnings] == [True]
    assert loaded.settings.listen == listen


@pytest.mark.parametrize("listen", [":80", "80"], ids=["colon", "bare"])
def test_without_a_host_a_guessable_key_opens_this_machine_only(listen: str) -> None:
    """Published example files start as they are, and nobody else gets in."""
    loaded = listens(listen)
    assert any("only this machine can connect (127.0.0.1:80)" in warning for warning in loaded.warnings)
    assert listen_address(loaded.settings) == ("127.0.0.1", 80)
    assert listen_address(listens(listen, "sk-a-real-key-0001").settings) == ("", 80), "a control"
    assert listen_address(listens(listen, more="server: {allow_anonymous: true}").settings) == ("", 80)
    assert (
        listen_address(
            read(f"{BACKENDS}api_keys: [{{key: {GOOD}}}, {{key: sk-zuebee-demo, enabled: false}}]").settings
        ).host
        == ""
    )


@pytest.mark.parametrize("listen", ["0.0.0.0:80", "[::]:80", "10.0.0.1:80", "gate.example:80"])
@pytest.mark.parametrize("key", ["sk-zuebee-demo", "change-me", "'sk-proj-...'"])
def test_where_others_can_reach_it_a_guessable_key_does_not_start(listen: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        listens(listen, key)
    [problem] = caught.value.problems
    assert f"api_keys[1].key: {GUESSED}, and others can reach `listen`" in problem
    assert key.strip("'") not in problem
    assert listens(listen, "sk-a-real-key-0001").warnings == []
    assert any(GUESSED in warning for warning in listens(listen, key, "server: {allow_anonymous: true}").warnings)


def test_the_grpc_listener_is_as_careful() -> None:
    loaded = listens("127.0.0.1:80", more="grpc: {enabled: true, listen: ':90'}")
    assert grpc_address(loaded.settings) == ("127.0.0.1", 90)
    with pytest.raises(ConfigError, match=r"others can reach `grpc\.listen`"):
        listens("127.0.0.1:80", more="grpc: {enabled: true, listen: '0.0.0.0:90'}")


def test_a_guessable_secret_of_the_cache_does_not_start() -> None:
    text = f"{KEYS}{BACKENDS}auth: {{cache_secret: {'changeme' * 4}}}\n"
    assert problems(text) == [f"auth.cache_secret: {GUESSED}"]
    assert read(text.replace("changeme" * 4, GOOD))


def pipeline(*sources: str) -> str:
    return "{pipeline: [" + ", ".join(sources) + "]}"


def findings(text: str) -> list[str]:
    """What is found in settings as they are named in the end, whatever other names a file may use."""
    auth = msgspec.convert(yaml.safe_load(text), AuthSettings, strict=False, dec_hook=decode_custom)
    settings = Settings(backends=[], auth=auth)
    found = secret_findings(settings, lambda path: path == "there.json")
    return [
        "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)[1:] + f": {message}"
        for path, message, fatal in found
        if fatal
    ]


def signature(secret: str = GOOD, *, client_id: str = "acme", more: str = "") -> str:
    return f"{{type: signature, clients: [{{client_id: '{client_id}', secrets: ['{secret}']{more}}}]}}"


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        ("", "expected at least 32 characters, as `openssl rand -hex 32` makes"),
        (GOOD[:31], "expected at least 32 characters, as `openssl rand -hex 32` makes"),
        ("changeme", "expected at least 32 characters, as `openssl rand -hex 32` makes"),
        ("changeme" * 4, GUESSED),
        ("a" * 32, GUESSED),
        ("abcabcab" * 5, GUESSED),
        ("abcdabdcacbdacdbbadcbacdbcadbcda", GUESSED),
        ("your-secret-goes-here-and-is-long-enough", GUESSED),
    ],
)
def test_secrets_of_clients_that_sign(secret: str, message: str) -> None:
    found = findings(pipeline(signature(secret)))
    assert found == [f"auth.pipeline[0].clients[0].secrets[0]: {message}"]
    assert not secret or secret not in str(found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (pipeline(signature(), signature(GOOD[::-1])), "auth.pipeline[1].clients[0].client_id: the same client again"),
        (
            pipeline(signature(), signature(client_id="other")),
            "auth.pipeline[1].clients[0].secrets[0]: the same secret as another client's: each could sign for the"
            " other",
        ),
        (
            pipeline(signature(client_id="a b")),
            "auth.pipeline[0].clients[0].client_id: expected at most 128 visible ASCII characters, without spaces",
        ),
        (
            pipeline(signature(more=", require_key: sk-a-real-key-0001")),
            "auth.pipeline[0].clients[0].require_key: expected the id of a key (`key_...`), not the key",
        ),
        (
            pipeline("{type: file}", signature(more=", require_key: key_1")),
            "auth.pipeline[1]: has clients with `require_key`, so it must stand first: another source would take the"
            " key alone",
        ),
    ],
)
def test_what_signatures_need(text: str, expected: str) -> None:
    assert findings(text) == [expected]


def jwt(more: str) -> str:
    return pipeline(f"{{type: jwt, jwt: {{issuer: i, audience: a, {more}}}}}")


SAFE = "expected a URL that begins with `https://` (`http://` on this machine), without a user or fragment"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("algorithms: [RS256]", "jwt: expected either `jwks_file` or `jwks_url`"),
        ("jwks_file: there.json, jwks_url: 'https://a/'", "jwt: expected either `jwks_file` or `jwks_url`"),
        ("jwks_file: nowhere.json", "jwt.jwks_file: no such file, or it cannot be read"),
        ("jwks_url: 'https://a/', jwks_ca_file: no.pem", "jwt.jwks_ca_file: no such file, or it cannot be read"),
        ("jwks_url: 'http://issuer.example/'", f"jwt.jwks_url: {SAFE}"),
        ("jwks_url: 'https://u:p@issuer.example/'", f"jwt.jwks_url: {SAFE}"),
        ("jwks_url: 'file:///etc/passwd'", f"jwt.jwks_url: {SAFE}"),
        ("jwks_url: 'http://127.0.0.1.evil.example/'", f"jwt.jwks_url: {SAFE}"),
        ("jwks_url: 'https://a:x/'", f"jwt.jwks_url: {SAFE}"),
        (
            "jwks_file: there.json, leeway: 6m",
            "jwt.leeway: expected at most 5m: expired tokens would be accepted that much longer",
        ),
    ],
)
def test_what_tokens_need(more: str, expected: str) -> None:
    assert findings(jwt(more)) == [f"auth.pipeline[0].{expected}"]


@pytest.mark.requirement("A057")
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512", "none", "None", "ES256K", ""])
def test_only_asymmetric_algorithms_can_be_configured(algorithm: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="enum"):
        findings(jwt(f"jwks_file: there.json, algorithms: ['{algorithm}']"))


def test_what_is_right_has_no_findings() -> None:
    sources = (
        signature(more=", require_key: key_0123456789abcdef"),
        "{type: jwt, jwt: {issuer: i, audience: a, jwks_url: 'http://127.0.0.1:8080/jwks'}}",
        "{type: jwt, enabled: false}",
        "{type: file}",
    )
    assert findings(pipeline(*sources)) == []
