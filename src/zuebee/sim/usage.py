"""PURE. Usage figures as JSON, honest or hostile."""

from zuebee.sim.faults import UsageKind

_HOSTILE: dict[UsageKind, bytes | None] = {
    "negative": b'{"prompt_tokens":-5,"total_tokens":-12,"completion_tokens":-7}',
    "huge": b'{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}' % (2**63, 2**64, 2**63),
    "string": b'{"prompt_tokens":"12","total_tokens":"19","completion_tokens":"seven"}',
    "float": b'{"prompt_tokens":12.5,"total_tokens":1e300,"completion_tokens":6.5}',
    "null": b"null",
    "missing": None,
}


def usage_json(prompt_tokens: int, completion_tokens: int, hostile: UsageKind | None) -> bytes | None:
    """Return the usage object; None when there is to be none at all."""
    if hostile is not None:
        return _HOSTILE[hostile]
    total = prompt_tokens + completion_tokens
    return b'{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}' % (
        prompt_tokens,
        total,
        completion_tokens,
    )
