"""The messages of the Open Inference Protocol's gRPC service, described here, not generated."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"

KIND = descriptor_pb2.FieldDescriptorProto
TEXT, DATA, TRUTH = KIND.TYPE_STRING, KIND.TYPE_BYTES, KIND.TYPE_BOOL
INT64 = KIND.TYPE_INT64
FIELDS: Mapping[str, Mapping[str, tuple[int, Any]]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": (1, TRUTH)},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": (1, TRUTH)},
    "ModelReadyRequest": {"name": (1, TEXT), "version": (2, TEXT)},
    "ModelReadyResponse": {"ready": (1, TRUTH)},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {
        "name": (1, TEXT), "version": (2, TEXT), "extensions": (3, (TEXT,)),
    },
    "ModelMetadataRequest": {"name": (1, TEXT), "version": (2, TEXT)},
    "TensorMetadata": {"name": (1, TEXT), "datatype": (2, TEXT), "shape": (3, (INT64,))},
    "ModelMetadataResponse": {
        "name": (1, TEXT), "versions": (2, (TEXT,)), "platform": (3, TEXT),
        "inputs": (4, ("TensorMetadata",)), "outputs": (5, ("TensorMetadata",)),
    },
    "InferParameter": {
        "bool_param": (1, TRUTH), "int64_param": (2, INT64), "string_param": (3, TEXT),
        "double_param": (4, KIND.TYPE_DOUBLE), "uint64_param": (5, KIND.TYPE_UINT64),
    },
    "InferTensorContents": {
        "bool_contents": (1, (TRUTH,)), "int_contents": (2, (KIND.TYPE_INT32,)),
        "int64_contents": (3, (INT64,)), "uint_contents": (4, (KIND.TYPE_UINT32,)),
        "uint64_contents": (5, (KIND.TYPE_UINT64,)), "fp32_contents": (6, (KIND.TYPE_FLOAT,)),
        "fp64_contents": (7, (KIND.TYPE_DOUBLE,)), "bytes_contents": (8, (DATA,)),
    },
    "InferTensor": {
        "name": (1, TEXT), "datatype": (2, TEXT), "shape": (3, (INT64,)),
        "contents": (5, "InferTensorContents"),
    },
    "InferRequestedOutputTensor": {"name": (1, TEXT)},
    "ParametersEntry": {"key": (1, TEXT), "value": (2, "InferParameter")},
    "ModelInferRequest": {
        "model_name": (1, TEXT), "model_version": (2, TEXT), "id": (3, TEXT),
        "parameters": (4, ("ParametersEntry",)), "inputs": (5, ("InferTensor",)),
        "outputs": (6, ("InferRequestedOutputTensor",)), "raw_input_contents": (7, (DATA,)),
    },
    "ModelInferResponse": {
        "model_name": (1, TEXT), "model_version": (2, TEXT), "id": (3, TEXT),
        "outputs": (5, ("InferTensor",)), "raw_output_contents": (6, (DATA,)),
    },
}  # fmt: skip
"""Message -> field -> its number and type; a type in a tuple is a list's. On the wire a map is a
list of entries, and a message is known by its fields alone."""


@cache
def messages() -> Mapping[str, Any]:
    """The messages' classes, by name."""
    file = descriptor_pb2.FileDescriptorProto(
        name="kit/inference.proto", package="inference", syntax="proto3"
    )
    for name, fields in FIELDS.items():
        message = file.message_type.add(name=name)
        for field, (number, told) in fields.items():
            label = KIND.LABEL_REPEATED if isinstance(told, tuple) else KIND.LABEL_OPTIONAL
            kind = told[0] if isinstance(told, tuple) else told
            added = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = KIND.TYPE_MESSAGE, f".inference.{kind}"
            else:
                added.type = kind
        if name == "InferParameter":  # one of its fields is set
            message.oneof_decl.add(name="parameter_choice")
            for added in message.field:
                added.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    classes = message_factory.GetMessageClassesForFiles([file.name], pool)
    return {name.rpartition(".")[2]: made for name, made in classes.items()}
