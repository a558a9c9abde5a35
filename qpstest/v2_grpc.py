"""The Open Inference Protocol's gRPC service, its messages described here instead of generated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import grpc  # type: ignore[import-untyped]
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from handlers.errors import KitError
from qpstest.grpc_api import CHANNEL_OPTIONS, GrpcSession, GrpcTarget
from qpstest.v2_tensor import Tensor

SERVICE = "inference.GRPCInferenceService"
PATIENCE = 5.0
"""Seconds for the metadata."""


@cache
def messages() -> dict[str, Any]:
    """The classes of the messages that are needed, by name."""
    kind = descriptor_pb2.FieldDescriptorProto
    one, many = kind.LABEL_OPTIONAL, kind.LABEL_REPEATED
    text, data, number = kind.TYPE_STRING, kind.TYPE_BYTES, kind.TYPE_INT64
    file = descriptor_pb2.FileDescriptorProto(
        name="qpstest/v2.proto", package="inference", syntax="proto3"
    )

    def message(name: str, fields: Mapping[str, tuple[int, Any, Any]]) -> None:
        added = file.message_type.add(name=name)
        for field_name, (position, label, of) in fields.items():
            if isinstance(of, str):
                added.field.add(
                    name=field_name, number=position, label=label,
                    type=kind.TYPE_MESSAGE, type_name=f".inference.{of}",
                )  # fmt: skip
            else:
                added.field.add(name=field_name, number=position, label=label, type=of)

    tensor = {"name": (1, one, text), "datatype": (2, one, text), "shape": (3, many, number)}
    message("ModelMetadataRequest", {"name": (1, one, text)})
    message("TensorMetadata", tensor)
    message("ModelMetadataResponse", {"inputs": (4, many, "TensorMetadata")})
    message("InferTensorContents", {"bytes_contents": (8, many, data)})
    message("InferTensor", {**tensor, "contents": (5, one, "InferTensorContents")})
    message("ModelInferRequest", {
        "model_name": (1, one, text), "inputs": (5, many, "InferTensor"),
        "raw_input_contents": (7, many, data),
    })  # fmt: skip
    message("ModelInferResponse", {
        "outputs": (5, many, "InferTensor"), "raw_output_contents": (6, many, data),
    })  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    classes = message_factory.GetMessageClassesForFiles([file.name], pool)
    return {name.split(".")[-1]: made for name, made in classes.items()}


def metadata(address: str, model: str, token: str | None, hint: str) -> list[dict[str, Any]]:
    """Name, datatype and shape of the model's inputs; raises ``KitError``."""
    known = messages()
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        ask = channel.unary_unary(
            f"/{SERVICE}/ModelMetadata", None, known["ModelMetadataResponse"].FromString
        )
        try:
            answer = ask(
                known["ModelMetadataRequest"](name=model).SerializeToString(),
                timeout=PATIENCE,
                metadata=[("authorization", f"Bearer {token}")] if token else [],
            )
        except grpc.RpcError as e:
            code, said = e.code(), str(e.details() or "").splitlines()
            line = said[0][:160] if said else ""
            if code is grpc.StatusCode.NOT_FOUND:
                raise KitError(f"the server at {address} has no model {model!r}: {line}") from None
            raise KitError(f"no gRPC answer at {address}: {hint} ({code.name}: {line})") from None
    return [{"name": i.name, "datatype": i.datatype, "shape": list(i.shape)} for i in answer.inputs]


@dataclass(frozen=True)
class V2GrpcTarget(GrpcTarget):
    """A v2 server's gRPC port and the model's input."""

    tensor: Tensor = field(kw_only=True)

    def sessions(self) -> Callable[[], GrpcSession]:
        known = messages()
        bodies = []
        for body in self.bodies:
            shape, data = self.tensor.pack(body)
            entry = {"name": self.tensor.name, "datatype": self.tensor.datatype, "shape": shape}
            bodies.append(
                known["ModelInferRequest"](
                    model_name=self.model, inputs=[entry], raw_input_contents=[data]
                ).SerializeToString()
            )
        response = known["ModelInferResponse"]

        def read(data: bytes) -> bytes:
            return first_output(response.FromString(data))

        return lambda: GrpcSession(self, f"/{SERVICE}/ModelInfer", bodies, read)


def first_output(answer: Any) -> bytes:
    """The answer's first output: a file's bytes, or for arrays a line of JSON about them."""
    if not answer.outputs:
        return b""
    first = answer.outputs[0]
    if first.datatype != "BYTES":
        size = len(answer.raw_output_contents[0]) if answer.raw_output_contents else 0
        return b'{"bytes": %d}' % size
    if answer.raw_output_contents:
        raw = answer.raw_output_contents[0]
        return bytes(raw[4 : 4 + int.from_bytes(raw[:4], "little")])
    return bytes(first.contents.bytes_contents[0]) if first.contents.bytes_contents else b""
