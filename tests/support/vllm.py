"""A real vLLM that somebody started, and what its answers say once that is put aside which differs from run to run."""

import json
import re
import urllib.request
from itertools import groupby
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psutil

from tests.support.processes import until

HOW_TO_START = "needs a real vLLM: `make vllm`, then TEST_VLLM_URL=http://127.0.0.1:8001 make proof"
TEXTS = ("content", "text", "arguments")
"""Fields whose text comes in pieces."""

_RANDOM = re.compile(rb'"id":"[a-z]+-[^"]*"|"created":\d+')
Event = dict[str, Any]


class Count(NamedTuple):
    """Tokens, by vLLM's own counters or by a usage record."""

    prompt: int
    completion: int

    def __sub__(self, other: "Count") -> "Count":
        return Count(self.prompt - other.prompt, self.completion - other.completion)


class Vllm:
    """A running vLLM."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> bytes:
        """The body of a GET; raises OSError unless it is answered with 2xx."""
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            body: bytes = answer.read()
        return body

    @property
    def healthy(self) -> bool:
        try:
            self.get("/health")
        except OSError:
            return False
        return True

    @property
    def version(self) -> str:
        return str(json.loads(self.get("/version"))["version"])

    def metric(self, name: str, *labels: str) -> int:
        """A series of `/metrics`, summed over all labels but those named (`reason="abort"`)."""
        lines = self.get("/metrics").decode().splitlines()
        found = [line for line in lines if line.startswith(name + "{") and all(label in line for label in labels)]
        assert found, f"vLLM has no metric {name}"
        return int(sum(float(line.rsplit(" ", 1)[1]) for line in found))

    @property
    def counted(self) -> Count:
        """All tokens since it started."""
        return Count(self.metric("vllm:prompt_tokens_total"), self.metric("vllm:generation_tokens_total"))

    @property
    def running(self) -> int:
        return self.metric("vllm:num_requests_running")

    def wait_until_idle(self) -> None:
        until(lambda: self.running == 0, "vLLM is idle", 30)

    def process(self) -> psutil.Process | None:
        """The process that listens on its port, if it is one of this machine that we may signal."""
        port = urlsplit(self.url).port
        for process in psutil.process_iter():
            try:
                sockets = process.net_connections("tcp")
            except psutil.Error:
                continue
            if any(socket.status == psutil.CONN_LISTEN and socket.laddr.port == port for socket in sockets):
                return process
        return None


def masked(body: bytes) -> bytes:
    """A body without ids and times of creation."""
    return _RANDOM.sub(b"*", body)


def events_of(body: bytes) -> list[Event]:
    """The events of a stream, which must end with `[DONE]`."""
    *events, done, rest = body.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b""), body[-200:]
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


def folded(events: list[Event], ignored: tuple[str, ...] = ()) -> dict[int, tuple[list[Event], dict[str, str]]]:
    """For each choice the kinds of its events, in order and each run of one kind as one, and its whole texts.

    What a model says comes in as many events as its pace makes. An event without choices stands under -1. Ids,
    times and the fields in `ignored` are left out.
    """
    answer = {}
    for index in sorted({_index(event) for event in events}):
        texts: dict[str, str] = {}
        kinds = [_without_text(event, texts, ignored) for event in events if _index(event) == index]
        answer[index] = ([kind for kind, _ in groupby(kinds)], texts)
    return answer


def _index(event: Event) -> int:
    return int(event["choices"][0]["index"]) if event["choices"] else -1


def _without_text(value: Any, texts: dict[str, str], ignored: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return [_without_text(item, texts, ignored) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for name, item in value.items():
        if name in ("id", "created", *ignored):
            continue
        if name in TEXTS and isinstance(item, str):
            texts[name] = texts.get(name, "") + item
            continue
        kept[name] = _without_text(item, texts, ignored)
    return kept
