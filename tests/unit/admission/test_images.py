import json
from typing import Any

import pytest

from zuebee.admission.images import more_images_than

PICTURE = {"type": "image_url", "image_url": {"url": "https://h/a.png"}}
SHORT = {"image_url": {"url": "https://h/a.png"}}
FILE = {"type": "input_image", "file_id": "f"}
TEXT = {"type": "text", "text": 'say {"type": "image_url", "image_url": 1} "image_url" input_image'}


def body(*parts: Any, name: str = "messages", **more: Any) -> bytes:
    return json.dumps({"model": "m", name: [{"role": "user", "content": list(parts)}], **more}).encode()


@pytest.mark.parametrize(
    ("request_body", "images"),
    [
        (body(PICTURE, PICTURE, TEXT), 2),
        (body(SHORT, PICTURE, FILE), 3),
        (body(FILE, FILE, name="input"), 2),
        (body(TEXT, TEXT, TEXT), 0),
        (body(PICTURE, tools=[{"properties": {"image_url": {"type": "string"}}}] * 5), 1),
        (json.dumps({"messages": [{"content": '{"type": "image_url"}' * 9}]}).encode(), 0),
        (body(PICTURE).replace(b'"type": "image_url"', b'"type": "im\\u0061ge_url"'), 1),
        (body(FILE, FILE).replace(b"input_image", b"input\\u005fimage"), 2),
        (b"\xef\xbb\xbf" + body(PICTURE, PICTURE), 2),
        (b'{"messages": [3, null, {"content": [4]}], "input": "text"}', 0),
        (b"{", 0),
        (b"[]", 0),
    ],
)
def test_exactly_the_image_parts_are_counted(request_body: bytes, images: int) -> None:
    assert not more_images_than(request_body, images)
    if images:
        assert more_images_than(request_body, images - 1)
