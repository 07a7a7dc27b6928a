"""What the pipeline counted and learned. It outlives the pipelines of a process, so that a reload loses nothing."""

from collections import Counter

from msgspec import Struct

from zuebee.contracts.admission import Caller

PIPELINE = "pipeline"
"""Stands for no source in particular: no key, an unknown key, a failure of the whole."""


class AuthCounters:
    """Plain integers, read when somebody asks.

    `decisions`: by source and `allowed`, `denied` or `error`; as source `pipeline` also `missing` and `unknown`.
    `script_failures`: by source and reason. `asked`: questions to a source that were not answered from memory.
    """

    def __init__(self) -> None:
        self.decisions: Counter[tuple[str, str]] = Counter()
        self.script_failures: Counter[tuple[str, str]] = Counter()
        self.asked: Counter[tuple[str]] = Counter()


# The credentials of running requests, so that they can be asked about again. In memory only, and bounded.

MAX_HANDLES = 20_000


class Handle(Struct, frozen=True):
    """A credential that was admitted, and with what request."""

    key: bytes
    caller: Caller


class Handles:
    """By the credential's SHA-256. Beyond the bound the one that was not used for longest is forgotten: its running
    requests are not asked about again.
    """

    def __init__(self, most: int = MAX_HANDLES) -> None:
        self.kept: dict[str, Handle] = {}
        self._most = most

    def keep(self, digest: str, key: bytes, caller: Caller, *, whole: bool) -> None:
        """Remember a credential. `whole`: with the header fields, for scripts."""
        self.kept.pop(digest, None)
        slim = caller if whole else _without_fields(caller)
        self.kept[digest] = Handle(key, slim)
        if len(self.kept) > self._most:
            del self.kept[next(iter(self.kept))]

    def renew(self, digest: str) -> Handle | None:
        """The handle, now the newest; None if it was forgotten."""
        handle = self.kept.pop(digest, None)
        if handle is not None:
            self.kept[digest] = handle
        return handle


def _without_fields(caller: Caller) -> Caller:
    c = caller
    return Caller(c.method, c.route, {}, c.address, c.path, b"", c.body_sha256, c.raw_path)
