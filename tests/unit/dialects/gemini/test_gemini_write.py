import json
from typing import Any

import pytest

from zuebee.dialects.gemini.converter import GeminiConverter
from zuebee.dialects.hub.canonical import (
    ChatMessage,
    ChatRequest,
    FunctionCall,
    FunctionTool,
    Media,
    NotCarried,
    Omissions,
    Opaque,
    Reasoning,
    ResponseFormat,
    Text,
    Thinking,
    ToolChoice,
    ToolResult,
)

HELLO = ChatMessage("user", [Text("Hello")])
WEATHER = FunctionTool("weather", "The weather there", b'{"type":"object","properties":{"at":{"type":"string"}}}')
UNSIGNED = "skip_thought_signature_validator"


def written(*messages: ChatMessage, model: str = "gemini-2.5-flash", dialect: str = "openai", **fields: Any) -> Any:
    return noted(*messages, model=model, dialect=dialect, **fields)[0]


def noted(*messages: ChatMessage, model: str = "gemini-2.5-flash", dialect: str = "openai", **fields: Any) -> Any:
    notes = Omissions()
    request = ChatRequest(dialect, model, list(messages or (HELLO,)), **fields)
    return json.loads(GeminiConverter().write_request(request, notes)), notes.dropped


def refused(*messages: ChatMessage, **fields: Any) -> str:
    with pytest.raises(NotCarried) as caught:
        written(*messages, **fields)
    return caught.value.field


def test_a_chat_has_instructions_and_turns_that_alternate() -> None:
    body = written(
        ChatMessage("system", [Text("Be kind.")]),
        ChatMessage("user", [Text("Hi")]),
        ChatMessage("assistant", [Text("Hello!")]),
        ChatMessage("system", [Text("Be short.")]),
        ChatMessage("user", [Text("One")]),
        ChatMessage("user", [Text("two")]),
    )
    assert body == {
        "systemInstruction": {"parts": [{"text": "Be kind.\n\nBe short."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Hi"}]},
            {"role": "model", "parts": [{"text": "Hello!"}]},
            {"role": "user", "parts": [{"text": "One"}, {"text": "two"}]},
        ],
    }


def test_instructions_alone_are_asked_as_a_question() -> None:
    body = written(ChatMessage("system", [Text("Write a poem.")]))
    assert body == {"contents": [{"role": "user", "parts": [{"text": "Write a poem."}]}]}


def test_a_chat_without_words_is_refused() -> None:
    assert refused(ChatMessage("user", [Text("")])) == "messages"


def test_numbers_are_carried_under_geminis_names() -> None:
    body = written(
        max_tokens=100, temperature=0.5, top_p=0.9, top_k=40, stop=["END", ""], n=2, seed=7, presence_penalty=0.5,
        frequency_penalty=0.0, logprobs=True, top_logprobs=3,
    )  # fmt: skip
    assert body["generationConfig"] == {
        "maxOutputTokens": 100,
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 40,
        "stopSequences": ["END"],
        "candidateCount": 2,
        "seed": 7,
        "presencePenalty": 0.5,
        "responseLogprobs": True,
        "logprobs": 3,
    }


def test_too_many_stops_are_refused_by_the_clients_name_of_them() -> None:
    assert written(stop=["a", "b", "c", "d", "e"])["generationConfig"]["stopSequences"] == ["a", "b", "c", "d", "e"]
    assert refused(stop=["a", "b", "c", "d", "e", "f"]) == "stop"
    assert refused(stop=["a", "b", "c", "d", "e", "f"], dialect="anthropic") == "stop_sequences"


def test_json_is_asked_for_with_the_schema_as_it_came() -> None:
    assert written(response_format=ResponseFormat())["generationConfig"] == {"responseMimeType": "application/json"}
    body = written(response_format=ResponseFormat(b'{"type":"object","additionalProperties":false}', "answer"))
    schema = {"type": "object", "additionalProperties": False}
    assert body["generationConfig"] == {"responseMimeType": "application/json", "responseJsonSchema": schema}


def test_what_is_of_other_dialects_is_dropped_and_named() -> None:
    body, dropped = noted(user="me", extra={"logit_bias": b'{"1":2}', "store": b"true"}, parallel_tool_calls=False)
    assert dropped == ["user", "logit_bias", "store"]
    assert body == {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        (ToolChoice("auto"), {"mode": "AUTO"}),
        (ToolChoice("none"), {"mode": "NONE"}),
        (ToolChoice("required"), {"mode": "ANY"}),
        (ToolChoice("named", "weather"), {"mode": "ANY", "allowedFunctionNames": ["weather"]}),
    ],
)
def test_tools_and_which_of_them(choice: ToolChoice, config: dict[str, Any]) -> None:
    body = written(tools=[WEATHER, FunctionTool("now")], tool_choice=choice)
    schema = {"type": "object", "properties": {"at": {"type": "string"}}}
    weather = {"name": "weather", "description": "The weather there", "parametersJsonSchema": schema}
    assert body["tools"] == [{"functionDeclarations": [weather, {"name": "now"}]}]
    assert body["toolConfig"] == {"functionCallingConfig": config}


def test_a_tool_that_is_not_there_cannot_be_chosen() -> None:
    assert refused(tool_choice=ToolChoice("required")) == "tool_choice"
    assert refused(tools=[WEATHER], tool_choice=ToolChoice("named", "other")) == "tool_choice"
    assert "toolConfig" not in written(tool_choice=ToolChoice("auto"))


def test_a_servers_own_tool_is_dropped_and_named() -> None:
    search = Opaque("anthropic", b'{"type":"web_search_20250305"}', "tools[0]", "web_search_20250305")
    body, dropped = noted(tools=[search, WEATHER], dialect="anthropic")
    assert dropped == ["tools[0]"]
    assert len(body["tools"][0]["functionDeclarations"]) == 1


def test_parallel_calls_and_their_results_in_one_turn_each() -> None:
    body = written(
        HELLO,
        ChatMessage("assistant", [FunctionCall("a", "weather", '{"at":"Bern"}'), FunctionCall("b", "now", "")]),
        ChatMessage("tool", [ToolResult("b", [Text("noon")])]),
        ChatMessage("tool", [ToolResult("a", [Text("no such place")], is_error=True)]),
        ChatMessage("user", [Text("Well?")]),
    )
    assert body["contents"][1:] == [
        {
            "role": "model",
            "parts": [
                {"functionCall": {"name": "weather", "args": {"at": "Bern"}, "id": "a"}},
                {"functionCall": {"name": "now", "args": {}, "id": "b"}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "now", "id": "b", "response": {"output": "noon"}}},
                {"functionResponse": {"name": "weather", "id": "a", "response": {"error": "no such place"}}},
                {"text": "Well?"},
            ],
        },
    ]


