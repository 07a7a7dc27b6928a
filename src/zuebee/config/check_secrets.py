"""Secrets that are none, and what tokens and signatures need. PURE. No finding contains a value."""

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from zuebee.config.access import ApiKeySettings, JwtSettings, SignatureClientSettings, SourceSettings
from zuebee.config.settings import Settings
from zuebee.kit.yaml_tree import Path

MIN_SIGNATURE_SECRET = 32
MIN_VARIETY = 8
"""Different characters that 32 random ones have at the very least: hexadecimal ones do but for one case in 30,000."""
MAX_LEEWAY_S = 300

Found = tuple[Path, str, bool]

GUESSED = "a well-known placeholder: anyone could guess it"
_NOT_FIRST = "has clients with `require_key`, so it must stand first: another source would take the key alone"
_UNSAFE_URL = "expected a URL that begins with `https://` (`http://` on this machine), without a user or fragment"
_PREFIXES = re.compile(r"^((sk|pk|whsec|bearer|api|llmproxy|litellm|zuebee)[-_])+", re.IGNORECASE)
_EXAMPLES = """
    0123456789 0123456789abcdef 1234 12345 123456 1234567 12345678 123456789 1234567890 abc123 abcdef abcdefgh admin
    administrator anything apikey change changeit changeme changethis changethiskey dev deadbeef default demo dummy
    empty example fake foo foobar hello helloworld hunter2 insecure key letmein local master masterkey mykey
    mysecret mytoken none notasecret nothing null pass passw0rd password password1 password123 placeholder private
    qwerty qwertyuiop replace replaceme replacethis root sample secret secretkey secrettoken secure supersecret test
    testing testkey token topsecret undefined unsafe welcome yourkey yoursecret yourtoken
    """
_WORDS = frozenset(_EXAMPLES.split())
_COMPOSED = """
    a abc123 any api app client demo dev docs example for go here key litellm llmproxy lm lmstudio local model my no
    needed not of ollama openai our placeholder prod proj project required sample secret server service sk some studio
    team test the this to todo token user vllm zuebee
    """
_PARTS = frozenset(_COMPOSED.split())
"""Words of which alone examples are made: `sk-my-team-key-1`, `not-needed`."""
_SAID = re.compile(
    r"your[-_ ].*|.*\b(change|replace)[-_ ]?(me|this|it)\b.*|<.*>|\$\{?[A-Z_]+\}?|(insert|enter|put|add)[-_ ].*"
    r"|.*(\.\.\.|…).*",
    re.IGNORECASE,
)
_KEY_ID = re.compile(r"key_[A-Za-z0-9_-]+")
_CLIENT_ID = re.compile(r"[!-~]{1,128}")


def is_placeholder(text: str) -> bool:
    """Whether a secret is one that stands in examples, or a part of one again and again."""
    bare = _PREFIXES.sub("", text.strip())
    if _SAID.fullmatch(bare.replace("_", "-")) or _SAID.fullmatch(text):
        return True
    parts = [part for part in re.split(r"[^a-z0-9]+", bare.lower()) if part]
    if parts and all(part in _PARTS or re.fullmatch(r"\d{1,4}", part) for part in parts):
        return True
    word = re.sub(r"[^a-z0-9]", "", bare.lower())
    unit = re.fullmatch(r"(.{1,16}?)\1+", word)
    for candidate in (word, unit[1] if unit else word):
        core = re.sub(r"(key|token|secret|here|\d{1,4})$", "", candidate)
        if len(candidate) < 4 or candidate in _WORDS or core in _WORDS:
            return True
    return False


def is_guessable(key: ApiKeySettings) -> bool:
    """Whether a key of the file is a placeholder, and counts."""
    return key.enabled and key.key is not None and is_placeholder(key.key)


def has_guessable_key(settings: Settings) -> bool:
    """Whether anyone could guess a key that lets callers in."""
    return settings.auth_on and any(is_guessable(key) for key in settings.api_keys)


