"""Tests on a real NVIDIA GPU; skipped, with the reason, where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support import built

FLAGS = ["--trt", "1", "--precision", "f16", "--level", "0", "--batch", "1,4", "--imgsz", "320"]
HERE = Path(__file__).parent
QUIET = (
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning:torch",
    "ignore::UserWarning:tensorrt",
    "ignore::UserWarning:onnxruntime",
)
"""Other people's warnings: these versions are not the ones that the other tests are pinned to."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks this folder's tests."""
    for item in items:
        if HERE in item.path.parents:
            for line in QUIET:
                item.add_marker(pytest.mark.filterwarnings(line))


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    """Skips where TensorRT or the GPU is missing."""
    if find_spec("tensorrt") is None:
        pytest.skip("tensorrt is not installed")
    import torch

    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} sees no NVIDIA GPU")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where engines are kept: ``KIT_TEST_ENGINES`` from run to run, else a folder of this one."""
    given = os.environ.get("KIT_TEST_ENGINES")
    return Path(given) if given else tmp_path_factory.mktemp("engines")


@dataclass(frozen=True)
class Started:
    """What is being built while the first tests run."""

    engines: list[subprocess.Popen[bytes]]
    detector: subprocess.Popen[bytes]
    store: Path
    said: Path


@pytest.fixture(scope="session")
def started(gpu: None, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """All engines at once: a build uses a few cores for half a minute."""
    store = tmp_path_factory.mktemp("store")
    command = [sys.executable, str(built.ROOT / "repack" / "model_repack.py"), *FLAGS]
    command += ["--samples", str(built.PICTURES), "--engine-cache", str(cache)]
    said = store / "said.txt"
    with said.open("wb") as out:
        detector = subprocess.Popen(
            [*command, "--model-store", str(store)], cwd=store, stdout=out, stderr=out
        )
    found = Started(built.start(cache), detector, store, said)
    yield found
    for process in (*found.engines, found.detector):
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture(scope="session")
def engines(started: Started, cache: Path) -> Path:
    """The engine cache, with the engines that the tests share."""
    for process in started.engines:
        process.wait()
    return cache


@pytest.fixture(scope="session")
def packed(started: Started) -> Path:
    """The shipped detector's archive, made by the command line."""
    code = started.detector.wait()
    said = started.said.read_text()
    assert code == 0, said
    assert said.splitlines()[-1] == str(started.store / "fd1.mar")
    return started.store / "fd1.mar"