def test_an_id_that_comes_twice_means_the_call_just_before() -> None:
    body = written(
        HELLO,
        ChatMessage("assistant", [FunctionCall("call_0", "first", "{}")]),
        ChatMessage("tool", [ToolResult("call_0", [Text("1")])]),
        ChatMessage("assistant", [FunctionCall("call_0", "second", "{}")]),
        ChatMessage("tool", [ToolResult("call_0", [Text("2")])]),
    )
    names = [
        turn["parts"][0]["functionResponse"]["name"]
        for turn in body["contents"]
        if "functionResponse" in turn["parts"][0]
    ]
    assert names == ["first", "second"]


def test_a_result_of_an_unknown_call_is_refused_by_its_field() -> None:
    lost = ToolResult("x", [Text("1")])
    assert refused(HELLO, ChatMessage("tool", [lost])) == "messages[1].tool_call_id"
    assert refused(HELLO, ChatMessage("user", [lost]), dialect="anthropic") == "messages[1].content[0].tool_use_id"
    lost.name = "weather"
    assert (
        written(HELLO, ChatMessage("tool", [lost]))["contents"][0]["parts"][0]["functionResponse"]["name"] == "weather"
    )


@pytest.mark.parametrize("arguments", ['{"at":', "[1]", "null", "NaN", "[" * 100_000])
def test_arguments_that_are_no_object_are_told_as_text(arguments: str) -> None:
    body = written(HELLO, ChatMessage("assistant", [FunctionCall("a", "f", arguments)]))
    assert body["contents"][1]["parts"][0]["functionCall"]["args"] == {"arguments": arguments}


def test_a_result_keeps_every_digit_of_its_numbers() -> None:
    said = '{"id": 12345678901234567890}'
    body = written(
        HELLO,
        ChatMessage("assistant", [FunctionCall("a", "f", "{}")]),
        ChatMessage("tool", [ToolResult("a", [Text(said)])]),
    )
    assert body["contents"][2]["parts"][0]["functionResponse"]["response"] == {"output": said}


def test_signatures_go_back_on_the_part_that_they_came_with() -> None:
    body, dropped = noted(
        HELLO,
        ChatMessage(
            "assistant",
            [
                Thinking("Hm.", "gemini:c2ln"),
                Text("Yes."),
                Thinking(signature="gemini:dGV4dA=="),
                FunctionCall("a", "f", "{}", "Y2FsbA=="),
                FunctionCall("b", "f", "{}"),
            ],
        ),
        model="gemini-3-pro-preview",
    )
    assert body["contents"][1]["parts"] == [
        {"text": "Hm.", "thought": True, "thoughtSignature": "c2ln"},
        {"text": "Yes.", "thoughtSignature": "dGV4dA=="},
        {"functionCall": {"name": "f", "args": {}, "id": "a"}, "thoughtSignature": "Y2FsbA=="},
        {"functionCall": {"name": "f", "args": {}, "id": "b"}},
    ]
    assert dropped == []


