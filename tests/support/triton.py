"""A real Triton: the server inside the wheel of nvidia-pytriton, in an environment of its own.

It holds the core and the Python backend, nothing for GPUs or other runtimes. Its stub needs
NumPy 1 and ignores ``PYTHONPATH``, so a model's packages are those of that environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import environments
from tests.support.servers import free_ports

WHEEL = "nvidia-pytriton==0.7.0"
PACKAGES = ("numpy==1.26.4",)
HANDLERS = (
    *PACKAGES, "opencv-python-headless==4.11.0.86", "pillow", "onnxruntime", "nibabel", "isal",
)  # fmt: skip
"""What an archive for ONNX Runtime needs."""

LONGEST_START = 60.0
"""Seconds."""


STAND_IN = """
import json, os
import numpy as np
import onnxruntime
import triton_python_backend_utils as backend
class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.outputs = [o["name"] for o in config["output"]]
        self.inputs = [i["name"] for i in config["input"]]
        self.most = config["max_batch_size"]
        file = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    def execute(self, requests):
        answers = []
        for r in requests:
            feed = {n: backend.get_input_tensor_by_name(r, n).as_numpy() for n in self.inputs}
            found = self.session.run(self.outputs, feed)
            tensors = [backend.Tensor(n, v) for n, v in zip(self.outputs, found)]
            answers.append(backend.InferenceResponse(tensors))
        return answers
"""
"""Runs an ONNX file where Triton's own backend for it is not there."""


def stand_in(model: Path) -> None:
    """Gives a model for Triton's ONNX Runtime to the Python backend."""
    config = model / "config.pbtxt"
    told = config.read_text()
    assert 'backend: "onnxruntime"' in told
    config.write_text(told.replace('backend: "onnxruntime"', 'backend: "python"'))
    (model / "1" / "model.py").write_text(STAND_IN)


@dataclass(frozen=True)
class Triton:
    """A running server's addresses."""

    port: int
    grpc_port: int
    metrics_port: int

    @property
    def urls(self) -> dict[str, str]:
        """Address by protocol."""
        return {"http": f"127.0.0.1:{self.port}", "grpc": f"127.0.0.1:{self.grpc_port}"}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def installed() -> Path:
    """The folder with the server, made where it is not there; else skips."""
    if sys.version_info >= (3, 13):
        pytest.skip("Triton: nvidia-pytriton's stubs and NumPy 1.26 end before Python 3.13")
    python = sysconfig.get_python_version()
    folder = Path(tempfile.gettempdir()) / f"kit-triton-{os.getuid()}-{python}"
    if (folder / "ready").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    fetched = subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(folder), WHEEL],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if fetched.returncode:
        pytest.skip(f"Triton: {WHEEL} is not to be had: {fetched.stderr.strip().splitlines()[-1]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
    wheel.unlink()
    home = folder / "pytriton" / "tritonserver"
    stub = home / "python_backend_stubs" / python
    shutil.copy(stub / "triton_python_backend_stub", home / "backends" / "python")
    for program in (home / "bin" / "tritonserver", *(home / "backends" / "python").iterdir()):
        program.chmod(0o755)
    (folder / "ready").touch()
    return folder


@contextmanager
def serving(repository: Path, packages: Sequence[str] = PACKAGES) -> Iterator[Triton]:
    """Serves a model repository with these packages; ends the server afterwards."""
    folder, venv = installed(), environments.made("triton", packages)
    home = folder / "pytriton" / "tritonserver"
    libraries = (folder / "nvidia_pytriton.libs", home / "lib", sysconfig.get_config_var("LIBDIR"))
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "VIRTUAL_ENV": str(venv),
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
    }
    port, grpc_port = free_ports()
    triton = Triton(port, grpc_port, metrics_port=port + 1)
    log = repository.with_name(f"{repository.name}.log")
    command = [
        str(home / "bin" / "tritonserver"), f"--model-repository={repository}",
        f"--backend-directory={home / 'backends'}",
        *(f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")),
        f"--http-port={triton.port}", f"--grpc-port={triton.grpc_port}",
        f"--metrics-port={triton.metrics_port}",
    ]  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        wait_ready(process, triton, log)
        yield triton
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()


def wait_ready(process: subprocess.Popen[bytes], triton: Triton, log: Path) -> None:
    """Returns when it is ready; fails with the end of its log where it ends or takes too long."""
    end = time.monotonic() + LONGEST_START
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"{triton.url}/v2/health/ready", timeout=2):
            return
        time.sleep(0.2)
    pytest.fail(f"Triton did not start: {log.read_text()[-2000:]}")
