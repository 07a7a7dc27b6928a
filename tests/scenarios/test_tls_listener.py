"""HTTPS on the listener: TLS 1.2 or newer, and a certificate that can be renewed while it runs."""

import asyncio
import signal
import ssl
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from tests.support.processes import Gateway, running, simulated
from tests.support.raw_http import DONE, chat, eventually, request, wire


class Place(NamedTuple):
    """A gateway behind TLS, the folder of its certificate, and who signed that."""

    gateway: Gateway
    folder: Path
    authority: trustme.CA


def write_certificate(folder: Path, authority: trustme.CA) -> None:
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    write_certificate(folder, authority)
    tls = {"cert_file": str(folder / "cert.pem"), "key_file": str(folder / "key.pem")}
    with simulated(folder / "sim") as sim:
        config = {"backends": [{"url": sim.url}], "server": {"tls": tls, "header_timeout": "2s"}}
        with running(folder / "gateway", config) as gateway:
            yield Place(gateway, folder, authority)


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def serial(port: int) -> str:
    """The serial number of the certificate that is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with wire(port, context) as client:
        shown = client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return ssl.DER_cert_to_PEM_cert(shown)


def limited(authority: trustme.CA, version: ssl.TLSVersion) -> ssl.SSLContext:
    """A context that speaks one version only."""
    context = trusting(authority)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = context.maximum_version = version
    if version < ssl.TLSVersion.TLSv1_2:
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


@pytest.mark.requirement("A032")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_https_works(place: Place, version: ssl.TLSVersion) -> None:
    assert place.gateway.url.startswith("https://")
    async with wire(place.gateway.port, limited(place.authority, version)) as client:
        answer = await client.ask(request(chat()))
        again = await client.ask(request(chat(stream=False)))
    assert (answer.status, again.status) == (200, 200)
    assert answer.body.endswith(DONE)


@pytest.mark.requirement("A032")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_old_versions_are_refused(place: Place, version: ssl.TLSVersion) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        async with wire(place.gateway.port, limited(place.authority, version)):
            pass


async def test_a_stranger_is_not_trusted(place: Place) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        async with wire(place.gateway.port, trusting(trustme.CA())):
            pass


@pytest.mark.parametrize("data", [request(chat()), b"", b"\x16\x03\x01"], ids=["plain HTTP", "silence", "half a hello"])
async def test_who_does_not_speak_tls_is_cut(place: Place, data: bytes) -> None:
    async with wire(place.gateway.port) as client:
        client.send(data)
        assert b"HTTP/1.1" not in await client.closed()


async def test_the_certificate_is_read_again_on_reload(place: Place) -> None:
    gateway, folder, authority = place
    before = await serial(gateway.port)
    async with wire(gateway.port, trusting(authority)) as stream:
        stream.send(request(chat(60, tokens_per_s=50)))
        assert await stream.read_head() == 200
        write_certificate(folder, authority)
        assert await reload(gateway, "ok") != before
        rest = b"".join([part async for part in stream.parts()])
    assert rest.endswith(DONE)


@pytest.mark.parametrize("file", ["cert.pem", "key.pem"])
async def test_a_certificate_that_does_not_fit_its_key_is_refused(place: Place, file: str, tmp_path: Path) -> None:
    gateway, folder, authority = place
    before = await serial(gateway.port)
    good = (folder / file).read_bytes()
    write_certificate(tmp_path, authority)
    (folder / file).write_bytes((tmp_path / file).read_bytes())
    assert await reload(gateway, "refused") == before
    async with wire(gateway.port, trusting(authority)) as client:
        assert (await client.ask(request(chat(stream=False)))).status == 200
    (folder / file).write_bytes(good)
    assert await reload(gateway, "ok") == before


async def reload(gateway: Gateway, result: str) -> str:
    """Send SIGHUP and wait for what becomes of it; the certificate that is shown then."""
    word = {"ok": "configuration reloaded", "refused": "not reloaded"}[result]
    before = gateway.output.count(word)
    gateway.send_signal(signal.SIGHUP)
    await eventually(lambda: gateway.output.count(word) > before, f"the reload is {result}")
    await asyncio.sleep(0)
    return await serial(gateway.port)
