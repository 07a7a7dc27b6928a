"""The gRPC listener: who may look around, how it stops, and its certificate."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.support.grpc_peers import SERVICES, Caller, Failure, answered, calling, chunks, failed, grpc_port, hello
from tests.support.processes import Sim, running, simulated, until
from zuebee.protos.llm_pb2 import ChatCompletionRequest


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim")) as process:
        yield process


def config(sim: Sim, **more: Any) -> dict[str, Any]:
    return {
        "backends": [{"url": sim.url}],
        "health_check": {"enabled": False},
        "grpc": {"listen": "127.0.0.1:0", "default_model": "sim-small"},
        **more,
    }


def test_health_and_reflection_need_no_key(sim: Sim, tmp_path: Path) -> None:
    with running(tmp_path, config(sim)) as gateway, calling(gateway, key="") as caller:
        _look_around(caller)


def _look_around(caller: Caller) -> None:
    health = health_pb2_grpc.HealthStub(caller.channel)
    for name in ("", *SERVICES):
        assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == 1
    with pytest.raises(grpc.RpcError) as error:
        health.Check(health_pb2.HealthCheckRequest(service="nonsense"))
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    watch = health.Watch(health_pb2.HealthCheckRequest(service="nonsense"))
    assert next(watch).status == 3
    watch.cancel()
    known = ProtoReflectionDescriptorDatabase(caller.channel)
    reflections = {f"grpc.reflection.{version}.ServerReflection" for version in ("v1", "v1alpha")}
    assert set(known.get_services()) == {*SERVICES, "grpc.health.v1.Health", *reflections}
    assert "ChatCompletionRequest" in str(known.FindFileContainingSymbol("llm.v1.LlmService"))
    for name in reflections:
        described = known.FindFileContainingSymbol(name)
        assert described.package == name.rpartition(".")[0]
        assert described.service[0].method[0].input_type == f".{described.package}.ServerReflectionRequest"


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_new_and_old_clients_can_ask_what_there_is(sim: Sim, tmp_path: Path, version: str) -> None:
    """As grpcurl and Postman do, which ask `v1` first."""
    with running(tmp_path, config(sim)) as gateway, calling(gateway, key="") as caller:
        ask = caller.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        questions = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="llm.v1.LlmService"),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="llm.v1.Nothing"),
        ]
        services, file, nothing = ask(iter(questions), timeout=10)
        assert set(SERVICES) < {service.name for service in services.list_services_response.service}
        assert b"ChatCompletionRequest" in file.file_descriptor_response.file_descriptor_proto[0]
        assert nothing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_reflection_is_a_switch(sim: Sim, tmp_path: Path) -> None:
    quiet = {"listen": "127.0.0.1:0", "reflection": False}
    with running(tmp_path, config(sim, grpc=quiet)) as gateway, calling(gateway) as caller:
        with pytest.raises(grpc.RpcError) as error:
            ProtoReflectionDescriptorDatabase(caller.channel).get_services()
        assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
        without = failed(caller.ask(ChatCompletionRequest(user_prompt="Hello")))
        assert without.details["BadRequest"].field_violations[0].field == "model", "there is no default either"


@pytest.mark.parametrize("drain", ["10s", "0s"])
def test_a_stop_lets_streams_end_or_says_that_it_cuts_them(sim: Sim, tmp_path: Path, drain: str) -> None:
    stopping = config(sim, shutdown={"grace": "2s", "drain": drain})
    with running(tmp_path, stopping) as gateway, calling(gateway) as caller:
        health = health_pb2_grpc.HealthStub(caller.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == 1
        request = hello(max_tokens=150)
        request.extra.update({"sim": {"tokens": 150}})
        call = caller.stream(request)
        next(call)
        gateway.send_signal(signal.SIGTERM)
        assert next(watch).status == 2, "who asks is told that it is not ready"
        answered(caller.ask())  # in the time of grace
        found, failure = chunks(call)
        if drain == "10s":
            assert failure is None
            assert found[-1].completion_tokens == 150
        else:
            assert (failed(failure).status, failed(failure).reason) == ("UNAVAILABLE", "SHUTTING_DOWN")
        assert gateway.wait() == 0
        assert gateway.access_lines()[-1]["termination_reason"] == ("complete" if drain == "10s" else "shutdown")


def test_a_second_gate_on_the_same_port_does_not_start(sim: Sim, tmp_path: Path) -> None:
    with running(tmp_path / "first", config(sim)) as gateway:
        taken = config(sim, grpc={"listen": f"127.0.0.1:{grpc_port(gateway)}"})
        with pytest.raises(AssertionError, match="cannot listen on 127"), running(tmp_path / "second", taken):
            pass


@pytest.mark.parametrize("client_auth", ["none", "require"])
def test_over_tls_with_the_certificate_of_the_listener(sim: Sim, tmp_path: Path, client_auth: str) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    files = {"cert_file": str(tmp_path / "gate.pem"), "key_file": str(tmp_path / "gate.key")}

    def issue() -> None:
        issued = authority.issue_cert("127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(files["cert_file"])
        issued.private_key_pem.write_to_path(files["key_file"])

    issue()
    client = authority.issue_cert("client.example")
    own = client.private_key_pem.bytes(), client.cert_chain_pems[0].bytes()
    shown = grpc.ssl_channel_credentials(authority.cert_pem.bytes(), *own)
    bare = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    tls = {**files, "client_ca_file": str(tmp_path / "ca.pem"), "client_auth": client_auth}
    with running(tmp_path, config(sim, server={"tls": tls})) as gateway:
        with calling(gateway, credentials=shown) as caller:
            answered(caller.ask())
        with calling(gateway, credentials=bare) as caller:
            found = caller.ask(timeout_s=5)
            assert isinstance(found, Failure) == (client_auth == "require")
        with calling(gateway) as caller:
            assert failed(caller.ask(timeout_s=5)).status == "UNAVAILABLE", "nothing is served in the clear"
        authority = trustme.CA()  # from now on nobody else's certificate is good
        issue()
        gateway.send_signal(signal.SIGHUP)
        until(lambda: "configuration reloaded" in gateway.output, "it is reloaded")
        renewed = grpc.ssl_channel_credentials(authority.cert_pem.bytes(), *own)
        with calling(gateway, credentials=renewed) as caller:
            answered(caller.ask())
        with calling(gateway, credentials=shown) as caller:
            assert failed(caller.ask(timeout_s=5)).status == "UNAVAILABLE"


def test_who_does_not_serve_it_does_not_load_it() -> None:
    """0.1 s and 20 MB."""
    loaded = (
        "import sys, zuebee.app.lifecycle; print([m for m in sys.modules if m.partition('.')[0] in ('grpc', 'google')])"
    )
    said = subprocess.run([sys.executable, "-c", loaded], capture_output=True, check=True, text=True).stdout
    assert said.strip() == "[]"
