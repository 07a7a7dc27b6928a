import json
import random
from typing import Any

import pytest

from zuebee.dialects.media import MAX_MEDIA, media_of

DATA = "data:image/png;base64," + "A" * 5000


def body(*parts: dict[str, Any] | str, **more: Any) -> bytes:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": content}], **more}).encode()


PICTURE = {"type": "image_url", "image_url": {"url": DATA, "detail": "low"}}


@pytest.mark.parametrize(
    ("part", "inline_bytes"),
    [
        (PICTURE, len(DATA)),
        ({"type": "image_url", "image_url": {"detail": "high", "url": "https://example.com/cat.png"}}, 0),
        ({"type": "image_url", "image_url": DATA}, len(DATA)),
        ({"image_url": {"url": DATA}}, len(DATA)),
        ({"type": "input_audio", "input_audio": {"data": "B" * 3000, "format": "wav"}}, 3000),
        ({"type": "file", "file": {"filename": "a.pdf", "file_data": DATA}}, len(DATA)),
        ({"type": "file", "file": {"file_id": "file-1"}}, 0),
        ({"type": "video_url", "video_url": {"url": "https://example.com/film.mp4"}}, 0),
        ({"type": "audio_url", "audio_url": {"url": DATA}}, len(DATA)),
        ({"type": "input_image", "image_url": DATA}, len(DATA)),
    ],
)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n", " :\t")])
def test_a_part_is_found_however_it_is_spelled(
    part: dict[str, Any], inline_bytes: int, separators: tuple[str, str]
) -> None:
    request = json.loads(body("What is this?", part))
    count, found = media_of(json.dumps(request, separators=separators).encode())
    assert (1 <= count <= 2, found) == (True, inline_bytes), "at most too many"


@pytest.mark.parametrize(
    "request_body",
    [
        body("Hello"),
        body('Write {"type":"image_url","image_url":{"url":"data:' + "A" * 2000 + '"}}'),
        body("see", tools=[{"type": "function", "function": {"name": "draw", "parameters": {
            "type": "object", "properties": {"image_url": {"type": "string"}, "file": {"type": "string"},
            "image": {"type": "object"}, "kind": {"enum": ["image", "video", "file"]}}}}}]),
        body("a long word " + "A" * 100_000),
        b"{}",
        b"",
    ],
)  # fmt: skip
def test_text_that_speaks_of_pictures_is_text(request_body: bytes) -> None:
    assert media_of(request_body) == (0, 0)


def test_all_of_many_are_counted() -> None:
    count, inline_bytes = media_of(body(*[PICTURE] * 7, "and", *[PICTURE] * 3))
    assert (count, inline_bytes) == (10, 10 * len(DATA))


def test_names_spelled_with_escapes_hide_nothing() -> None:
    hidden = body("What is this?", PICTURE).replace(b'"image_url"', b'"image\\u005furl"')
    assert media_of(hidden)[0] >= 1
    assert media_of(body("caf\u00e9 \u4f60\u597d")) == (0, 0)


def test_what_it_costs_to_look_is_bounded() -> None:
    assert media_of(b'{"messages":[[' + b'{"type":"image_url"},' * 5000 + b"]]}") == (5000, 0)
    decoys = b'{"enum":["file"]},' * (2 * MAX_MEDIA + 1)
    assert media_of(b'{"tools":[[' + decoys + b']],"messages":[{"type":"image_url"}]}')[0] > 2 * MAX_MEDIA
    assert media_of(b'{"a":[[' + b'"data:",' * 100_000 + b"}") == (0, 0)


def test_cut_and_shuffled_bodies_break_nothing() -> None:
    rng, whole = random.Random(3), body("x", PICTURE, {"type": "input_audio", "input_audio": {"data": "B" * 3000}})
    for _ in range(300):
        cut = whole[: rng.randrange(len(whole))] + whole[rng.randrange(len(whole)) :]
        count, inline_bytes = media_of(cut)
        assert count >= 0
        assert 0 <= inline_bytes <= len(cut)
