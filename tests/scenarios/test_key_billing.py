"""Keys that a billing service knows, asked over gRPC."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from tests.support.grpc_peers import billing_service
from tests.support.key_stores import KEY, line, said
from zuebee.auth.service import UNAVAILABLE
from zuebee.contracts.admission import Principal
from zuebee.contracts.errors import Refusal
from zuebee.protos.auth_pb2 import ValidateKeyRequest, ValidateKeyResponse

GOOD = ValidateKeyResponse(valid=True, user_id="ann", plan="gold", balance=10.5)


def detailed(**details: Any) -> ValidateKeyResponse:
    answer = ValidateKeyResponse()
    answer.CopyFrom(GOOD)
    answer.details.update(details)
    return answer


def billing(address: str, more: str = "") -> str:
    return f"{{type: billing, billing: {{addr: '{address}'{more}}}}}"


@pytest.mark.requirement("A050")
@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (GOOD, "ann"),
        (detailed(status="active"), "ann"),
        (detailed(status="disabled"), "key_disabled"),
        (detailed(allowed_ips=["11.0.0.0/8"]), "ip_not_allowed"),
        (detailed(allowed_ips=["10.0.0.0/8"]), "ann"),
        (detailed(expires_at="2020-01-01T00:00:00Z"), "key_expired"),
        (detailed(total_quota=5, used_quota=5), "quota_exceeded"),
        (detailed(allowed_ips="nonsense"), "auth_unavailable"),
        (detailed(total_quota=float("inf")), "auth_unavailable"),
        (detailed(balance=0), "ann"),  # the field counts, not what is called so beside it
        (ValidateKeyResponse(valid=True, user_id="ann", balance=0.0), "insufficient_balance"),
        (ValidateKeyResponse(valid=True, user_id="ann", balance=-3.5), "insufficient_balance"),
        (ValidateKeyResponse(valid=True, user_id="ann", balance=float("nan")), "auth_unavailable"),
        (ValidateKeyResponse(valid=True, user_id="a\nb", balance=1), "auth_unavailable"),
        (ValidateKeyResponse(valid=False, user_id="ann", balance=1), "invalid_api_key"),
        (ValidateKeyResponse(), "invalid_api_key"),
        (b"", "invalid_api_key"),
        (b"\x08", "auth_unavailable"),
        (b"\x12" + b"\xff" * 3, "auth_unavailable"),
        (ValidateKeyResponse(valid=True, user_id="u" * 70_000, balance=1), "auth_unavailable"),
        (grpc.StatusCode.NOT_FOUND, "invalid_api_key"),
        (grpc.StatusCode.PERMISSION_DENIED, "access_denied"),
        (grpc.StatusCode.UNAUTHENTICATED, "auth_unavailable"),
        (grpc.StatusCode.UNAVAILABLE, "auth_unavailable"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "auth_unavailable"),
        (grpc.StatusCode.UNIMPLEMENTED, "auth_unavailable"),
        (grpc.StatusCode.INTERNAL, "auth_unavailable"),
    ],
)
async def test_only_a_valid_key_with_a_balance_is_admitted(answer: Any, outcome: str) -> None:
    async def validate(request: ValidateKeyRequest) -> Any:
        assert request.api_key == KEY
        return answer

    async with billing_service(validate) as address:
        pipeline = line(billing(address))
        found = await said(pipeline, KEY)
        assert (found.code if isinstance(found, Refusal) else found.user_id) == outcome
        await pipeline.aclose()


@pytest.mark.requirement("A050")
async def test_it_says_who_calls_and_what_they_may() -> None:
    async def validate(request: ValidateKeyRequest) -> Any:
        return detailed(team="blue", organization="acme", priority="high", models=["m*"], requests_per_minute=7)

    async with billing_service(validate) as address:
        pipeline = line(billing(address))
        principal = await said(pipeline, KEY)
        assert isinstance(principal, Principal)
        assert (principal.user_id, principal.plan, principal.team_id) == ("ann", "gold", "blue")
        assert (principal.organization_id, principal.priority, principal.models) == ("acme", "high", ("m*",))
        assert [(limit.kind, limit.amount, limit.window_s) for limit in principal.limits] == [("requests", 7, 60)]
        await pipeline.aclose()


@pytest.mark.requirement("A050")
async def test_a_service_without_balances_is_taken_at_its_word() -> None:
    async def validate(request: ValidateKeyRequest) -> Any:
        return ValidateKeyResponse(valid=True, user_id="ann")

    async with billing_service(validate) as address:
        strict, lenient = line(billing(address)), line(billing(address, ", check_balance: false"))
        assert (await said(strict, KEY)).code == "insufficient_balance"
        assert (await said(lenient, KEY)).user_id == "ann"
        await strict.aclose()
        await lenient.aclose()


@pytest.mark.requirement("A050")
async def test_the_method_and_the_metadata_are_the_operators() -> None:
    heard: list[Any] = []

    async def validate(request: ValidateKeyRequest) -> Any:
        return GOOD

    async with billing_service(validate, method="billing.BillingService/ValidateKey", heard=heard) as address:
        named = line(billing(address, ", method: /billing.BillingService/ValidateKey, headers: {x-token: s3cret}"))
        assert (await said(named, KEY)).user_id == "ann"
        assert heard[0]["x-token"] == "s3cret"
        await named.aclose()
        other = line(billing(address))
        assert await said(other, KEY) is UNAVAILABLE, "a service without the method says nothing of a key"
        await other.aclose()


@pytest.mark.requirement("A050")
async def test_the_next_source_is_asked_for_a_key_that_it_does_not_know_and_for_no_other() -> None:
    answers = {KEY: ValidateKeyResponse(valid=False), "sk-off-0001": detailed(status="disabled")}

    async def validate(request: ValidateKeyRequest) -> Any:
        return answers.get(request.api_key, grpc.StatusCode.UNAVAILABLE)

    async with billing_service(validate) as address:
        lua = "{type: lua, script: {script: 'return true'}}"
        pipeline = line(f"{billing(address)}, {lua}")
        assert isinstance(await said(pipeline, KEY), Principal)
        assert (await said(pipeline, "sk-off-0001")).code == "key_disabled"
        assert await said(pipeline, "sk-else-0001") is UNAVAILABLE
        await pipeline.aclose()


async def test_one_question_serves_all_who_ask_at_once_and_its_answer_is_kept() -> None:
    asked = 0

    async def validate(request: ValidateKeyRequest) -> Any:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.05)
        return GOOD

    async with billing_service(validate) as address:
        pipeline = line(billing(address))
        found = await asyncio.gather(*(said(pipeline, KEY) for _ in range(50)))
        assert {each.user_id for each in found} == {"ann"}
        assert (await said(pipeline, KEY)).user_id == "ann"
        assert asked == 1
        await pipeline.aclose()
        fresh = line(billing(address), auth=", cache: 0s")
        for _ in range(3):
            await said(fresh, KEY)
        assert asked == 4  # the positive control
        await fresh.aclose()


@pytest.mark.requirement("A050")
async def test_a_service_that_is_late_or_gone_admits_nobody_and_is_found_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def late(request: ValidateKeyRequest) -> Any:
        await asyncio.sleep(5)
        return GOOD

    async def prompt(request: ValidateKeyRequest) -> Any:
        return GOOD

    async with billing_service(late) as address:
        pipeline = line(billing(address, ", timeout: 100ms"), auth=", cache: 0s")
        assert await said(pipeline, KEY) is UNAVAILABLE
        assert "key source billing failed: deadline_exceeded" in caplog.text
    assert await said(pipeline, KEY) is UNAVAILABLE
    assert "key source billing failed: unavailable" in caplog.text
    assert KEY not in caplog.text
    async with billing_service(prompt, port=int(address.rpartition(":")[2])):
        for _ in range(100):
            found = await said(pipeline, KEY)
            if isinstance(found, Principal):
                break
            await asyncio.sleep(0.1)
        assert isinstance(found, Principal), "it is asked again once it is back"
    await pipeline.aclose()


@pytest.mark.requirement("A050")
async def test_what_the_service_says_of_a_failure_stays_inside(caplog: pytest.LogCaptureFixture) -> None:
    async def validate(request: ValidateKeyRequest) -> Any:
        return grpc.StatusCode.INTERNAL  # its message quotes the key

    async with billing_service(validate) as address:
        pipeline = line(billing(address))
        assert await said(pipeline, KEY) is UNAVAILABLE
        await pipeline.aclose()
    assert "key source billing failed: internal" in caplog.text
    assert KEY not in caplog.text


@pytest.mark.requirement("A050")
async def test_over_tls_both_sides_show_who_they_are(tmp_path: Path) -> None:
    authority = trustme.CA()
    service, gate = authority.issue_cert("billing.internal"), authority.issue_cert("gate.internal")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    gate.cert_chain_pems[0].write_to_path(str(tmp_path / "gate.pem"))
    gate.private_key_pem.write_to_path(str(tmp_path / "gate.key"))
    pair = (service.private_key_pem.bytes(), service.cert_chain_pems[0].bytes())
    credentials = grpc.ssl_server_credentials([pair], authority.cert_pem.bytes(), require_client_auth=True)

    async def validate(request: ValidateKeyRequest) -> Any:
        return GOOD

    shown = f"cert_file: {tmp_path}/gate.pem, key_file: {tmp_path}/gate.key"
    trusted = f"ca_file: {tmp_path}/ca.pem, server_name: billing.internal"
    async with billing_service(validate, credentials=credentials) as address:
        for tls, outcome in (
            (f", tls: {{{trusted}, {shown}}}", "ann"),
            (f", tls: {{{trusted}}}", "auth_unavailable"),
            (f", tls: {{ca_file: {tmp_path}/ca.pem, {shown}}}", "auth_unavailable"),  # not the name it was asked for
            (f", tls: {{server_name: billing.internal, {shown}}}", "auth_unavailable"),  # an unknown authority
            ("", "auth_unavailable"),  # in the clear
        ):
            pipeline = line(billing(address, tls + ", timeout: 1s"))
            found = await said(pipeline, KEY)
            assert (found.code if isinstance(found, Refusal) else found.user_id) == outcome, tls
            await pipeline.aclose()
