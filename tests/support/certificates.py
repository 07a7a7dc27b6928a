"""Certificates for the loopback address, and one authority that nobody trusts."""

import ssl
from functools import cache
from pathlib import Path

import trustme

_authority = cache(trustme.CA)


def server_context(*names: str) -> ssl.SSLContext:
    """For a server that proves to be one of `names`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _authority().issue_cert(*names).configure_cert(context)
    return context


def client_context() -> ssl.SSLContext:
    """For a client that trusts the servers made here."""
    context = ssl.create_default_context()
    _authority().configure_trust(context)
    return context


def authority_file(folder: Path) -> str:
    """The certificate of the authority, as a file."""
    path = folder / "authority.pem"
    _authority().cert_pem.write_to_path(str(path))
    return str(path)
