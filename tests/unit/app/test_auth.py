import pytest

from zuebee.app.auth import needs_store
from zuebee.config.load import loads

START = 'listen: 127.0.0.1:1\nbackends: [{url: "http://a"}]\n'
FILE_KEY = "api_keys: [{key: a-key-that-nobody-guesses-42, name: n}]\n"


@pytest.mark.parametrize(
    ("text", "without_keys", "with_keys"),
    [
        ("", False, False),
        (FILE_KEY, False, True),
        ("auth: {enabled: true}\n", True, True),
        ("auth: {pipeline: [{type: store}]}\n", True, True),
        (FILE_KEY + "auth: {pipeline: [{type: file}]}\n", False, False),
        (FILE_KEY + "auth: {pipeline: [{type: file}, {type: store, enabled: false}]}\n", False, False),
        (FILE_KEY + "auth: {enabled: false}\n", False, False),
    ],
)
def test_when_requests_fail_without_the_store(text: str, without_keys: bool, with_keys: bool) -> None:
    settings = loads(START + text, "file", {}, lambda path: True).settings
    assert needs_store(settings, has_keys=False) is without_keys
    assert needs_store(settings, has_keys=True) is with_keys
