"""PURE. What a backend is told of the caller, where its settings say so (`tell_caller`).

Values are what operators wrote into keys and accounts, so they can be anything: whatever is not visible ASCII is
percent-encoded (RFC 3986, section 2.1), and so is `%` itself; different values stay different.
"""

from functools import lru_cache
from urllib.parse import quote

from zuebee.contracts.inference import Job, Priority

PREFIX = b"x-zuebee-"
MAX_VALUE_BYTES = 256
MAX_KEPT_CALLERS = 4096

_VISIBLE = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")


def caller_lines(job: Job) -> bytes:
    """Header lines with the user, team, organisation and plan, as far as they are known, and the priority."""
    sender = job.sender
    if sender is None:
        return _lines("", "", "", "", job.priority)
    return _lines(sender.user_id, sender.team_id, sender.organisation_id, sender.plan, job.priority)


@lru_cache(MAX_KEPT_CALLERS)
def _lines(user: str, team: str, organisation: str, plan: str, priority: Priority) -> bytes:
    values = {"user": user, "team": team, "organisation": organisation, "plan": plan, "priority": priority}
    return b"".join(b"%b%b: %b\r\n" % (PREFIX, name.encode(), _safe(text)) for name, text in values.items() if text)


def _safe(text: str) -> bytes:
    safe = b""
    for letter in text:
        piece = quote(letter, safe=_VISIBLE, errors="replace").encode()
        if len(safe) + len(piece) > MAX_VALUE_BYTES:
            break
        safe += piece
    return safe