def test_a_signature_before_its_text_is_still_the_texts() -> None:
    signed = ChatMessage("assistant", [Thinking(signature="gemini:QQ=="), Text("Yes.")])
    assert written(HELLO, signed)["contents"][1]["parts"] == [{"text": "Yes.", "thoughtSignature": "QQ=="}]
    alone = ChatMessage("assistant", [Thinking(signature="gemini:QQ==")])
    assert written(HELLO, alone)["contents"][1]["parts"] == [{"text": "", "thoughtSignature": "QQ=="}]


@pytest.mark.parametrize(
    "model", ["gemini-3-pro-preview", "gemini-3.6-flash", "models/gemini-4-pro", "gemini-flash-latest"]
)
def test_calls_of_other_models_do_not_stop_gemini_3(model: str) -> None:
    turn = ChatMessage("assistant", [FunctionCall("a", "f", "{}"), FunctionCall("b", "f", "{}")])
    parts = written(HELLO, turn, model=model)["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == [UNSIGNED, None]


def test_before_gemini_3_no_signature_is_made_up() -> None:
    parts = written(HELLO, ChatMessage("assistant", [FunctionCall("a", "f", "{}")]))["contents"][1]["parts"]
    assert "thoughtSignature" not in parts[0]


@pytest.mark.parametrize(
    "thought", [Thinking("Hm."), Thinking("Hm.", "EqoBCkgIBRABGAI"), Thinking(redacted="xyz"), Thinking("", "EqoB")]
)
def test_reasoning_of_other_models_is_dropped_and_named(thought: Thinking) -> None:
    body, dropped = noted(HELLO, ChatMessage("assistant", [thought, Text("Yes.")]))
    assert body["contents"][1]["parts"] == [{"text": "Yes."}]
    assert dropped == ["reasoning_content"]
    assert noted(HELLO, ChatMessage("assistant", [thought]), dialect="anthropic")[1] == ["thinking"]


def media(part: Media, **fields: Any) -> Any:
    return written(ChatMessage("user", [part]), **fields)["contents"][0]["parts"][0]


def test_pictures_sounds_and_files() -> None:
    assert media(Media("image", "image/png", "iVBOR")) == {"inlineData": {"mimeType": "image/png", "data": "iVBOR"}}
    assert media(Media("image", "", "/9j/4A"))["inlineData"]["mimeType"] == "image/jpeg"
    assert media(Media("audio", "audio/wav", "UklG"))["inlineData"]["mimeType"] == "audio/wav"
    assert refused(ChatMessage("user", [Media("document", "", "AAAA")])) == "messages[0].content[0]"
    assert refused(ChatMessage("user", [Media("image")])) == "messages[0].content[0]"


def test_a_link_is_a_file_where_gemini_fetches_it() -> None:
    link = Media("image", url="https://example.com/a/cat.PNG?size=2")
    assert media(link) == {"fileData": {"mimeType": "image/png", "fileUri": link.url}}
    plain = Media("image", url="https://example.com")
    assert media(plain) == {"fileData": {"fileUri": "https://example.com"}}
    own = Media("audio", "audio/wav", url="gs://bucket/a.wav")
    assert media(own, model="gemini-2.0-flash")["fileData"]["fileUri"] == "gs://bucket/a.wav"


@pytest.mark.parametrize(
    ("part", "model"),
    [
        (Media("image", url="http://example.com/cat.png"), "gemini-2.5-pro"),
        (Media("image", url="https://example.com/cat.gif"), "gemini-2.5-pro"),
        (Media("audio", "audio/wav", url="https://example.com/a.wav"), "gemini-2.5-pro"),
        (Media("image", url="https://example.com/cat.png"), "gemini-2.0-flash"),
        (Media("image", url="https://example.com/cat.png"), "gemma-3-27b-it"),
    ],
)
def test_a_link_that_gemini_does_not_fetch_is_refused(part: Media, model: str) -> None:
    assert refused(ChatMessage("user", [Text("Look"), part]), model=model) == "messages[0].content[1]"


def test_pictures_in_results() -> None:
    turns = [
        HELLO,
        ChatMessage("assistant", [FunctionCall("a", "f", "{}", "c2ln")]),
        ChatMessage("tool", [ToolResult("a", [Text("here"), Media("image", "image/png", "iVBOR")])]),
    ]
    picture = {"inlineData": {"mimeType": "image/png", "data": "iVBOR"}}
    response = {"name": "f", "id": "a", "response": {"output": "here"}}
    older = written(*turns)["contents"][2]["parts"]
    assert older == [{"functionResponse": response}, picture]
    newer = written(*turns, model="gemini-3-flash-preview")["contents"][2]["parts"]
    assert newer == [{"functionResponse": response | {"parts": [picture]}}]


def test_what_a_caller_asked_is_never_left_out() -> None:
    film = Opaque("openai", b'{"type":"video_url"}', "messages[0].content[1]", "video_url")
    assert refused(ChatMessage("user", [Text("See"), film])) == "messages[0].content[1]"
    search = Opaque("anthropic", b"{}", "messages[1].content[0]", "server_tool_use")
    body, dropped = noted(HELLO, ChatMessage("assistant", [search, Text("Found.")]), dialect="anthropic")
    assert body["contents"][1]["parts"] == [{"text": "Found."}]
    assert dropped == ["messages[1].content[0]"]
    assert refused(HELLO, ChatMessage("assistant", [search]), dialect="anthropic") == "messages[1]"


@pytest.mark.parametrize(
    ("model", "reasoning", "config"),
    [
        ("gemini-2.5-flash", Reasoning(effort="low"), {"includeThoughts": True, "thinkingBudget": 1024}),
        ("gemini-2.5-flash", Reasoning(effort="max"), {"includeThoughts": True, "thinkingBudget": 24576}),
        ("gemini-2.5-flash", Reasoning(effort="none"), {"includeThoughts": False, "thinkingBudget": 0}),
        ("gemini-2.5-flash", Reasoning(True, budget_tokens=0), {"includeThoughts": False, "thinkingBudget": 0}),
        ("gemini-2.5-flash", Reasoning(True), {"includeThoughts": True, "thinkingBudget": -1}),
        ("gemini-2.5-flash-lite", Reasoning(True, budget_tokens=1), {"includeThoughts": True, "thinkingBudget": 512}),
        ("gemini-2.5-pro", Reasoning(True, budget_tokens=10**6), {"includeThoughts": True, "thinkingBudget": 32768}),
        (
            "gemini-2.5-pro",
            Reasoning(effort="high", visible=False),
            {"includeThoughts": False, "thinkingBudget": 24576},
        ),
        ("gemini-3-pro-preview", Reasoning(effort="minimal"), {"includeThoughts": True, "thinkingLevel": "low"}),
        ("gemini-3-pro-preview", Reasoning(effort="medium"), {"includeThoughts": True, "thinkingLevel": "high"}),
        ("gemini-3.1-pro", Reasoning(effort="medium"), {"includeThoughts": True, "thinkingLevel": "medium"}),
        ("gemini-3-flash", Reasoning(effort="minimal"), {"includeThoughts": True, "thinkingLevel": "minimal"}),
        ("gemini-3-flash", Reasoning(True, budget_tokens=4096), {"includeThoughts": True, "thinkingLevel": "medium"}),
        ("gemini-4-flash", Reasoning(effort="xhigh"), {"includeThoughts": True, "thinkingLevel": "high"}),
        ("gemini-3-flash", Reasoning(True, adaptive=True), {"includeThoughts": True}),
    ],
)
def test_reasoning_is_asked_for_as_the_models_generation_takes_it(
    model: str, reasoning: Reasoning, config: dict[str, Any]
) -> None:
    body, dropped = noted(model=model, reasoning=reasoning)
    assert body["generationConfig"]["thinkingConfig"] == config
    assert dropped == []


def test_reasoning_that_cannot_be_turned_off_is_the_least_and_named() -> None:
    body, dropped = noted(model="gemini-2.5-pro", reasoning=Reasoning(effort="none"))
    assert body["generationConfig"]["thinkingConfig"] == {"includeThoughts": False, "thinkingBudget": 128}
    assert dropped == ["reasoning_effort"]
    body, dropped = noted(model="gemini-3-pro", reasoning=Reasoning(False), dialect="anthropic")
    assert body["generationConfig"]["thinkingConfig"] == {"includeThoughts": False, "thinkingLevel": "low"}
    assert dropped == ["thinking"]


def test_models_that_do_not_reason_are_not_asked_to() -> None:
    for model in ("gemma-3-27b-it", "gemini-1.5-pro"):
        body, dropped = noted(model=model, reasoning=Reasoning(effort="high"))
        assert "generationConfig" not in body
        assert dropped == ["reasoning_effort"]


def test_a_mark_for_the_cache_is_dropped_and_named() -> None:
    mark = b'{"type":"ephemeral"}'
    body, dropped = noted(
        ChatMessage("user", [Text("Hi", mark)]), tools=[FunctionTool("f", cache=mark)], dialect="anthropic"
    )
    assert body["contents"] == [{"role": "user", "parts": [{"text": "Hi"}]}]
    assert dropped == ["cache_control"]
