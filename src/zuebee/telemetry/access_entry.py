"""The shape of a line of the access log."""

import msgspec


class AccessEntry(msgspec.Struct):
    """What the access log says of one request."""

    time: str
    request_id: str
    client_request_id: str
    key: str
    user: str
    team: str
    organization: str
    plan: str
    priority: str
    address: str
    method: str
    path: str
    model: str
    stream: bool
    status: int
    termination_reason: str
    code: str
    backend: str
    attempts: int
    prompt_tokens: int | None
    completion_tokens: int | None
    tokens: int | None
    cost_nano: int
    usage_source: str | None
    request_bytes: int
    response_bytes: int
    duration_ms: float
    first_token_ms: float | None
