"""Asks a server of the Open Inference Protocol as its users do: by the clients that others wrote.

The file is also the program that runs in an environment with ``tritonclient``: JSON on stdin, JSON
on stdout.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PACKAGES = ("tritonclient[http,grpc]==2.73.0",)


@dataclass(frozen=True)
class Answered:
    """Of one request: a value for each item, or the error's own words."""

    bodies: list[bytes] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True)
class Asker:
    """tritonclient, by HTTP or gRPC.

    Args:
        python: of an environment with ``PACKAGES``.
        urls: address by protocol, "http" and "grpc".
    """

    python: Path
    urls: Mapping[str, str]

    def ask(
        self, protocol: str, model: str, bodies: Sequence[bytes], **parameters: str
    ) -> Answered:
        """One request with as many items as bodies."""
        asked = {
            "do": "infer",
            "model": model,
            "bodies": [base64.b64encode(b).decode() for b in bodies],
            "parameters": {k.replace("_", "-"): v for k, v in parameters.items()},
        }
        told = self.run(protocol, asked)
        if "error" in told:
            return Answered(error=told["error"])
        answers = [base64.b64decode(b) for b in told["ANSWER"]]
        headers = [json.loads(base64.b64decode(h)) for h in told["HEADERS"]]
        return Answered(answers, told["STATUS"], headers)

    def run(self, protocol: str, asked: Mapping[str, Any]) -> Any:
        """What the program says of one job."""
        done = subprocess.run(
            [str(self.python), __file__, protocol, self.urls[protocol]],
            input=json.dumps(asked), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def main(protocol: str, url: str) -> None:  # in the other environment
    """Does one job."""
    import importlib

    module = importlib.import_module(f"tritonclient.{protocol}")
    job = json.load(sys.stdin)
    client = module.InferenceServerClient(url)
    try:
        print(json.dumps(globals()[job.pop("do")](module, client, **job)))
    except importlib.import_module("tritonclient.utils").InferenceServerException as e:
        print(json.dumps({"error": str(e)}))


def infer(
    module: Any, client: Any, model: str, bodies: list[str], parameters: dict[str, str]
) -> dict[str, Any]:
    """Files in, answers out."""
    import numpy as np

    given = module.InferInput("BODY", [len(bodies), 1], "BYTES")
    rows = [base64.b64decode(b) for b in bodies]
    given.set_data_from_numpy(np.array(rows, dtype=np.object_)[:, None])
    answer = client.infer(model, [given], parameters=parameters or None)
    found: dict[str, Any] = {"STATUS": answer.as_numpy("STATUS")[:, 0].tolist()}
    for name in ("ANSWER", "HEADERS"):
        column = answer.as_numpy(name)[:, 0].tolist()
        found[name] = [base64.b64encode(b).decode() for b in column]
    return found


def about(module: Any, client: Any, model: str) -> dict[str, Any]:
    """What the server says of itself and of a model."""
    told: Any = client.get_model_metadata(model)
    if not isinstance(told, dict):
        import google.protobuf.json_format as messages

        told = messages.MessageToDict(told)
    specs = {
        key: [[i["name"], i["datatype"], [int(n) for n in i["shape"]]] for i in told[key]]
        for key in ("inputs", "outputs")
    }
    ready = {"live": client.is_server_live(), "ready": client.is_server_ready()}
    return {
        **ready, "model ready": client.is_model_ready(model), "versions": told["versions"], **specs
    }  # fmt: skip


def tensors(
    module: Any,
    client: Any,
    model: str,
    values: Any,
    binary: bool,
    datatype: str = "FP32",
    shape: list[int] | None = None,
) -> dict[str, Any]:
    """The input ``x`` in, the output ``y`` out."""
    import numpy as np

    array = np.array(values, np.float32 if datatype == "FP32" else np.float64)
    array = array.reshape(shape or array.shape)
    given = module.InferInput("x", list(array.shape), datatype)
    more = {"binary_data": binary} if module.__name__.endswith("http") else {}
    given.set_data_from_numpy(array, **more)
    wanted = module.InferRequestedOutput("y", **more)
    return {"y": client.infer(model, [given], outputs=[wanted]).as_numpy("y").tolist()}


def parse_config(module: Any, client: Any, text: str) -> dict[str, Any]:
    """A ``config.pbtxt`` as Triton's own published message reads it."""
    import importlib

    message = importlib.import_module("tritonclient.grpc.model_config_pb2").ModelConfig()
    importlib.import_module("google.protobuf.text_format").Parse(text, message)
    told = importlib.import_module("google.protobuf.json_format").MessageToDict(message)
    return dict(told)


if __name__ == "__main__":
    main(*sys.argv[1:])
