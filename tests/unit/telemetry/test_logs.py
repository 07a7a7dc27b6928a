import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zuebee.config.settings import LogSettings
from zuebee.contracts.admission import Principal, Settlement
from zuebee.contracts.inference import Usage
from zuebee.telemetry.access_log import AccessLog, access_line
from zuebee.telemetry.logs import JsonFormatter, TextFormatter, redact, set_up

KEY = "sk-llmproxy-0123456789abcdefghij"


def settled(**changes: Any) -> Settlement:
    fields: dict[str, Any] = {
        "request_id": "req_1",
        "method": "POST",
        "route": "/v1/chat/completions",
        "address": "10.0.0.1",
        "at_s": 1_800_000_000.125,
        "status": 200,
        "termination_reason": "complete",
        "principal": Principal("key_1", "mine", "me"),
        "model": "m",
        "usage": Usage(7, 5, "provider"),
        "duration_s": 0.0123456,
    }
    return Settlement(**{**fields, **changes})


@pytest.mark.requirement("A105", "A252")
def test_an_access_line() -> None:
    entry = json.loads(access_line(settled(first_token_s=0.002)))
    assert entry["time"] == "2027-01-15T08:00:00.125Z"
    assert (entry["key"], entry["user"], entry["model"], entry["status"]) == ("mine", "me", "m", 200)
    assert (entry["prompt_tokens"], entry["completion_tokens"], entry["usage_source"]) == (7, 5, "provider")
    assert (entry["duration_ms"], entry["first_token_ms"]) == (12.346, 2.0)
    assert json.loads(access_line(settled(usage=None)))["prompt_tokens"] is None


FIELDS = ("request_id", "client_request_id", "address", "method", "route", "model", "code", "backend")
NASTY = ["\n", "\r\n", "\x00\x1b[31m", "\u2028\u2029\x85", '"},{"', "\\", "é😀", "x" * (1 << 20)]


@pytest.mark.requirement("A105")
@pytest.mark.parametrize("text", NASTY, ids=lambda text: ascii(text)[:20])
def test_an_access_line_is_one_line_whatever_stands_in_it(text: str) -> None:
    line = access_line(settled(**dict.fromkeys(FIELDS, text), principal=Principal(text, text, text)))
    check_line(line)
    assert json.loads(line)["method"] == text


@given(st.dictionaries(st.sampled_from(FIELDS), st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_text_makes_one_line(fields: dict[str, str]) -> None:
    check_line(access_line(settled(**fields)))


def check_line(line: bytes) -> None:
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert not any(byte < 32 for byte in line[:-1])
    assert isinstance(json.loads(line), dict)


def test_what_a_client_chooses_is_cut() -> None:
    long = "x" * (1 << 20)
    assert len(access_line(settled(model=long, client_request_id=long))) < 2000


@pytest.mark.requirement("A105")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"key {KEY} is bad", "key sk-*** is bad"),
        (f"authorization: Bearer {KEY}", "authorization: Bearer ***"),
        ("Bearer eyJhbGciOi.J9-x_y/z+==", "Bearer ***"),
        (f"({KEY}) '{KEY}'", "(sk-***) 'sk-***'"),
        (f"a {KEY}\nb {KEY}", "a sk-***\nb sk-***"),
        ("the bearer of news", "the bearer of news"),
        ("risk-averse", "risk-averse"),
        ("", ""),
    ],
)
def test_what_looks_like_a_key_is_not_shown(text: str, shown: str) -> None:
    assert redact(text) == shown


def record(message: str, *arguments: object, failure: Exception | None = None) -> logging.LogRecord:
    trace = None
    if failure is not None:
        try:
            raise failure
        except Exception:
            trace = sys.exc_info()
    return logging.LogRecord("zuebee.x", logging.WARNING, "f.py", 1, message, arguments, trace)


def test_the_process_log_as_json() -> None:
    line = JsonFormatter().format(record("%s\nfailed", KEY, failure=ValueError(KEY)))
    entry = json.loads(line)
    assert "\n" not in line
    assert (entry["level"], entry["logger"], entry["message"]) == ("warning", "zuebee.x", "sk-***\nfailed")
    assert "ValueError: sk-***" in entry["trace"]
    assert KEY not in line


def test_the_process_log_as_text() -> None:
    assert TextFormatter().format(record("a %s", KEY)).endswith("Z WARNING a sk-***")
    assert KEY not in TextFormatter().format(record("x", failure=ValueError(KEY)))


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_the_process_log_goes_where_the_settings_say(tmp_path: Path, root_logger: logging.Logger) -> None:
    path = tmp_path / "process.log"
    set_up(LogSettings(level="warn", format="json", output=str(path)))
    logging.getLogger("zuebee.x").info("too fine")
    logging.getLogger("zuebee.x").warning("seen")
    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == ["seen"]
    with pytest.raises(OSError, match="No such file"):
        set_up(LogSettings(output=str(tmp_path / "no" / "folder")))


@pytest.mark.requirement("A105")
def test_the_access_log_has_a_line_for_each_request(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    first = AccessLog(str(path))
    first.record(settled(request_id="before"))
    first.close()
    log = AccessLog(str(path))
    for n in range(500):
        log.record(settled(request_id=f"req_{n}"))
    log.close()
    before, *lines = path.read_bytes().splitlines()
    assert b'"before"' in before
    assert [json.loads(line)["request_id"] for line in lines] == [f"req_{n}" for n in range(500)]
    assert log.dropped == 0
    assert path.stat().st_mode & 0o007 == 0


def test_an_access_log_that_cannot_be_written_loses_lines_and_counts_them() -> None:
    log = AccessLog("/dev/full")
    for _ in range(3):
        log.record(settled())
    log.close()
    assert log.dropped == 3


def test_an_access_log_that_cannot_be_opened_says_so_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=os.strerror(2)):
        AccessLog(str(tmp_path / "no" / "folder"))
