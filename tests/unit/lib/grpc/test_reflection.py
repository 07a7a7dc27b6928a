import grpc.aio
import pytest
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2

from zuebee.lib.grpc.server import NEW, OLD, SERVICE, add_reflection


async def test_both_names_answer_the_same_questions_however_often_a_server_is_made() -> None:
    for _ in range(2):
        server = grpc.aio.server()
        add_reflection(server, ["grpc.health.v1.Health"])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        answers = []
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for version in (NEW, OLD):
                ask = channel.stream_stream(
                    f"/{version}.ServerReflection/ServerReflectionInfo",
                    request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                    response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
                )
                asked = [
                    reflection_pb2.ServerReflectionRequest(list_services=""),
                    reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
                ]
                answers.append([answer async for answer in ask(iter(asked), timeout=10)])
        await server.stop(0)
        assert answers[0] == answers[1]
        listed = {service.name for service in answers[0][0].list_services_response.service}
        assert listed == {"grpc.health.v1.Health", SERVICE, f"{OLD}.ServerReflection"}


@pytest.mark.parametrize("name", ["ServerReflectionRequest", "ServerReflectionResponse", "ServiceResponse"])
async def test_the_new_messages_are_the_old_ones_under_another_name(name: str) -> None:
    add_reflection(grpc.aio.server(), [])
    pool = descriptor_pool.Default()
    new, old = (pool.FindMessageTypeByName(f"{version}.{name}") for version in (NEW, OLD))
    fields = [[(f.number, f.name, f.type) for f in message.fields] for message in (new, old)]
    assert fields[0] == fields[1]
