"""The head of a client's request, as all rooms know it, and what each made of one that comes again and again."""

from typing import Literal

Operation = Literal["chat", "completions", "embeddings", "count_tokens"]
Dialect = Literal["openai", "anthropic", "gemini"]
"""Whose wire format a body is written in."""


class Caller:
    """Who knocks: what is known before a byte of the body is read.

    `route` is the path as the route table has it, `path` what the caller wrote with its percent-encoding undone,
    `raw_path` and `query` as the caller wrote them. `fields`: the header fields by their name in lower case; of a field
    that was sent several times, the last. `body_sha256` is filled in by whoever verified a signature that covers the
    body: admission compares it with the body (hex). The edge fills in `memo` where the head came before.
    """

    def __init__(
        self,
        method: str,
        route: str,
        fields: dict[bytes, bytes],
        address: str,
        path: str = "",
        query: bytes = b"",
        body_sha256: str = "",
        raw_path: bytes = b"",
    ) -> None:
        self.method = method
        self.route = route
        self.fields = fields
        self.address = address
        self.path = path
        self.query = query
        self.body_sha256 = body_sha256
        self.raw_path = raw_path
        self.memo: HeadMemo | None = None


class HeadMemo:
    """What the rooms made of one head that a client repeats on its connection, so that they need not make it again.

    It belongs to one connection and one head: with another head the connection begins another memo. The same head
    comes with any `content-length`, so nothing here may depend on that field. Each part below has one writer, which
    is also its only reader. A reload may replace a writer while connections live on: each part says how its reader
    sees that it is stale.
    """

    __slots__ = (
        "caller", "caller_by", "client_request_id", "credential", "credential_by", "credential_digest", "dialect",
        "operation", "passed_by", "upstream_lines",
    )  # fmt: skip

    def __init__(self) -> None:
        # The caller, what it wants and how it names its request; by `edge/http.py`. Stale when `caller_by` is another
        # edge, when the caller's fields are not those of the scope (there was another `content-length`), or when its
        # `body_sha256` was filled in, which is of one body.
        self.caller_by: object = None
        self.caller: Caller | None = None
        self.operation: Operation = "chat"
        self.dialect: Dialect = "openai"
        self.client_request_id = ""

        # The credential that the head shows (None: none), and its digest, not what it is worth; by `auth/service.py`.
        # Stale when `credential_by` is another pipeline, which may look into other header fields.
        self.credential_by: object = None
        self.credential: bytes | None = None
        self.credential_digest = ""

        # The firewall that let the head pass, by no rule that looks at more than the head; by `admission/firewall.py`.
        # Another firewall looks again.
        self.passed_by: object = None

        # The header lines that go to backends, by the text of the policy that chose them; by `models/header_policy.py`.
        # Never stale: the same policy chooses the same lines, and one that a reload changed has another text.
        self.upstream_lines: dict[str, bytes] = {}
