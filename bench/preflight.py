"""Before anything is measured: is the answer that will be measured the right one?"""

import contextlib
import json

from bench.client import CONTENT_EVENTS, EVENTS, Answer, Connection, chat_body, chat_request
from bench.services import Running, Unusable


def check(name: str, proxy: Running) -> int:
    """Send requests of both kinds, check the answers, and return the bytes of one whole stream on the wire.

    Raises `Unusable` with the reason if an answer is not complete and correct.
    """
    with contextlib.closing(Connection(proxy.port)) as connection:
        for _ in range(2):  # the first answers of a process may be slow or carry other headers
            whole = connection.exchange(chat_request(chat_body(stream=False)))
            streamed = connection.exchange(chat_request(chat_body(stream=True)))
    try:
        _check_whole(whole)
        _check_streamed(streamed)
    except (LookupError, ValueError) as error:
        raise Unusable(f"{name} answers wrongly: {error}") from error
    return streamed.wire_bytes


def _check_whole(answer: Answer) -> None:
    _expect(answer.status == 200, f"status {answer.status}: {answer.body[:300]!r}")
    completion = json.loads(answer.body)
    _expect(bool(completion["choices"][0]["message"]["content"]), "no content")
    _expect(completion["usage"]["total_tokens"] == 91, f"usage {completion['usage']}")


def _check_streamed(answer: Answer) -> None:
    _expect(answer.status == 200, f"status {answer.status}: {answer.body[:300]!r}")
    lines = [line[6:] for line in answer.body.decode().split("\n") if line.startswith("data: ")]
    _expect(lines[-1] == "[DONE]", f"the stream ended with {lines[-1]}")
    choices = [json.loads(line)["choices"] for line in lines[:-1]]
    words = [choice[0]["delta"].get("content") for choice in choices if choice]
    _expect(len([word for word in words if word]) == CONTENT_EVENTS, f"{len(words)} events with content")
    _expect(len(lines) >= EVENTS, f"{len(lines)} events")


def _expect(true: bool, otherwise: str) -> None:
    if not true:
        raise ValueError(otherwise)
