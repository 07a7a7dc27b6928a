"""Streams as servers write them that were never told how: made at random, with what a reader must see of them."""

import random
from typing import NamedTuple

from tests.support.samples import SPELLINGS
from zuebee.dialects.sse import split_events

HALVES = rb"\ud83d", rb"\ude00", rb"a\udfff\ud800b", rb"\\\ud83d", rb"\\ud83d", rb"\ud83d\ude00", b"\xc3\xa9", rb"\""
"""Texts, as they stand in JSON."""

WRONG = b"\x01", b"\t", rb"\x41", rb"\u12", b"\xff\xfe", b"\xed\xa0\x80"
"""Texts that no JSON may have."""

VALUES = (
    b"NaN", b"-Infinity", b"Infinity", b"nan", b"-inf", b"1e999", b"9" * 5000, b"null", b"[]", rb'"\ud83d NaN, \" "',
    b"[NaN,-Infinity,[-Infinity]]", b'{"a":NaN,"b":"Infinity"}', b"[" * 1500 + b"]" * 1500, b"+1", b".5", b"[1,]",
)  # fmt: skip
NO_ERRORS = b"", b'"error":null,', b'"error":"",', b'"error":{},', b'"error":false,'
ENDS = b"data: [DONE]\n\n", b"data: [DONE]\n", b"data: [DONE]", b"data:[DONE]\n\n"
EXTRAS = b'"choices":[],', b'"choices":null,', b'"choices": [ ],', b""
USAGE = b'"usage":{"prompt_tokens":7,"completion_tokens":11,"total_tokens":18}'
LARGE = 1_200_000
TYPES = (
    b"content-type: text/event-stream\r\n", b"content-type: Text/Event-Stream; charset=utf-8\r\n",
    b"Content-Type:TEXT/EVENT-STREAM\r\n", b"content-type: text/plain\r\n", b"content-type: application/json\r\n",
    b"content-type: text/html\r\n", b"content-type: application/octet-stream\r\n", b"content-type:\r\n", b"",
)  # fmt: skip


class Odd(NamedTuple):
    """A stream. `shown`: what of it a reader sees that did not ask for usage; `told`: whether it tells of its usage."""

    body: bytes
    shown: bytes
    content_type: bytes
    told: bool


def odd_stream(dice: random.Random, *, large: bool = False) -> Odd:
    """One of many."""
    events = [_chunk(dice, large=large and not index) for index in range(dice.randint(1, 6))]
    events.append(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n')
    spell = SPELLINGS[dice.choice(list(SPELLINGS))]
    told = dice.random() < 0.7
    extra = b""
    if told:
        odd = b'"x":%b,' % dice.choice(VALUES) if dice.random() < 0.4 else b""
        extra = b"data: {%b%b%b}\n\n" % (dice.choice(EXTRAS), odd, USAGE)
    body = spell(b"".join([*events, extra, dice.choice(ENDS)]))
    shown = b"".join(event for event in split_events(body) if b"usage" not in event)
    return Odd(body, shown, dice.choice(TYPES), told)


def _chunk(dice: random.Random, *, large: bool) -> bytes:
    text = b"".join(dice.choice(HALVES + WRONG if dice.random() < 0.3 else HALVES) for _ in range(dice.randint(0, 4)))
    if large:
        text += b"x" * dice.choice([LARGE, 3 * LARGE])
    reason = dice.choice([b"null", b'""', b'"null"'])
    value = dice.choice(VALUES) if dice.random() < 0.6 else b"1"
    chunk = b'{"id":"c",%b"choices":[{"index":0,"delta":{"content":"%b"},"logprobs":%b,"finish_reason":%b}]}'
    return b"data: %b\n\n" % (chunk % (dice.choice(NO_ERRORS), text, value, reason))


def pieces(dice: random.Random, body: bytes) -> list[bytes]:
    """The same bytes as a network may cut them: now and then each by itself."""
    if len(body) < 3000 and dice.random() < 0.2:
        return [body[n : n + 1] for n in range(len(body))]
    cuts = sorted(dice.sample(range(1, len(body)), min(dice.randint(0, 6), len(body) - 1)))
    return [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
