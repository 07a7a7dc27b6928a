"""How an answer is locked: whoever reads the table alone learns neither prompt nor answer.

The key of each answer is derived from the request that asked for it (its caller, its `Idempotency-Key`, its body), with
HKDF-SHA256 (RFC 5869), and is kept nowhere. AES-256-GCM with a random nonce (NIST SP 800-38D) locks the answer to its
row. What can be guessed as a whole (caller, key and body) can be confirmed: a key should be random.
"""

import os
from hashlib import sha256

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from zuebee.contracts.answers import KeptAnswer

NONCE_BYTES = 12
_VERSION = b"\x01"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(KeptAnswer).decode


class Unreadable(Exception):
    """What is kept was made by another request, or was changed."""


def name(*parts: bytes) -> str:
    """The name of a row: the same for the same parts, and for no others."""
    return sha256(b"zuebee answer" + _joined(parts)).hexdigest()


def root_secret(*parts: bytes) -> bytes:
    """What all keys of one request are derived from: 32 bytes."""
    return sha256(b"zuebee secret" + _joined(parts)).digest()


def fingerprint(root: bytes) -> str:
    """Shows whether two requests are the same, and nothing else."""
    return _derive(root, b"fingerprint").hex()


def seal(root: bytes, row: str, answer: KeptAnswer) -> bytes:
    """Lock an answer to its row."""
    nonce = os.urandom(NONCE_BYTES)
    return _VERSION + nonce + AESGCM(_derive(root, b"answer")).encrypt(nonce, _encode(answer), row.encode())


def unseal(root: bytes, row: str, sealed: bytes) -> KeptAnswer:
    """The answer that `seal` locked. Raises Unreadable."""
    nonce, body = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
    try:
        if sealed[:1] != _VERSION:
            raise Unreadable
        return _decode(AESGCM(_derive(root, b"answer")).decrypt(nonce, body, row.encode()))
    except (InvalidTag, ValueError, msgspec.DecodeError):
        raise Unreadable from None


def _derive(root: bytes, purpose: bytes) -> bytes:
    return HKDFExpand(SHA256(), 32, b"zuebee " + purpose).derive(root)


def _joined(parts: tuple[bytes, ...]) -> bytes:
    # With their lengths, so that no two lists of parts look the same.
    return b"".join(b"%d:%b" % (len(part), part) for part in parts)
