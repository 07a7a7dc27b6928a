from zuebee.contracts.usage import RECORD_COLUMNS
from zuebee.schema.tables import usage_records
from zuebee.usage import outbox

RECORD = {
    "request_id": "req_1", "at_s": 1_790_000_000.25, "key_id": "key_1", "key_name": "dev", "user_id": "ann",
    "team_id": "ml", "organization_id": "acme", "plan": "gold", "priority": "high", "model": "m", "method": "POST",
    "endpoint": "/v1/chat/completions", "is_stream": 1, "status": 200, "termination_reason": "complete", "code": "",
    "backend": "b", "backend_url": "http://b", "attempts": 1, "prompt_tokens": 7, "completion_tokens": 5,
    "cached_tokens": 2, "usage_source": "provider",
    "cost_nano": 9, "duration_ms": 500.5, "first_token_ms": 101.5, "tags": '["a","b"]',
}  # fmt: skip

# What receivers are told, byte by byte.
TOLD = (
    '{"request_id":"req_1","user_id":"ann","api_key":"key_1","model":"m","prompt_tokens":7,"completion_tokens":5,'
    '"total_tokens":12,"is_stream":true,"endpoint":"/v1/chat/completions","timestamp":"2026-09-21T14:13:20.250Z",'
    '"backend_url":"http://b","method":"POST","path":"/v1/chat/completions","status_code":200,"latency_ms":500,'
    '"key_id":"key_1","key_name":"dev","team_id":"ml","organization_id":"acme","plan":"gold","priority":"high",'
    '"tags":["a","b"],"cached_tokens":2,"usage_source":"provider","termination_reason":"complete","code":"","backend":"b",'
    '"attempts":1,"first_token_ms":102,"cost_nano":9,"currency":"USD"}'
)
NOTHING_KNOWN = ("prompt_tokens", "completion_tokens", "cached_tokens", "usage_source", "first_token_ms")


def test_an_event_says_all_that_a_receiver_is_promised() -> None:
    assert outbox.event([RECORD[name] for name in RECORD_COLUMNS], "USD") == TOLD


def test_where_nothing_is_known_tokens_are_0_and_the_first_token_is_null() -> None:
    values = [None if name in NOTHING_KNOWN else RECORD[name] for name in RECORD_COLUMNS]
    told = outbox.event(values, "EUR")
    assert '"prompt_tokens":0,"completion_tokens":0,"total_tokens":0,' in told
    assert '"cached_tokens":0,"usage_source":"",' in told
    assert '"first_token_ms":null,"cost_nano":9,"currency":"EUR"}' in told


def test_all_that_it_is_made_of_is_in_the_table() -> None:
    named = {column.name for column in usage_records.columns if column.computed is None} - {"id", "currency"}
    assert set(RECORD_COLUMNS) == named
