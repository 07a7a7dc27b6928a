"""Whatever a conversation has in it: it is written, or refused by the name of a field."""

import json
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from zuebee.dialects.gemini.converter import GeminiConverter
from zuebee.dialects.hub.canonical import (
    ChatMessage,
    ChatRequest,
    Declined,
    FunctionCall,
    FunctionTool,
    Malformed,
    Media,
    NotCarried,
    Omissions,
    Opaque,
    Part,
    Reasoning,
    ResponseFormat,
    Text,
    Thinking,
    ToolChoice,
    ToolResult,
)

WORDS = st.text(max_size=8)
IDS = st.sampled_from(["", "a", "b", "call_0"])
NAMES = st.sampled_from(["", "f", "g"])
CACHE = st.sampled_from([b"", b'{"type":"ephemeral"}'])
SCHEMA = st.sampled_from([b"", b"{}", b'{"type":"object"}'])
SIGNATURES = st.sampled_from(["", "gemini:", "gemini:c2ln", "EqoB"])
URLS = st.sampled_from(["", "https://a.b/c.png", "https://a.b", "http://a.b", "gs://a/b", "data:x", "https://a/b.gif"])
KINDS = st.sampled_from(
    ["", "image/png", "image/jpg", "application/octet-stream", "audio/wav", "text/plain; charset=x"]
)
TEXTS = st.builds(Text, WORDS, CACHE)
MEDIA = st.builds(
    Media,
    st.sampled_from(["image", "document", "audio"]),
    KINDS,
    st.sampled_from(["", "iVBOR", "AA"]),
    URLS,
    WORDS,
    WORDS,
    CACHE,
)
OPAQUE = st.builds(
    Opaque,
    st.sampled_from(["openai", "anthropic", "gemini"]),
    st.sampled_from([b"{}", b"1", b'{"a":[1]}']),
    WORDS,
    WORDS,
)
CALLS = st.builds(
    FunctionCall, IDS, NAMES, st.one_of(st.sampled_from(["", "{}", '{"a":1}', "[", "null"]), WORDS), SIGNATURES, CACHE
)
RESULTS = st.builds(ToolResult, IDS, st.lists(TEXTS | MEDIA | OPAQUE, max_size=3), st.booleans(), NAMES, CACHE)
PARTS: st.SearchStrategy[Part] = st.one_of(
    TEXTS, MEDIA, OPAQUE, CALLS, RESULTS, st.builds(Thinking, WORDS, SIGNATURES, WORDS), st.builds(Declined, WORDS)
)
ROLES = st.sampled_from(["system", "user", "assistant", "tool"])
MESSAGES = st.lists(st.builds(ChatMessage, ROLES, st.lists(PARTS, max_size=4), WORDS), max_size=6)
MODELS = st.sampled_from(["gemini-2.5-pro", "gemini-3-flash", "gemini-1.5-pro", "gemma", "", "gemini-flash-latest"])
MODES = st.sampled_from(["auto", "none", "required", "named"])
EFFORTS = st.sampled_from(["", "none", "minimal", "low", "medium", "high", "xhigh", "max"])
REASONING = st.builds(
    Reasoning, st.none() | st.booleans(), EFFORTS, st.none() | st.integers(-2, 10**9), st.booleans(), st.booleans()
)
REQUESTS = st.builds(
    ChatRequest,
    st.sampled_from(["openai", "anthropic"]),
    MODELS,
    MESSAGES,
    temperature=st.none() | st.floats(0, 2),
    stop=st.lists(WORDS, max_size=7),
    n=st.integers(0, 3),
    tools=st.lists(
        st.builds(FunctionTool, NAMES, WORDS, SCHEMA, st.none() | st.booleans(), CACHE) | OPAQUE, max_size=3
    ),
    tool_choice=st.none() | st.builds(ToolChoice, MODES, NAMES),
    response_format=st.none() | st.builds(ResponseFormat, SCHEMA),
    reasoning=st.none() | REASONING,
    extra=st.dictionaries(WORDS, st.just(b"{}"), max_size=2),
)
ROLES_THERE = ("user", "model")


