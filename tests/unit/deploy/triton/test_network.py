"""A model whose network is another model of the same Triton."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.triton.__main__ import main
from handlers import runtimes
from tests.support import made, triton_stub
from tests.support.triton_stub import Failed, InferenceRequest, Response, asked


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of ``made.tensors()``, its table of runtimes as it was afterwards."""
    flags = ["--repository", str(tmp_path), "--native", "--instances", "1"]
    assert main([str(made.tensors()), *flags]) == 0
    text = (tmp_path / "tiny" / "config.pbtxt").read_text()
    (line,) = (line for line in text.splitlines() if "outputs" in line)
    network = json.loads(line.partition(": ")[2])
    for name, value in runtimes.RUNTIMES.items():
        monkeypatch.setitem(runtimes.RUNTIMES, name, value)
    parameters = {"threads": {"string_value": "1"}, "network": {"string_value": network}}
    return triton_stub.loaded(tmp_path / "tiny", monkeypatch, parameters=parameters)


def npy(rows: int) -> bytes:
    out = io.BytesIO()
    np.save(out, np.full((rows, 3, 8, 8), rows, np.float32))
    return out.getvalue()


def test_the_handler_asks_the_network_and_answers(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploy.triton.network import Network  # which imports what only Triton has

    seen: list[InferenceRequest] = []

    def network(request: InferenceRequest) -> Response:
        seen.append(request)
        (x,) = request.inputs
        return Response({"y": np.repeat(x.values[:, :1], 4, axis=1) + 1})

    monkeypatch.setattr(InferenceRequest, "answer", staticmethod(network), raising=False)
    (response,) = model.execute([asked(npy(1))])
    answer = json.loads(response.named("ANSWER")[0])
    assert np.unique(answer["outputs"]["y"]["data"]) == [2.0]
    assert answer["runtime"] == {"name": "onnxruntime", "precision": "f32", "fallback": None}
    assert {request.model_name for request in seen} == {"tiny_network"}
    assert list(seen[0].requested_output_names) == ["y"]
    seen.clear()
    (response,) = model.execute([asked(npy(3))])
    data = np.array(json.loads(response.named("ANSWER")[0])["outputs"]["y"]["data"])
    assert data.shape == (3, 4, 8, 8)
    assert [len(request.inputs[0].values) for request in seen] == [3]
    monkeypatch.setattr(Network, "told", {**Network.told, "most": 2})  # of a model with batches
    (parted,) = model.execute([asked(npy(3))])
    assert parted.named("ANSWER") == response.named("ANSWER")
    assert [len(request.inputs[0].values) for request in seen] == [3, 2, 1]


def test_a_network_that_fails_is_a_fault_of_the_server(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def network(request: InferenceRequest) -> Response:
        return Response({}, Failed("no such model"))

    monkeypatch.setattr(InferenceRequest, "answer", staticmethod(network), raising=False)
    (response,) = model.execute([asked(npy(1))])
    assert response.error.code == triton_stub.TritonError.INTERNAL