def secret_findings(settings: Settings, is_file: Callable[[str], bool]) -> Iterator[Found]:
    """(path, message, fatal) of secrets that anyone could guess, and of sources of tokens and signatures."""
    for index, key in enumerate(settings.api_keys):
        if is_guessable(key):
            # Not fatal on this machine: published example files start as they are.
            yield ("api_keys", index, "key"), GUESSED, False
    secret = settings.auth.cache_secret
    if len(secret) >= MIN_SIGNATURE_SECRET and (is_placeholder(secret) or len(set(secret)) < MIN_VARIETY):
        yield ("auth", "cache_secret"), GUESSED, True
    if settings.metrics.token is not None and is_placeholder(settings.metrics.token):
        yield ("metrics", "token"), GUESSED, True
    for place, reporter in enumerate(settings.usage.reporters):
        if reporter.enabled and settings.usage.enabled:
            for index, secret in enumerate(reporter.secrets):
                if is_placeholder(secret) or is_placeholder(_decoded(secret)):
                    yield ("usage", "reporters", place, "secrets", index), GUESSED, True
    yield from _sources(settings.auth.pipeline, is_file)


def _decoded(secret: str) -> str:
    """What a webhook's secret is the base64 of, if that is a text; else the secret."""
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return secret


def _sources(pipeline: list[SourceSettings], is_file: Callable[[str], bool]) -> Iterator[Found]:
    first_with: dict[str, Path] = {}
    before = False
    for index, source in enumerate(pipeline):
        path: Path = ("auth", "pipeline", index)
        if not source.enabled:
            continue
        if source.type == "jwt":
            yield from _jwt((*path, "jwt"), source.jwt, is_file)
        elif source.type == "signature":
            if before and any(client.require_key for client in source.clients):
                yield path, _NOT_FIRST, True
            for place, client in enumerate(source.clients):
                yield from _client((*path, "clients", place), client, first_with)
        before = before or source.type != "signature"


def _jwt(path: Path, jwt: JwtSettings | None, is_file: Callable[[str], bool]) -> Iterator[Found]:
    if jwt is None:
        return
    if (jwt.jwks_file is None) == (jwt.jwks_url is None):
        yield path, "expected either `jwks_file` or `jwks_url`", True
    for name, value in (("jwks_file", jwt.jwks_file), ("jwks_ca_file", jwt.jwks_ca_file)):
        if value is not None and not is_file(value):
            yield (*path, name), "no such file, or it cannot be read", True
    if jwt.jwks_url is not None and not _is_safe(jwt.jwks_url):
        yield (*path, "jwks_url"), _UNSAFE_URL, True
    if jwt.leeway_s > MAX_LEEWAY_S:
        yield (*path, "leeway"), "expected at most 5m: tokens would live that much longer", True


def _is_safe(text: str) -> bool:
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        return False
    if not url.hostname or "@" in url.netloc or url.fragment or not re.fullmatch(r"[!-~]+", text):
        return False
    here = url.hostname in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", url.hostname) is not None
    return url.scheme == "https" or (url.scheme == "http" and here)


def _client(path: Path, client: SignatureClientSettings, first_with: dict[str, Path]) -> Iterator[Found]:
    if not _CLIENT_ID.fullmatch(client.client_id):
        yield (*path, "client_id"), "expected at most 128 visible ASCII characters, without spaces", True
    if first_with.setdefault(f"id {client.client_id}", path) != path:
        yield (*path, "client_id"), "the same client again", True
    if client.require_key and not _KEY_ID.fullmatch(client.require_key):
        yield (*path, "require_key"), "expected the id of a key (`key_...`), not the key", True
    for index, secret in enumerate(client.secrets):
        place: Path = (*path, "secrets", index)
        if len(secret) < MIN_SIGNATURE_SECRET:
            yield place, f"expected at least {MIN_SIGNATURE_SECRET} characters, as `openssl rand -hex 32` makes", True
        elif is_placeholder(secret) or len(set(secret)) < MIN_VARIETY:
            yield place, GUESSED, True
        elif first_with.setdefault(f"secret {secret}", path) != path:
            yield place, "the same secret as another client's: each could sign for the other", True
