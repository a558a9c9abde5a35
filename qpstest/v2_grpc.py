"""The Open Inference Protocol's gRPC service, for the tester."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc  # type: ignore[import-untyped]

from deploy.kserve.messages import SERVICE, messages
from handlers.errors import KitError
from qpstest.grpc_api import CHANNEL_OPTIONS, GrpcSession, GrpcTarget
from qpstest.v2_tensor import Tensor

PATIENCE = 5.0
"""Seconds for the metadata."""


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
