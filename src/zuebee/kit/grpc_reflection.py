"""What clients can ask of a gRPC listener about itself: `grpc.reflection.v1`, and `v1alpha`, as older ones call it.

Both are the same messages under two names, and Google's package for Python knows only the older one.
"""

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2

OLD = "grpc.reflection.v1alpha"
NEW = "grpc.reflection.v1"
SERVICE = f"{NEW}.ServerReflection"


def add_reflection(server: Any, services: Iterable[str]) -> None:
    """Let clients of a server ask about these services, and about reflection itself."""
    pool = descriptor_pool.Default()
    _know_new_name(pool)
    names = (*services, reflection.SERVICE_NAME, SERVICE)
    reflection.enable_server_reflection(names, server, pool)
    method = grpc.stream_stream_rpc_method_handler(
        reflection.aio.ReflectionServicer(names, pool=pool).ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"ServerReflectionInfo": method}),))


def _know_new_name(pool: Any) -> None:
    """Who asks what the service is that answers gets its description."""
    try:
        pool.FindServiceByName(SERVICE)
    except KeyError:
        new = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(new)
        new.name, new.package = "grpc/reflection/v1/reflection.proto", NEW
        new.ClearField("options")
        for service in new.service:
            for method in service.method:
                method.input_type = method.input_type.replace(OLD, NEW)
                method.output_type = method.output_type.replace(OLD, NEW)
        for message in new.message_type:
            for field in filter(lambda each: each.type_name, message.field):
                field.type_name = field.type_name.replace(OLD, NEW)
        pool.AddSerializedFile(new.SerializeToString())
