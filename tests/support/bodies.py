"""Request bodies that are dear to look at, of any size, by shape and by chance."""

import random
from collections.abc import Callable

HEAD = b'{"model":"nobody",'


def _filled(unit: bytes, begin: bytes, end: bytes) -> Callable[[int], bytes]:
    return lambda size: begin + unit * max((size - len(begin) - len(end)) // len(unit), 1) + end


def _in(name: bytes, unit: bytes) -> Callable[[int], bytes]:
    """A field with a list of so many units."""
    return _filled(unit + b",", HEAD + b'"' + name + b'":[', b"1]}")


def _text(unit: bytes) -> Callable[[int], bytes]:
    return _filled(unit, HEAD + b'"messages":[{"role":"user","content":"', b'"}]}')


SHAPES: dict[str, Callable[[int], bytes]] = {
    "empty lists": _in(b"messages", b"[]"),
    "empty objects": _in(b"messages", b"{}"),
    "small objects": _in(b"messages", b'{"model":1}'),
    "token ids": _in(b"prompt", b"123"),
    "digits": _in(b"input", b"1"),
    "lists of tokens": _in(b"prompt", b"[1]"),
    "texts": _in(b"prompt", b'""'),
    "images": _in(b"messages", b'{"content":[{"type":"image_url"}]}'),
    "one list of lists": _filled(b"[],", HEAD + b'"prompt":[[', b"1]]}"),
    "nested": _in(b"messages", b"[" * 400 + b"]" * 400),
    "nested objects": _in(b"messages", b'{"a":' * 400 + b"1" + b"}" * 400),
    "nested too deep": _filled(b"[", HEAD + b'"messages":', b""),
    "a long text": _text(b"a"),
    "escapes": _text(b"\\n"),
    "hidden letters": _text(b"\\u005f"),
    "surrogates": _text(b"\\ud83d\\ude00"),
    "accents": _text("é".encode()),
    "pictures": _text("\U0001f600".encode()),
    "one picture in ASCII": _filled(b"a", HEAD + '"user":"\U0001f600","x":"'.encode(), b'"}'),
    "blanks": _filled(b" \n", HEAD, b'"messages":[]}'),
    "blanks in a list": _in(b"messages", b" 1 "),
    "many fields": _filled(b'"":1,', HEAD, b'"x":1}'),
    "many known fields": _filled(b'"n":1,', HEAD, b'"x":1}'),
    "many hidden fields": _filled(b'"\\u006e":1,', HEAD, b'"x":1}'),
    "a long key": _filled(b"k", HEAD + b'"', b'":1}'),
    "a long model": _filled(b"m", b'{"model":"', b'"}'),
    "long options": _in(b"stream_options", b"[]"),
    "options of many fields": _filled(b'"":1,', HEAD + b'"stream":true,"stream_options":{', b'"x":1}}'),
    "a long number": _filled(b"1", HEAD + b'"seed":', b"}"),
    "a long bound": _filled(b"1", HEAD + b'"max_tokens":', b"}"),
    "floats": _in(b"input", b"1.5e1"),
    "no end": _filled(b"[],", HEAD + b'"messages":[', b""),
    "twice at the end": _filled(b"[],", HEAD + b'"messages":[', b'1],"model":"b"}'),
}


def by_chance(seed: int, size: int) -> bytes:
    """A body of pieces of all kinds, nested by chance; mostly one that is JSON."""
    choose = random.Random(seed)
    pieces = [b"[]", b"{}", b"12", b'"a"', b'"\\u00e9"', b'{"n":1}', b"null", b"1e9", b'"\xc3\xa9"', b'{"model":[]}']

    def value(size: int, depth: int) -> bytes:
        if size < 64 or depth > 6:
            return choose.choice(pieces)
        if choose.random() < 0.5:
            count = choose.choice((1, 3, 9))
            inner = [value(size // count, depth + 1) for _ in range(count)]
        else:
            unit = choose.choice(pieces)
            inner = [b",".join([unit] * max(size // (len(unit) + 1), 1))]
        if choose.random() < 0.3:
            return b"{" + b",".join(b'"k%d":[%b]' % pair for pair in enumerate(inner)) + b"}"
        return b"[" + choose.choice((b",", b" , ")).join(inner) + b"]"

    some = [b"messages", b"prompt", b"input", b"x", b"n", b"stream_options", b"\\u006eodel", b"max_tokens"]
    names = choose.sample(some, 3)
    fields = [b'"%b":%b' % (name, value(size // 3, 0)) for name in names] + [b'"model":"nobody"']
    choose.shuffle(fields)
    return b"{" + b",".join(fields) + choose.choice((b"}", b"}", b"}", b"", b"}}"))
