"""Servers that speak the Open Inference Protocol (v2): KServe and Triton."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote

from deploy.kserve.tensors import DTYPES
from handlers.errors import KitError
from qpstest import server_metrics
from qpstest.agent import Target
from qpstest.http_answer import header
from qpstest.http_api import HttpTarget
from qpstest.options import SERVED, Options, Server
from qpstest.targets import Setup
from qpstest.v2_tensor import Tensor
from qpstest.watch import Observed, Unwatched, Watch

BINARY = "binary_tensor_data"
"""The extension by which tensors follow the JSON part as they are."""
LENGTH = b"inference-header-content-length"


@dataclass(frozen=True)
class V2Wire:
    """Requests over REST: in the binary extension where the server has it, else as JSON."""

    model: str
    tensor: Tensor
    binary: bool
    typed: ClassVar[bool] = False

    @property
    def path(self) -> str:
        return f"/v2/models/{quote(self.model, safe='')}/infer"

    def encode(self, body: bytes) -> tuple[str, bytes]:
        shape, data = self.tensor.pack(body)
        entry: dict[str, Any] = {
            "name": self.tensor.name,
            "shape": shape,
            "datatype": self.tensor.datatype,
        }
        if self.binary:
            entry["parameters"] = {"binary_data_size": len(data)}
            asked = {"inputs": [entry], "parameters": {"binary_data_output": True}}
            head = json.dumps(asked).encode()
            return (
                "Content-Type: application/octet-stream\r\n"
                f"Inference-Header-Content-Length: {len(head)}\r\n",
                head + data,
            )
        if self.tensor.datatype == "BYTES":
            entry["data"] = [base64.b64encode(body).decode("ascii")]
        else:
            import numpy as np

            entry["data"] = np.frombuffer(data, DTYPES[self.tensor.datatype]).tolist()
        return "Content-Type: application/json\r\n", json.dumps({"inputs": [entry]}).encode()

    def decode(self, head: bytes, body: bytes) -> bytes:
        length = header(head, LENGTH)
        size = int(length) if length else len(body)
        try:
            (first, *_) = json.loads(body[:size])["outputs"]
            if first["datatype"] != "BYTES":
                return body[:size]
            if length:
                end = size + 4 + int.from_bytes(body[size : size + 4], "little")
                return body[size + 4 : end]
            return str(first["data"][0]).encode()
        except (ValueError, LookupError, TypeError):
            raise ValueError(f"no v2 answer with outputs ({len(body)} bytes)") from None


class OpenInference:
    """A server of the protocol; its metadata names the model's input.

    Args:
        name: of the kind.
    """

    def __init__(self, name: str):
        self._name = name

    def setup(self, options: Options, bodies: Sequence[bytes]) -> Setup:
        server = options.server
        target = self._grpc(options, bodies) if options.protocol == "grpc" else None
        if target is None:
            extensions = self._get(server, "/v2").get("extensions") or ()
            tensor = first_input(self._model(server, options.name), options.name)
            wire = V2Wire(options.name, tensor, BINARY in extensions)
            tensor.pack(bodies[0])
            target = HttpTarget(
                server.url, wire, bodies, options.timeout, server.token, options.accept,
                options.task,
            )  # fmt: skip
        about = {"protocol": options.protocol, "clients": options.clients}
        return Setup(mode=SERVED, targets=[target] * options.clients, about=about)

    def watch(self, options: Options) -> Watch:
        return Unwatched()

    def task(self, server: Server, model: str) -> str | None:
        return None

    def _grpc(self, options: Options, bodies: Sequence[bytes]) -> Target:
        try:
            from qpstest.v2_grpc import V2GrpcTarget, metadata
        except ImportError as e:
            raise KitError(f"--protocol grpc: {e}: pip install grpcio protobuf") from None
        server = options.server
        inputs = metadata(server.grpc_address, options.name, server.token, self._hint)
        tensor = first_input({"inputs": inputs}, options.name)
        tensor.pack(bodies[0])
        return V2GrpcTarget(
            server.grpc_address, options.name, bodies, options.timeout, server.token,
            options.accept, options.task, tensor=tensor,
        )  # fmt: skip

    @property
    def _hint(self) -> str:
        return f"is the server ({self._name}) running there?"

    def _model(self, server: Server, model: str) -> dict[str, Any]:
        return self._get(server, f"/v2/models/{quote(model, safe='')}", model)

    def _get(self, server: Server, path: str, model: str = "") -> dict[str, Any]:
        """A JSON object of the server's; raises ``KitError``."""
        status, body = server_metrics.fetch(server.url, path, server.token, hint=self._hint)
        if status in (400, 404) and model:
            raise KitError(f"the server at {server.url} has no model {model!r} ({status})")
        with contextlib.suppress(ValueError):
            found = json.loads(body)
            if status == 200 and isinstance(found, dict):
                return found
        raise KitError(
            f"{server.url}{path} answered {status}, {len(body)} bytes: the Open Inference "
            "Protocol's JSON was expected"
        )


class Triton(OpenInference):
    """Triton, whose statistics are the server's stages."""

    def watch(self, options: Options) -> Watch:
        return TritonWatch(options.server, options.name)


class TritonWatch(Unwatched):
    """Looks at Triton's statistics before and after."""

    def __init__(self, server: Server, model: str):
        self._server = server
        self._model = model
        self._before: dict[str, float] = {}

    def begin(self) -> None:
        self._before = self._look()

    def end(self, refused: int, sent: int) -> Observed:
        now = self._look()
        grown = {name: value - self._before.get(name, 0.0) for name, value in now.items()}
        answered = grown.get("success", 0.0)
        if answered <= 0:
            return Observed()
        ms = {
            stage: round(grown[field] / answered / 1e6, 3)
            for stage, field in STAGES.items()
            if field in grown
        }
        executions = grown["executions"]
        return Observed(
            stages_ms=ms,
            server_ms=round(grown["success_ns"] / answered / 1e6, 3),
            items_per_batch=round(grown["inferences"] / executions, 2) if executions else None,
            counts={
                "inferences": round(grown["inferences"]),
                "executions": round(executions),
                "succeeded": round(answered),
            },
        )

    def _look(self) -> dict[str, float]:
        server = self._server
        path = f"/v2/models/{quote(self._model, safe='')}/stats"
        with contextlib.suppress(KitError, ValueError, LookupError, TypeError):
            (entry, *_) = json.loads(
                server_metrics.fetch(server.url, path, server.token)[1]
            )["model_stats"]  # fmt: skip
            found = {
                "inferences": float(entry["inference_count"]),
                "executions": float(entry["execution_count"]),
                "success": float(entry["inference_stats"]["success"]["count"]),
            }
            for name, value in entry["inference_stats"].items():
                found[f"{name}_ns"] = float(value["ns"])
            return found
        return {}


STAGES = {
    "queue": "queue_ns",
    "input": "compute_input_ns",
    "infer": "compute_infer_ns",
    "output": "compute_output_ns",
}
"""The tester's names of Triton's statistics."""


def first_input(model: dict[str, Any], name: str) -> Tensor:
    """The input that the model's metadata names; raises ``KitError`` where there is not one."""
    entries = model.get("inputs") or []
    if len(entries) != 1:
        names = ", ".join(str(e.get("name")) for e in entries) or "none"
        raise KitError(f"model {name!r} has the inputs {names}: exactly one was expected")
    (entry,) = entries
    shape = tuple(int(n) for n in entry["shape"])
    return Tensor(str(entry["name"]), str(entry["datatype"]), shape)
