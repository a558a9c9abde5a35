"""Tests on a real NVIDIA GPU; skipped, with the reason, where there is none."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

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
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where engines are kept: ``KIT_TEST_ENGINES`` from run to run, else a folder of this one."""
    given = os.environ.get("KIT_TEST_ENGINES")
    return Path(given) if given else tmp_path_factory.mktemp("engines")
