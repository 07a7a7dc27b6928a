"""PURE. How a request ended, in the words of its record."""

from typing import Final, NamedTuple

from zuebee.contracts.admission import Ending, Settlement
from zuebee.contracts.errors import CLIENT_LEFT
from zuebee.contracts.inference import End, Usage


class Conclusion(NamedTuple):
    """An ending, and the code of what went wrong."""

    ending: Ending
    code: str


_COMPLETE: Final = Conclusion("complete", "")
_REFUSED: Final = Conclusion("refused", "backend_error")
_LEFT: Final = Conclusion("client_gone", CLIENT_LEFT.code)


def ending_of(end: End) -> Ending:
    """What came of a reply that is not whole."""
    match end.cause:
        case "timeout":
            return "timeout"
        case "none":
            return "refused"
        case _:
            return "upstream_broken"


def may_have_begun(end: End) -> bool:
    """Whether a backend may have worked on what it did not answer: it had the request, and did not say no."""
    return end.sent and end.cause in ("timeout", "gone", "died", "broken")


def prompt_only(settlement: Settlement) -> Usage:
    """The backend may have read the prompt; nobody can say what that cost."""
    grant = settlement.grant
    return Usage(0 if grant is None else grant.prompt_tokens, 0, "estimate")


def conclusion(end: End, status: int, *, client_gone: bool) -> Conclusion:
    """The ending and the code of an answer that had begun with this status."""
    if end.refusal is not None:
        return Conclusion(ending_of(end), end.refusal.code)
    if status >= 400:
        return _REFUSED
    return _LEFT if client_gone else _COMPLETE
