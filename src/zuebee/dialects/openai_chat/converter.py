"""PURE. Both directions of OpenAI's chat completions."""

from zuebee.contracts.errors import Refusal
from zuebee.dialects.hub.base import StreamReader, StreamWriter
from zuebee.dialects.hub.canonical import ChatAnswer, ChatRequest, Omissions
from zuebee.dialects.openai_chat import answers, errors, read
from zuebee.dialects.openai_chat.parts import NAME
from zuebee.dialects.openai_chat.stream_in import OpenAIStreamReader
from zuebee.dialects.openai_chat.stream_out import OpenAIStreamWriter
from zuebee.dialects.openai_chat.write import ChatRequestWriter


class OpenAIConverter:
    """The converter of this dialect, which most servers speak."""

    name: str = NAME

    def read_request(self, body: bytes) -> ChatRequest:
        return read.read_request(body)

    def write_request(self, request: ChatRequest, notes: Omissions) -> bytes:
        return ChatRequestWriter(request, notes).body()

    def read_answer(self, body: bytes) -> ChatAnswer:
        return answers.read_answer(body)

    def write_answer(self, answer: ChatAnswer, request: ChatRequest) -> bytes:
        return answers.write_answer(answer, request)

    def read_error(self, status: int, body: bytes) -> Refusal:
        return errors.read_error(status, body)

    def stream_reader(self) -> StreamReader:
        return OpenAIStreamReader()

    def stream_writer(self, request: ChatRequest) -> StreamWriter:
        return OpenAIStreamWriter(request)
