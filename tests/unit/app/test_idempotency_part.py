import os
from pathlib import Path

from zuebee.app.parts.idempotency import open_answers
from zuebee.config.load import loads


async def test_nobody_else_can_read_kept_answers(tmp_path: Path) -> None:
    text = f'backends: [{{url: "http://a"}}]\nstore: {{path: {tmp_path}/z.db}}\n'
    before = os.umask(0o022)
    try:
        assert open_answers(loads(text, "file", {}, lambda path: True).settings) is not None
    finally:
        os.umask(before)
    modes = {each.name: each.stat().st_mode & 0o777 for each in tmp_path.iterdir()}
    assert "z-answers.db" in modes
    assert set(modes.values()) == {0o600}, modes