@settings(max_examples=200, deadline=None)
@given(REQUESTS)
def test_any_conversation_is_written_or_refused_by_name(request: ChatRequest) -> None:
    try:
        body = json.loads(GeminiConverter().write_request(request, Omissions()))
    except NotCarried as refused:
        said = refused.field
        assert said
        return
    check(body)


def check(body: Any) -> None:
    roles = [turn["role"] for turn in body["contents"]]
    assert roles
    assert all(role in ROLES_THERE for role in roles)
    assert all(one != other for one, other in pairwise(roles))
    for turn in body["contents"]:
        assert turn["parts"]
        for part in turn["parts"]:
            assert isinstance(part.get("functionCall", {}).get("args", {}), dict)


OWN = st.lists(TEXTS | CALLS | st.builds(Thinking, WORDS, SIGNATURES, WORDS) | st.builds(Declined, WORDS), max_size=4)
ASKED = st.lists(TEXTS | st.just(Media("image", "image/png", "iVBOR")), max_size=2)


@st.composite
def talks(draw: st.DrawFn) -> list[ChatMessage]:
    """Turns as clients have them: each call has its result in the turn behind it."""
    messages = [ChatMessage("user", [Text("Hi")])]
    for index, own in enumerate(draw(st.lists(OWN, max_size=4))):
        calls = [part for part in own if isinstance(part, FunctionCall)]
        for number, call in enumerate(calls):
            call.id, call.name = f"{draw(IDS)}{index}_{number}", f"tool{index}{number}"
        messages.append(ChatMessage("assistant", [*own]))
        messages += [
            ChatMessage("tool", [ToolResult(call.id, [Text(call.name)])]) for call in draw(st.permutations(calls))
        ]
        messages.append(ChatMessage("user", [*draw(ASKED)]))
    return messages


@settings(max_examples=150, deadline=None)
@given(talks(), MODELS)
def test_a_talk_with_tools_is_always_written_and_results_find_their_calls(talk: list[ChatMessage], model: str) -> None:
    body = json.loads(GeminiConverter().write_request(ChatRequest("openai", model, talk), Omissions()))
    check(body)
    before: list[str] = []
    for turn in body["contents"]:
        called = [part["functionCall"]["name"] for part in turn["parts"] if "functionCall" in part]
        found = [part["functionResponse"] for part in turn["parts"] if "functionResponse" in part]
        assert all(each["response"] == {"output": each["name"]} for each in found)
        if turn["role"] == "user":
            assert sorted(each["name"] for each in found) == sorted(before)
        before = called
    texts = [part.text for each in talk for part in each.parts if isinstance(part, Text | Declined) and part.text]
    told = [
        part["text"]
        for turn in body["contents"]
        for part in turn["parts"]
        if "thought" not in part and part.get("text")
    ]
    assert told == texts


TEXT_ONLY = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text(min_size=1, max_size=9)), min_size=1)


@settings(max_examples=100, deadline=None)
@given(TEXT_ONLY)
def test_no_word_of_a_conversation_is_lost(said: list[tuple[Any, str]]) -> None:
    messages = [ChatMessage(role, [Text(text)]) for role, text in said]
    body = json.loads(GeminiConverter().write_request(ChatRequest("openai", "gemini-3-pro", messages), Omissions()))
    told = [(turn["role"], part["text"]) for turn in body["contents"] for part in turn["parts"]]
    assert told == [("model" if role == "assistant" else role, text) for role, text in said]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 10**20) | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "candidates",
                    "content",
                    "parts",
                    "text",
                    "functionCall",
                    "args",
                    "error",
                    "index",
                    "thought",
                    "usageMetadata",
                    "promptTokenCount",
                    "finishReason",
                    "promptFeedback",
                    "blockReason",
                    "message",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        JSON | st.builds(lambda parts: {"candidates": [{"content": {"parts": parts}}]}, st.lists(JSON)), max_size=4
    )
)
def test_any_json_is_an_answer_a_stream_an_error_or_malformed(events: list[Any]) -> None:
    converter = GeminiConverter()
    reader = converter.stream_reader()
    for event in events:
        data = json.dumps(event).encode()
        assert converter.read_error(500, data).status == 500
        for read in (converter.read_answer, lambda each: reader.read("", each)):
            try:
                read(data)
            except Malformed:
                continue
    reader.end()
