"""PURE. The head of a request to a backend: request line and header lines, as bytes."""

from zuebee.contracts.inference import Job
from zuebee.models.base_url import BaseUrl
from zuebee.models.caller_lines import PREFIX, caller_lines
from zuebee.models.headers import AllowList, upstream_lines


class RequestHead:
    """Builds the heads of one backend's requests from parts that never change.

    `tell_caller`: each says on whose behalf it comes, and how long the gateway waits for the answer (`timeout_s`).
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None,
        headers: dict[str, str],
        forward_headers: list[str],
        authority: str,
        request_prefix: bytes,
        proxy_lines: bytes,
        tell_caller: bool = False,
        timeout_s: float = 0.0,
    ) -> None:
        self._base = BaseUrl(url)
        self._prefix = request_prefix
        self._tells_caller = tell_caller
        fields = {"host": authority, "accept-encoding": "identity"}
        if api_key:
            fields["authorization"] = f"Bearer {api_key}"
        # What the operator says replaces what the gateway would say.
        fields |= {name.lower(): value for name, value in headers.items()}
        own = frozenset(name.encode() for name in fields)
        # What the gateway says, of the caller, too, no caller can say of itself.
        self._allowed = AllowList(
            forward_headers, but=lambda name: name in own or (tell_caller and name.startswith(PREFIX))
        )
        lines = [f"{name}: {value}".encode("latin-1") for name, value in fields.items()]
        if tell_caller:
            lines.append(b"%btimeout-ms: %d" % (PREFIX, timeout_s * 1000))
        self._lines = b" HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n" + proxy_lines
        self._paths: dict[str, bytes] = {}

    def _path(self, path: str) -> bytes:
        return self._prefix + self._base.path(path)

    def post(self, job: Job, body_bytes: int) -> bytes:
        """The head of a job's request."""
        path = self._paths.get(job.path)
        if path is None:
            path = self._paths[job.path] = b"POST " + self._path(job.path)
        if query := self._base.queried(job.query):
            path += b"?" + query
        fields = self._fields(job)
        if self._tells_caller:
            fields += caller_lines(job)
        return b"".join(
            (path, self._lines, b"x-request-id: ", job.request_id.encode(), b"\r\n", fields,
             b"content-length: %d\r\n\r\n" % body_bytes)
        )  # fmt: skip

    def _fields(self, job: Job) -> bytes:
        memory = job.memory
        if memory is None:
            return upstream_lines(job.headers, self._allowed)
        if (fields := memory.get(self)) is None:
            fields = memory[self] = upstream_lines(job.headers, self._allowed)
        return fields

    def get(self, path: str, method: str = "GET") -> bytes:
        """The head of a request without a body."""
        query = b"?" + self._base.query if self._base.query else b""
        return b"%b %b%b%b\r\n" % (method.encode(), self._path(path), query, self._lines)
