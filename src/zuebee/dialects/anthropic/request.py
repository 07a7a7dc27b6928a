"""PURE. The few fields of an Anthropic request that a gateway looks at; the body passes as it came."""

from typing import Final

import msgspec

from zuebee.contracts.errors import TOO_MANY_FIELDS, Refusal, bad_request
from zuebee.dialects import json_text
from zuebee.dialects.json_text import BOM, mend_halves
from zuebee.dialects.media import media_of
from zuebee.dialects.openai import MAX_KNOWN_BYTES, MAX_MODEL, not_json, not_valid
from zuebee.dialects.openai_shapes import Peek, Request, typed

_PEEKED: Final = ("model", "stream", "max_tokens")
_WRITTEN: Final[tuple[str, ...]] = ("model", "max_tokens")
"""Of these the gateway may have another opinion."""

_REPLACED: Final = "\ufffd"
_peek: Final = msgspec.json.Decoder(Peek).decode


def read_request(body: bytes) -> Request | Refusal:
    """Look at the few fields that matter. One given twice is refused: two readers could read it differently."""
    try:
        json_text.check_utf8(body)  # msgspec does not look at the bytes of what it skips
        request = _read(body)
        if isinstance(request, Request):
            request.media, request.media_bytes = media_of(body)
        return request
    except msgspec.ValidationError as error:
        return not_valid(str(error))
    except json_text.TooMany:
        return bad_request(f"The body has more than {json_text.MAX_FIELDS} fields.", code=TOO_MANY_FIELDS)
    except (json_text.NotJson, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return not_json(error)


def _read(body: bytes) -> Request | Refusal:
    start = len(BOM) if body.startswith(BOM) else 0
    text = body[start:] if start else body
    try:
        return _read_fields(text, start)
    except msgspec.ValidationError:
        raise
    except (json_text.NotJson, msgspec.DecodeError):
        # Half a character, as it is left where a text was cut, is JSON, too. Not every reader takes it: ours does not.
        mended = mend_halves(text)
        if mended == text:
            _peek(text)  # for what msgspec says of it
            raise
    request = _read_fields(mended, start)
    if isinstance(request, Request) and _REPLACED in request.model:
        return bad_request("The field `model` has half a character in it.", param="model")
    return request


def _read_fields(body: bytes, shift: int) -> Request | Refusal:
    """`shift`: how much further behind everything stands in the body as it came."""
    places: dict[str, tuple[int, int]] = {}
    known = []
    for name, start, end in json_text.fields(body):
        if name in _PEEKED:
            if name in places:
                return bad_request(f"The field `{name}` is given more than once.", param=name)
            if end - start > MAX_KNOWN_BYTES:
                return bad_request(f"The field `{name}` is too long.", param=name)
            places[name] = start + shift, end + shift
            known.append(b'"%b":%b' % (name.encode(), typed(name, body[start:end])))
    peek = _peek(b"{%b}" % b",".join(known))
    if len(peek.model) > MAX_MODEL:
        return bad_request(f"The field `model` has more than {MAX_MODEL} characters.", param="model")
    bound = peek.max_tokens if isinstance(peek.max_tokens, int) and peek.max_tokens >= 0 else None
    written = {name: places[name] for name in _WRITTEN if name in places}
    return Request(peek.model, peek.stream is True, True, bound, places=written)
