"""KServe's own clients; this file is the program that runs in an environment with ``kserve``.

It prints what they were answered, as JSON.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("kserve==0.21.0",)


def asked(python: Path, url: str, grpc: str, model: str, picture: Path) -> dict[str, Any]:
    """What KServe's clients were answered.

    Args:
        python: of an environment with ``PACKAGES``.
        url: ``http://host:port``.
        grpc: ``host:port``.
    """
    command = [str(python), __file__, url, grpc, model, str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


async def main(url: str, grpc: str, model: str, path: str) -> dict[str, Any]:
    """In the other environment."""
    import numpy as np

    kserve: Any = importlib.import_module("kserve")
    types: Any = importlib.import_module("kserve.protocol.infer_type")
    picture = Path(path).read_bytes()

    def request(binary: bool) -> Any:
        given = types.InferInput("BODY", [1, 1], "BYTES")
        value = picture if binary else base64.b64encode(picture)
        given.set_data_from_numpy(np.array([[value]], dtype=np.object_), binary_data=binary)
        return types.InferRequest(model_name=model, infer_inputs=[given])

    def text(response: Any) -> str:
        value = response.outputs[0].as_numpy().reshape(-1)[0]
        return str(value.decode() if isinstance(value, bytes) else value)

    found: dict[str, Any] = {}
    for protocol in ("v1", "v2"):
        rest = kserve.InferenceRESTClient(kserve.RESTConfig(protocol=protocol))
        found[f"{protocol} model ready"] = await rest.is_model_ready(url, model)
        if protocol == "v2":
            found["v2 server ready"] = await rest.is_server_ready(url)
            found["v2 server live"] = await rest.is_server_live(url)
            for binary in (False, True):
                answer = await rest.infer(url, request(binary), model_name=model)
                found[f"v2 binary {binary}"] = text(answer)
        else:
            b64 = base64.b64encode(picture).decode()
            found["v1"] = await rest.infer(url, {"instances": [{"b64": b64}]}, model_name=model)
        await rest.close()
    client = kserve.InferenceGRPCClient(grpc)
    found["grpc server ready"] = await client.is_server_ready()
    found["grpc model ready"] = await client.is_model_ready(model)
    found["grpc"] = text(await client.infer(request(True)))
    await client.close()
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
