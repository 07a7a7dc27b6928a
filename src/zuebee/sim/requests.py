"""PURE. A request as it came over the wire."""

from dataclasses import dataclass

from zuebee.sim.replies import Headers


@dataclass(slots=True, kw_only=True)
class Request:
    """One request: the header names are lower case, the target is as it was sent."""

    method: str
    target: bytes
    headers: Headers
    body: bytes
    connection: int
    """The number of the connection, counted from 1."""
    keep_alive: bool = True
    chunks: bool = True
    """Whether the client understands the chunked coding (HTTP/1.1)."""

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition(b"?")[0].decode("latin-1")

    def header(self, name: bytes) -> str | None:
        """Return the first value of a header, or None."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return None
