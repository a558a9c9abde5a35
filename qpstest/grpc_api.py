"""TorchServe's gRPC inference service, its messages described here instead of generated, and the
session that every gRPC server is asked by."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc  # type: ignore[import-untyped]
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from qpstest.http_api import refusal
from qpstest.load import Reply
from repack.tasks.load_test import JSON, LoadTest

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
        accept: media type of the answers.
        task: says what makes one right.
    """

    address: str
    model: str
    bodies: Sequence[bytes]
    timeout: float
    token: str | None = None
    accept: str = JSON
    task: LoadTest = field(default_factory=LoadTest)

    def sessions(self) -> Callable[[], GrpcSession]:
        """Makes callers whose requests were serialised once, for all of them."""
        request, response = _messages()
        bodies = [
            request(model_name=self.model, input={"data": body}).SerializeToString()
            for body in self.bodies
        ]

        def read(data: bytes) -> bytes:
            return bytes(response.FromString(data).prediction)

        return lambda: GrpcSession(self, METHOD, bodies, read)


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


class GrpcSession:
    """A caller's own channel, that is, its own connection.

    Args:
        target: where requests go.
        method: the full name of the method.
        bodies: serialised requests.
        read: the model's answer in a serialised response.
    """

    def __init__(
        self,
        target: GrpcTarget,
        method: str,
        bodies: Sequence[bytes],
        read: Callable[[bytes], bytes],
    ):
        self._target = target
        self._bodies = bodies
        self._metadata = [("authorization", f"Bearer {target.token}")] if target.token else []
        self._channel = grpc.insecure_channel(target.address, options=CHANNEL_OPTIONS)
        self._predict = self._channel.unary_unary(method, None, read)

    def call(self, number: int) -> Reply:
        """Send body ``number`` (modulo the number of bodies) and read its answer."""
        index = number % len(self._bodies)
        try:
            answer = self._predict(
                self._bodies[index], timeout=self._target.timeout, metadata=self._metadata
            )
        except grpc.RpcError as e:
            return _failure(e)
        return _judge(self._target, index, answer)

    def close(self) -> None:
        self._channel.close()


def _judge(target: GrpcTarget, index: int, answer: bytes) -> Reply:
    """TorchServe's gRPC does not carry an item's status: the answer itself has to be looked at."""
    if answer.startswith(b'{"code"'):
        with contextlib.suppress(ValueError):
            code = json.loads(answer)["code"]
            if isinstance(code, int) and code >= 400:
                return refusal(code, answer)
    wrong = target.task.what_is_wrong(target.accept, answer, target.bodies[index])
    return Reply("", "", answer) if wrong is None else Reply("wrong_answer", wrong)


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
