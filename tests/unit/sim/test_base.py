import json

import pytest

from zuebee.sim.base import SimRefused, SimRequest, error_reply


def test_a_path_has_no_query_and_headers_give_their_first_value() -> None:
    request = SimRequest(method="GET", target=b"/a?b=c?d", headers=[(b"x", b"1"), (b"x", b"2")], body=b"", connection=1)
    assert (request.path, request.header(b"x"), request.header(b"y")) == ("/a", "1", None)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, "NotFoundError"), (429, "RateLimitError"), (418, "BadRequestError"), (599, "InternalServerError")],
)
def test_errors_say_their_status_and_kind(status: int, kind: str) -> None:
    error = json.loads(error_reply(status, "Why.", param="p").body)["error"]
    assert error == {"message": "Why.", "type": kind, "param": "p", "code": status}


def test_a_refusal_becomes_a_reply() -> None:
    assert SimRefused(404, "No.").reply.status == 404
