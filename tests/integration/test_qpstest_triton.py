"""The tester against a real Triton."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import triton

ROOT = Path(__file__).resolve().parents[2]
SLEEP = 0.02
CONFIG = """
name: "echo"
backend: "python"
input [{name: "BODY" data_type: TYPE_STRING dims: [1]}]
output [{name: "ANSWER" data_type: TYPE_STRING dims: [1]}]
instance_group [{count: 1 kind: KIND_CPU}]
"""
MODEL = f"""
import time
import numpy as np
import triton_python_backend_utils as backend
class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            size = len(backend.get_input_tensor_by_name(request, "BODY").as_numpy()[0])
            time.sleep({SLEEP})
            answer = np.array([b'{{"bytes": %d}}' % size], dtype=object)
            answers.append(backend.InferenceResponse([backend.Tensor("ANSWER", answer)]))
        return answers
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[triton.Triton]:
    """With a model that sleeps, then answers how many bytes came."""
    repository = tmp_path_factory.mktemp("triton") / "models"
    (repository / "echo" / "1").mkdir(parents=True)
    (repository / "echo" / "config.pbtxt").write_text(CONFIG)
    (repository / "echo" / "1" / "model.py").write_text(MODEL)
    with triton.serving(repository) as found:
        yield found


def ask(server: triton.Triton, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, str(ROOT / "qpstest"), "--server", "triton", "--url", server.url,
        "--grpc-port", str(server.grpc_port), *map(str, arguments),
    ]  # fmt: skip
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("load", [("--concurrency", 2), ("--rate", 20)], ids=["closed", "open"])
def test_its_statistics_are_the_servers_stages(
    server: triton.Triton, protocol: str, load: tuple[str, int], tmp_path: Path
) -> None:
    out = tmp_path / "figures.json"
    done = ask(server, "--name", "echo", "--protocol", protocol, *load, "--duration", 3,
               "--json", out)  # fmt: skip
    assert done.returncode == 0, done.stderr
    run: dict[str, Any]
    (run,) = json.loads(out.read_text())["runs"]
    assert run["errors"] == {}
    assert run["server_counts"]["executions"] == pytest.approx(run["requests"], abs=30)
    stages = run["stages_ms"]
    assert 1e3 * SLEEP <= stages["infer"] < run["latency_ms"]["mean"]
    if load[0] == "--concurrency":
        assert stages["queue"] > 0.5 * 1e3 * SLEEP  # one instance, two callers
        assert run["throughput"] < 1 / SLEEP


@pytest.mark.slow
def test_a_model_that_it_lacks_is_named(server: triton.Triton) -> None:
    done = ask(server, "--name", "nope")
    assert done.returncode == 1
    assert "has no model 'nope'" in done.stderr
    assert "run.sh" not in done.stderr
