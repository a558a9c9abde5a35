"""TorchServe's gRPC inference service, its messages described here instead of generated."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc  # type: ignore[import-untyped]
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from qpstest.http_api import refusal, what_is_wrong_with_json
from qpstest.load import Reply

PACKAGE = "org.pytorch.serve.grpc.inference"
METHOD = f"/{PACKAGE}.InferenceAPIsService/Predictions"
OVERLOADED = "no worker to serve inference request"
"""What TorchServe says, with the status INTERNAL, when its queue is full."""
CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
KINDS = {
    grpc.StatusCode.INVALID_ARGUMENT: "400",
    grpc.StatusCode.UNAUTHENTICATED: "401",
    grpc.StatusCode.PERMISSION_DENIED: "403",
    grpc.StatusCode.NOT_FOUND: "404",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "413",
    grpc.StatusCode.CANCELLED: "499",
    grpc.StatusCode.INTERNAL: "500",
    grpc.StatusCode.UNIMPLEMENTED: "501",
    grpc.StatusCode.DEADLINE_EXCEEDED: "timeout",
    grpc.StatusCode.UNAVAILABLE: "503",
}


@dataclass(frozen=True)
class GrpcTarget:
    """Where requests go and what they carry.

    Attributes:
        address: ``host:port`` of the gRPC inference port.
        model: its registered name.
        bodies: one request each.
        timeout: seconds for a request.
        token: sent as ``authorization: Bearer``, where given.
    """

    address: str
    model: str
    bodies: Sequence[bytes]
    timeout: float
    token: str | None = None


def _messages() -> tuple[Any, Any]:
    """The classes PredictionsRequest and PredictionResponse."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="qpstest/inference.proto", package=PACKAGE, syntax="proto3"
    )
    request = file.message_type.add(name="PredictionsRequest")
    entry = request.nested_type.add(name="InputEntry")
    entry.options.map_entry = True
    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    text, data, message = field.TYPE_STRING, field.TYPE_BYTES, field.TYPE_MESSAGE
    entry.field.add(name="key", number=1, label=one, type=text)
    entry.field.add(name="value", number=2, label=one, type=data)
    request.field.add(name="model_name", number=1, label=one, type=text)
    request.field.add(name="model_version", number=2, label=one, type=text)
    inner = f".{PACKAGE}.PredictionsRequest.InputEntry"
    request.field.add(name="input", number=3, label=many, type=message, type_name=inner)
    response = file.message_type.add(name="PredictionResponse")
    response.field.add(name="prediction", number=1, label=one, type=data)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    classes = message_factory.GetMessageClassesForFiles([file.name], pool)
    return classes[f"{PACKAGE}.PredictionsRequest"], classes[f"{PACKAGE}.PredictionResponse"]


def sessions(target: GrpcTarget) -> Callable[[], GrpcSession]:
    """Makes callers whose requests were serialised once, for all of them."""
    request, response = _messages()
    bodies = [
        request(model_name=target.model, input={"data": body}).SerializeToString()
        for body in target.bodies
    ]
    return lambda: GrpcSession(target, bodies, response)


class GrpcSession:
    """A caller's own channel, that is, its own connection.

    Args:
        target: where requests go.
        bodies: serialised requests.
        response: the class PredictionResponse.
    """

    def __init__(self, target: GrpcTarget, bodies: Sequence[bytes], response: Any):
        self._bodies = bodies
        self._timeout = target.timeout
        self._metadata = [("authorization", f"Bearer {target.token}")] if target.token else []
        self._channel = grpc.insecure_channel(target.address, options=CHANNEL_OPTIONS)
        self._predict = self._channel.unary_unary(METHOD, None, response.FromString)

    def call(self, number: int) -> Reply:
        """Send body ``number`` (modulo the number of bodies) and read its answer."""
        body = self._bodies[number % len(self._bodies)]
        try:
            answer = self._predict(body, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as e:
            return _failure(e)
        return _judge(bytes(answer.prediction))

    def close(self) -> None:
        self._channel.close()


def _judge(answer: bytes) -> Reply:
    """TorchServe's gRPC does not carry an item's status: the answer itself has to be looked at."""
    wrong = what_is_wrong_with_json(answer)
    if wrong is not None:
        return Reply("wrong_answer", wrong)
    if answer.startswith(b'{"code"'):
        fields = json.loads(answer)
        if isinstance(fields["code"], int) and fields["code"] >= 400:
            return refusal(fields["code"], answer)
    return Reply("", "", answer)


def _failure(error: grpc.RpcError) -> Reply:
    details = str(error.details() or "") if isinstance(error, grpc.Call) else str(error)
    code = error.code() if isinstance(error, grpc.Call) else None
    line = details.strip().splitlines()[0][:160] if details.strip() else str(code)
    if OVERLOADED in details:
        return Reply("overload", line)
    if code is grpc.StatusCode.UNAVAILABLE and "refused" in details:
        return Reply("refused", line)
    if code is grpc.StatusCode.UNAVAILABLE and "Prediction failed" not in details:
        return Reply("reset", line)
    return Reply(KINDS.get(code, "grpc"), f"{code.name}: {line}" if code else line)
