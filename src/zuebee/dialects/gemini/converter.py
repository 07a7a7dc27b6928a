"""PURE. Google's Gemini as a backend: requests written for it (`generateContent`), its answers and errors read."""

from msgspec import UnsetType

from zuebee.contracts.errors import Refusal
from zuebee.dialects.gemini import errors
from zuebee.dialects.gemini.shapes import (
    NAME,
    CallIds,
    CandidateSaid,
    GeminiAnswer,
    GeminiPart,
    GeminiUsageSoFar,
    answer_decoder,
    logprobs_json,
    stop_of,
    told_reason,
)
from zuebee.dialects.gemini.stream import GeminiStreamReader
from zuebee.dialects.gemini.write import GeminiRequestWriter
from zuebee.dialects.hub.base import StreamReader
from zuebee.dialects.hub.canonical import (
    SIGNED_BY_GEMINI,
    AnswerChoice,
    ChatAnswer,
    ChatRequest,
    FunctionCall,
    Malformed,
    Media,
    Omissions,
    Opaque,
    Part,
    Text,
    Thinking,
)


class GeminiConverter:
    """Talks to Gemini. No client speaks this dialect."""

    name: str = NAME

    def write_request(self, request: ChatRequest, notes: Omissions) -> bytes:
        return GeminiRequestWriter(request, notes).body()

    def read_answer(self, body: bytes) -> ChatAnswer:
        try:
            said = answer_decoder.decode(body)
        except (ValueError, RecursionError) as error:
            raise Malformed(f"The answer is not valid: {error}") from None
        choices = [_choice(candidate, said) for candidate in _in_order(said)]
        if not choices:
            if not said.blocked:
                raise Malformed("The answer has no candidates.", "candidates")
            choices = [AnswerChoice([], "content_filter")]
        usage = GeminiUsageSoFar().take(said.usage_metadata)
        return ChatAnswer(said.response_id or "", said.model_version or "", choices, usage)

    def read_error(self, status: int, body: bytes) -> Refusal:
        return errors.read_error(status, body)

    def stream_reader(self) -> StreamReader:
        return GeminiStreamReader()


def _in_order(said: GeminiAnswer) -> list[CandidateSaid]:
    found = list(said.candidates or ())
    if all(candidate.index is not None for candidate in found):
        found.sort(key=lambda candidate: candidate.index or 0)
    return found


def _choice(candidate: CandidateSaid, said: GeminiAnswer) -> AnswerChoice:
    parts = candidate.content.parts or [] if candidate.content is not None else []
    given = {part.function_call.id for part in parts if part.function_call is not None and part.function_call.id}
    ids = CallIds(said.response_id, given)
    calls = 0
    found: list[Part] = []
    for part in parts:
        if (call := part.function_call) is not None:
            signature = part.thought_signature or ""
            found.append(FunctionCall(ids.of(call, calls), call.name or "", call.arguments, signature))
            calls += 1
        else:
            _add(found, part)
    reason = told_reason("", candidate.finish_reason)
    return AnswerChoice(found, stop_of(reason, calls=calls > 0), "", logprobs_json(candidate.logprobs_result))


def _add(found: list[Part], part: GeminiPart) -> None:
    """What a part says, joined with what it goes on."""
    signature = SIGNED_BY_GEMINI + part.thought_signature if part.thought_signature else ""
    last = found[-1] if found else None
    if part.thought and part.text:
        if isinstance(last, Thinking) and not last.signature:
            last.text += part.text
            last.signature = signature
        else:
            found.append(Thinking(part.text, signature))
        return
    if part.text:
        if isinstance(last, Text):
            last.text += part.text
        else:
            found.append(Text(part.text))
    elif (blob := part.inline_data or part.file_data) is not None:
        kind, _, _ = (blob.mime_type or "").partition("/")
        media = "image" if kind == "image" else "audio" if kind == "audio" else "document"
        found.append(Media(media, blob.mime_type or "", blob.data or "", blob.file_uri or ""))  # type: ignore[arg-type]
    else:
        run = {"executableCode": part.executable_code, "codeExecutionResult": part.code_execution_result}
        for name, raw in run.items():
            if not isinstance(raw, UnsetType):
                found.append(Opaque(NAME, b'{"' + name.encode() + b'":' + bytes(raw) + b"}", "content.parts", name))
    if signature:  # of the text before it
        found.append(Thinking(signature=signature))
