"""A platform follows new settings as a whole or not at all, and lets go of everything at its end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from zuebee.app.wiring import CannotReload, Platform
from zuebee.config.load import loads
from zuebee.config.settings import Settings
from zuebee.edge.operator import Readiness
from zuebee.lib.tasks import Tasks

CONFIG = """
backends: [{{url: "http://127.0.0.1:9", name: first}}]
health_check: {{enabled: false}}
store: {{path: {folder}/zuebee.db}}
log: {{access: {folder}/access.log}}
server: {{tls: {{cert_file: {folder}/cert.pem, key_file: {folder}/key.pem}}}}
"""


def settings(folder: Path, *changes: tuple[str, str], more: str = "") -> Settings:
    text = CONFIG.format(folder=folder) + more
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return loads(text, "file", {}, lambda path: True).settings


@asynccontextmanager
async def platform(folder: Path) -> AsyncIterator[Platform]:
    certificate = trustme.CA().issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    made = Platform(settings(folder))
    tasks = Tasks()
    try:
        await made.apply(made.settings)
        made.begin(tasks)
        yield made
    finally:
        await tasks.aclose()
        await made.aclose()


def shown(made: Platform, metric: str) -> list[str]:
    text, _ = made.metrics.exposition("text/plain")
    return [line for line in text.decode().splitlines() if line.startswith(metric)]


OTHER = ('"http://127.0.0.1:9", name: first', '"http://127.0.0.1:9", name: other')
REPORTER = "usage: {reporters: [{name: audit, type: webhook, url: 'http://127.0.0.1:9'}]}\n"
RULES = "on_disconnect: [{policy: drain}]\n"


async def test_new_settings_reach_all_parts(tmp_path: Path) -> None:
    async with platform(tmp_path) as made:
        await made.apply(settings(tmp_path, OTHER, more=REPORTER + RULES))
        assert made.readiness() == Readiness(True, "", 1, 1)
        assert 'backend="other"' in "".join(shown(made, "zuebee_backend_in_flight"))
        assert 'reporter="audit"' in "".join(shown(made, "zuebee_usage_reporter_state"))
        assert [rule.policy for rule in made.pipeline.disconnects.rules] == ["drain"]


async def test_where_the_last_part_cannot_follow_no_other_does(tmp_path: Path) -> None:
    async with platform(tmp_path) as made:
        before = made.settings, made.pipeline.inference
        (tmp_path / "cert.pem").write_text("not a certificate")
        with pytest.raises(OSError, match=r"cert\.pem"):
            await made.apply(settings(tmp_path, OTHER, more=REPORTER + RULES))
        assert (made.settings, made.pipeline.inference) == before
        assert 'backend="first"' in "".join(shown(made, "zuebee_backend_in_flight"))
        assert not shown(made, "zuebee_usage_reporter_state{")
        assert list(made.pipeline.disconnects.rules) == []


async def test_what_needs_a_restart_is_refused_before_any_part_is_asked(tmp_path: Path) -> None:
    async with platform(tmp_path) as made:
        (tmp_path / "cert.pem").write_text("not a certificate")
        with pytest.raises(CannotReload) as refused:
            await made.apply(settings(tmp_path, OTHER, more="stream: {keepalive_interval: 9s}\n"))
        assert refused.value.restart == ["stream.keepalive_interval"]


async def test_a_store_that_was_closed_can_be_opened_again(tmp_path: Path) -> None:
    for _ in range(2):
        async with platform(tmp_path) as made:
            with pytest.raises(OSError, match="another process serves from it"):
                Platform(settings(tmp_path))
            assert made.readiness().ready
