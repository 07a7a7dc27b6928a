import base64
import hmac
from hashlib import sha256

import pytest

from zuebee.config.validate_policies import signing_secret
from zuebee.usage.webhook import signature

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def accepts(secret: str, headers: dict[str, str], body: bytes, now_s: float) -> bool:
    """A receiver as Standard Webhooks describes it."""
    if abs(now_s - int(headers["webhook-timestamp"])) > 300:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    right = base64.b64encode(hmac.new(key, signed, sha256).digest()).decode()
    given = [each.partition(",") for each in headers["webhook-signature"].split(" ")]
    return any(version == "v1" and hmac.compare_digest(text, right) for version, _, text in given)


def test_the_example_of_the_standard() -> None:
    body = b'{"test": 2432232314}'
    made = signature([signing_secret(SECRET)], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_two_secrets_while_rotating() -> None:
    new = "whsec_" + base64.b64encode(b"n" * 32).decode()
    body = b"{}"
    both = signature([signing_secret(new), signing_secret(SECRET)], "id", 1000, body)
    headers = {"webhook-id": "id", "webhook-timestamp": "1000", "webhook-signature": both}
    assert accepts(new, headers, body, 1010)
    assert accepts(SECRET, headers, body, 1010)
    assert not accepts("whsec_" + base64.b64encode(b"x" * 32).decode(), headers, body, 1010)
    assert not accepts(new, headers, b"{ }", 1010)
    assert not accepts(new, {**headers, "webhook-id": "other"}, body, 1010)
    assert not accepts(new, headers, body, 2000)


@pytest.mark.parametrize("text", ["", "whsec_", "not base64!", "whsec_" + base64.b64encode(b"x" * 23).decode()])
def test_a_secret_that_is_none_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        signing_secret(text)
    assert len(text) < 8 or text not in str(error.value)
