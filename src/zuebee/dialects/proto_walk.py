"""PURE. How many parts a protobuf message has, found in its bytes before anything is made of them.

Encoding: protobuf.dev, "Encoding". An empty part takes two bytes on the wire, and a hundred and more once it is parsed.
"""

from typing import Any

_VARINT, _FIXED64, _BYTES, _BEGIN, _END, _FIXED32 = 0, 1, 2, 3, 4, 5


def crowded_field(data: bytes, descriptor: Any, most: int) -> str | None:
    """The field of a message that has more than `most` parts, itself and all that is in it; None: there is none.

    Of what is no message nothing is said: its parser will.
    """
    view, left, field = memoryview(data), most, ""
    inside: list[tuple[int, int, Any]] = [(0, len(data), descriptor)]
    counts: dict[str, int] = {}
    try:
        while inside:
            at, end, kind = inside.pop()
            while at < end:
                tag, at = _varint(view, at)
                part = None if kind is None else kind.fields_by_number.get(tag >> 3)
                if kind is descriptor:
                    field = "" if part is None else part.name
                counts[field] = counts.get(field, 0) + 1
                left -= 1
                if left < 0:
                    return max(counts, key=lambda name: counts[name])
                wire = tag & 7
                if wire == _VARINT:
                    _, at = _varint(view, at)
                elif wire == _BYTES:
                    size, at = _varint(view, at)
                    if part is not None and part.message_type is not None and size:
                        if end > at + size:
                            inside.append((at + size, end, kind))
                        end, kind = at + size, part.message_type
                    else:
                        at += size
                elif wire in (_FIXED64, _FIXED32):
                    at += 8 if wire == _FIXED64 else 4
                elif wire not in (_BEGIN, _END):
                    return None
    except IndexError:
        pass
    return None


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    byte = view[at]
    at += 1
    if byte < 0x80:
        return byte, at
    value, shift = byte & 0x7F, 7
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError
